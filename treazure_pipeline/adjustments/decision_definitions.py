"""A person's decisions about adjustments and dead letters, made in Dagster's launchpad: try again, or give up."""

from functools import partial

import dagster as dg
from pydantic import Field

from treazure_pipeline.adjustments import dead_letters, queue
from treazure_pipeline.connections import Connections
from treazure_pipeline.orchestration.decisions import Decided, decision, each
from treazure_pipeline.orchestration.names import Names


class Adjustments(Decided):
    """Which adjustments, by the numbers that `adjustments list` and the console show."""

    numbers: list[int] = Field(description="The adjustments' numbers.", min_length=1)


class Discarded(Adjustments):
    """Which adjustments, and whether Treazure has them."""

    posted: bool = Field(
        default=False, description="They are in Treazure already: nothing more is posted, and their balance is sent."
    )


class DeadLetters(Decided):
    """Which dead letters, by the numbers that `adjustments list` and the console show."""

    numbers: list[int] = Field(description="The dead letters' numbers.", min_length=1)


def build_decisions(names: Names) -> list[dg.JobDefinition]:
    """Assemble the jobs."""
    return [
        decision(
            names, "retry_adjustments", Adjustments, _retry,
            description="Sends rejected or uncertain adjustments to Treazure again. One that is there already would count twice, so look first.",
        ),
        decision(
            names, "discard_adjustments", Discarded, _discard,
            description="Gives up adjustments that are not under way, or records that uncertain ones are in Treazure.",
        ),
        decision(
            names, "retry_dead_letters", DeadLetters, _read_again,
            description="Reads deliveries again that could not be read, and queues what they ask for.",
        ),
        decision(
            names, "discard_dead_letters", DeadLetters, _settle,
            description="Records that nothing more is to be done about deliveries that could not be read. They are kept.",
        ),
    ]  # fmt: skip


def _retry(connections: Connections, config: Adjustments) -> str:
    retry = partial(queue.retry, connections.ledger, by=config.decided_by, why=config.reason)
    return each(config.numbers, retry, "sent to Treazure again")


def _discard(connections: Connections, config: Discarded) -> str:
    return each(
        config.numbers,
        lambda number: queue.discard(
            connections.ledger, number, config.reason, posted=config.posted, by=config.decided_by
        ),
        "counted as posted" if config.posted else "discarded",
    )


def _read_again(connections: Connections, config: DeadLetters) -> str:
    again = partial(dead_letters.read_again, connections.ledger, by=config.decided_by, why=config.reason)
    return each(config.numbers, again, "read again")


def _settle(connections: Connections, config: DeadLetters) -> str:
    return each(
        config.numbers,
        lambda number: dead_letters.settle(connections.ledger, number, config.reason, by=config.decided_by),
        "discarded",
    )
