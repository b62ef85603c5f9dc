"""Turns an error into the failure of a Dagster run. What errors say is in `treazure_pipeline.errors`."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from treazure_pipeline.connections import Listener
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.surroundings import understood


def failure(error: PipelineError, sentence: str | None = None, **shown: Any) -> dg.Failure:
    """Return one of our errors as the step's failure: first the sentence, then what to do."""
    said = str(error) if sentence is None else f"{sentence}. {error}"
    return dg.Failure(said, metadata={"error": type(error).__name__, **shown}, allow_retries=False)


@contextmanager
def shown(listener: Listener) -> Iterator[None]:
    """Show an error within the block as the run's failure, which no retry policy repeats.

    For a bug, only its kind and place are shown, since its text might contain personal data.
    """
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:  # noqa: BLE001 - any error becomes the failure
        name = type(error).__name__
        if (ours := understood(error)) is not None:
            listener.failed(ours)
            raise failure(ours) from None
        where = "".join(traceback.format_tb(error.__traceback__))
        raise dg.Failure(
            f"Unexpected {name}; this is a bug in treazure-pipeline.",
            metadata={"error": name, "where": dg.MetadataValue.md(f"```\n{where}\n```")},
            allow_retries=False,
        ) from None
