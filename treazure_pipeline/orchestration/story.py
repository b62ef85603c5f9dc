"""What a run says about itself in Dagster: a sentence for each step, and tags that say who asked for what.

The sentence is a line in the run's log and the first entry in the step's metadata, because Dagster has no description
for the materialization of an asset that returns its result. What it says is a property of each capability's report, and
the commands print the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from types import MappingProxyType
from typing import Any

import dagster as dg

from treazure_pipeline.connections import Listener
from treazure_pipeline.ledger.coverage import Window
from treazure_pipeline.orchestration import failures
from treazure_pipeline.orchestration.names import OF_RUNS

SUMMARY = "about"
"""The metadata key of the sentence. The UI sorts keys by name, so it comes first."""

STARTED_FROM = "treazure_pipeline/started_from"
STARTED_BY = "treazure_pipeline/started_by"
WINDOW = "treazure_pipeline/window"
FULL_RESYNC = "treazure_pipeline/full_resync"

_LAUNCHED_BY = {"dagster/schedule_name": "schedule", "dagster/sensor_name": "sensor", "dagster/backfill": "backfill"}


@contextmanager
def step(context: dg.OpExecutionContext | dg.AssetExecutionContext, listener: Listener) -> Iterator[None]:
    """Tag the run with where it was started from, and show an error within the block as the run's failure."""
    tag(context)
    with failures.shown(listener):
        yield


def told(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, listener: Listener, sentence: str
) -> dict[str, Any]:
    """Write the sentence to the run's log, tell the listener, and return it as metadata."""
    context.log.info(sentence)
    listener.told(sentence)
    return {SUMMARY: sentence}


def window(fetched: Window) -> dict[str, str]:
    """Return the tags for the window of mutation times that a run fetches: an ISO 8601 interval in UTC."""
    start, end = (f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}" for moment in (fetched.start, fetched.end))
    return {WINDOW: f"{start}/{end}", FULL_RESYNC: "yes" if fetched.is_full else "no"}


def tag(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Tag the run with where it was started from, and with `more`.

    A run that somebody started from an asset's page has no job of ours, and its tags only here: those of the asset.
    """
    given = context.run.tags
    asset = getattr(context, "op_execution_context", context).op
    tags = {name: value for name, value in asset.tags.items() if name in OF_RUNS and name not in given} | dict(more)
    if STARTED_FROM not in given:
        found = [f"{what} {given[name]}" for name, what in _LAUNCHED_BY.items() if name in given]
        tags[STARTED_FROM] = found[0] if found else "Dagster's UI"
    if tags:
        context.instance.add_run_tags(context.run.run_id, tags)
