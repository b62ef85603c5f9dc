"""A person's decisions about adjustments and dead letters, made in Dagster's launchpad: try again, or give up."""

from functools import partial

import dagster as dg
from pydantic import Field

from treazure_pipeline.adjustments import dead_letters, queue
from treazure_pipeline.connections import Connections
from treazure_pipeline.orchestration.decisions import Numbered, decision, each
from treazure_pipeline.orchestration.names import Names


class Discarded(Numbered):
    """Which adjustments, and whether Treazure has them."""

    posted: bool = Field(
        default=False, description="They are in Treazure already: nothing more is posted, and their balance is sent."
    )


def build_decisions(names: Names) -> list[dg.JobDefinition]:
    """Assemble the jobs."""
    return [
        decision(names, one)
        for one in (retry_adjustments, discard_adjustments, retry_dead_letters, discard_dead_letters)
    ]


def retry_adjustments(connections: Connections, config: Numbered) -> str:
    """Sends rejected or uncertain adjustments to Treazure again. One that is there already would count twice, so look first."""
    retry = partial(queue.retry, connections.ledger, by=config.decided_by, why=config.reason)
    return each(config.numbers, retry, "sent to Treazure again")


def discard_adjustments(connections: Connections, config: Discarded) -> str:
    """Gives up adjustments that are not under way, or records that uncertain ones are in Treazure."""
    discard = partial(
        queue.discard, connections.ledger, reason=config.reason, posted=config.posted, by=config.decided_by
    )
    return each(config.numbers, discard, "counted as posted" if config.posted else "discarded")


def retry_dead_letters(connections: Connections, config: Numbered) -> str:
    """Reads deliveries again that could not be read, and queues what they ask for."""
    again = partial(dead_letters.read_again, connections.ledger, by=config.decided_by, why=config.reason)
    return each(config.numbers, again, "read again")


def discard_dead_letters(connections: Connections, config: Numbered) -> str:
    """Records that nothing more is to be done about deliveries that could not be read. They are kept."""
    settle = partial(dead_letters.settle, connections.ledger, reason=config.reason, by=config.decided_by)
    return each(config.numbers, settle, "discarded")
