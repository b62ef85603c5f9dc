"""What forms share: a reason, the numbers that were chosen, and the page that says what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import Form, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from treazure_pipeline.console.pages import page

MOST = 200
"""The most rows on a page, and in a form."""
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), Form()]
Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
Numbers = Annotated[list[Number], Form(min_length=1, max_length=MOST)]


def decided(request: Request, title: str, numbers: Sequence[int], one: Callable[[int], bool], *, back: str) -> Response:
    """Do `one` for each of the numbers, and say for which it worked and for which it did not."""
    changed = [number for number in dict.fromkeys(numbers) if one(number)]
    unchanged = [number for number in dict.fromkeys(numbers) if number not in changed]
    return page(request, "decided.html", title=title, changed=changed, unchanged=unchanged, back=back)
