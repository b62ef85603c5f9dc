"""``worker``: processes adjustments as they arrive, for when Dagster's runs take too long to start."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

import click

from treazure_pipeline.errors import PipelineError, SettingsError
from treazure_pipeline.terminal import instance, output
from treazure_pipeline.terminal.signals import Deferred

if TYPE_CHECKING:
    from treazure_pipeline.connections import Connections

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.2
LINGER_SECONDS = 1.0
WAIT_AFTER_FAILURE_SECONDS = 10.0


@click.command("worker")
def command() -> None:
    """Process adjustments as they arrive, until stopped. Dagster is not needed.

    Any number of workers may run, on any hosts, also beside the sensor's job. Each adjustment still counts once.
    """
    from treazure_pipeline.connections import Connections
    from treazure_pipeline.ledger.limiter import Priority
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    if settings.is_embedded:
        settings = settings.model_copy(update={"database_url": None})
        instance.prepare(settings)
    with Deferred() as signals, Connections(settings, Priority.ADJUSTMENT) as connections:
        output.say("Waiting for adjustments.")
        while not signals.stop.is_set():
            signals.stop.wait(_turn(connections))
    signals.require()


def _turn(connections: Connections) -> float:
    """Process what is due. Return how many seconds to wait before the next look."""
    from treazure_pipeline.adjustments import queue
    from treazure_pipeline.adjustments.processing import process, work_of

    settings = connections.settings
    try:
        if not queue.is_due(connections.ledger, lookup_wait=settings.treazure_lookup_wait_seconds):
            return LOOK_EVERY_SECONDS
        run_id = f"worker-{uuid.uuid4().hex[:12]}"
        done = process(work_of(connections, settings.programmes, run_id, linger=LINGER_SECONDS))
    except SettingsError:
        raise
    except PipelineError as error:
        # What could not be done is due again later, when the database or the system is back.
        logger.warning("%s", error)
        return WAIT_AFTER_FAILURE_SECONDS
    logger.info("%d posted, %d done, %d rejected, %d uncertain", done.posted, done.done, done.rejected, done.uncertain)
    if done.error is not None:
        logger.warning("%s", done.error)
        return WAIT_AFTER_FAILURE_SECONDS
    return 0.0
