"""Traces (OpenTelemetry) that follow one webhook, or one batch of a sync, from process to process.

If `OTEL_*` does not say where spans go, a span costs almost nothing. Attributes are numbers and ids: ours, and those by
which the vendors' support finds a request. They never contain a contact id, or anything a person wrote (I9).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Protocol

from treazure_pipeline import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

Value = str | int | None

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_MILLISECONDS = 5000
_PART_WITH_AN_ID = re.compile(r"(?<=/)(?!v\d+(?:\.\d+)*(?=/|$))[^/]*\d[^/]*")


class Span(Protocol):
    """Work that is under way."""

    def set(self, **attributes: Value) -> None:
        """Add attributes: `a_b` is written `treazure.a_b`; None adds nothing."""


class _Off:
    def set(self, **attributes: Value) -> None:
        """Do nothing."""


_OFF = _Off()


@contextmanager
def span(
    name: str,
    *,
    kind: str = "INTERNAL",
    after: str | None = None,
    beside: Iterable[str | None] = (),
    **attributes: Value,
) -> Iterator[Span]:
    """Record the block as a span; of an error that leaves it, only the type is recorded.

    `after` is the `here` of the span that caused it, in this process or another; by default, the enclosing span in
    this thread. `beside` are others that it serves as well. Attributes are as in `Span.set`.
    """
    spans_go_to = provider()
    if spans_go_to is None:
        yield _OFF
        return
    from opentelemetry import trace  # noqa: PLC0415 - an optional extra

    links = [trace.Link(trace.get_current_span(_context(other)).get_span_context()) for other in beside if other]
    tracer = spans_go_to.get_tracer("treazure_pipeline", __version__)
    with tracer.start_as_current_span(
        name,
        context=_context(after) if after else None,
        kind=trace.SpanKind[kind],
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as started:
        on = _On(started)
        on.set(**attributes)
        try:
            yield on
        except BaseException as error:
            on.set(error=type(error).__name__)
            started.set_status(trace.Status(trace.StatusCode.ERROR))
            raise


def here() -> str | None:
    """Return the current span as a W3C `traceparent`, to pass on to others; None if traces are off."""
    if provider() is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def flush() -> None:
    """Send what has been recorded, before a signal ends the process."""
    spans_go_to = provider()
    if spans_go_to is not None:
        spans_go_to.force_flush(_FLUSH_MILLISECONDS)


def template(path: str) -> str:
    """Return a path without the ids in it."""
    return _PART_WITH_AN_ID.sub("{id}", path)


class _On:
    def __init__(self, started: object) -> None:
        self._started = started

    def set(self, **attributes: Value) -> None:
        given = {f"treazure.{name}": value for name, value in attributes.items() if value is not None}
        self._started.set_attributes(given)  # type: ignore[attr-defined]


def _context(traceparent: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _is_asked_for(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").lower()
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in _ENDPOINTS))


@cache
def provider() -> TracerProvider | None:
    """Return where spans go, made once per process; None: nowhere."""
    if not _is_asked_for(os.environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        logger.warning("OTEL_* asks for traces, which need an extra: pip install 'treazure-pipeline[telemetry]'.")
        return None
    attributes = {"service.version": __version__}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = "treazure-pipeline"
    made = TracerProvider(resource=Resource.create(attributes))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made
