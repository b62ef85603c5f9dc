"""How pages are made: templates that escape everything, and their few filters."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from treazure_pipeline import people, phrases
from treazure_pipeline.console.access import form_token

ABSENT = "—"


def page(request: Request, template: str, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    """Return a page. Besides its values, a template has `visitor` (None if nobody has signed in) and `form_token`."""
    text = (
        _templates()
        .get_template(template)
        .render(
            values,
            visitor=getattr(request.state, "visitor", None),
            form_token=form_token(request),
            here=request.url.path,
            signs_out=request.app.state.signs_out,
        )
    )
    return HTMLResponse(text, status)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("treazure_pipeline.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=phrases.change, utc=utc, age=age, public=people.public)
    return environment


def _printable(value: Any) -> Any:
    """Show characters that would move, hide or reverse others as �, in everything a template shows."""
    return people.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: Decimal | int | None) -> str:
    """Write a number exactly, with commas between thousands."""
    return ABSENT if value is None else phrases.points(value)


def utc(moment: datetime | None, never: str = ABSENT) -> str | Markup:
    """Write a time, readable for people and for programs."""
    if moment is None:
        return never
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), f"{moment:%Y-%m-%d %H:%M} UTC")


def age(moment: datetime | None, now: datetime) -> str:
    """Write how long ago a moment was, in its largest unit."""
    if moment is None:
        return "never"
    passed = max(now - moment, timedelta(0))
    units = ((passed.days, "day"), (passed.seconds // 3600, "hour"), (passed.seconds // 60, "minute"))
    count, unit = next(((count, unit) for count, unit in units if count), (0, "minute"))
    return f"{count} {unit}{'' if count == 1 else 's'} ago" if count else "just now"
