"""Whether a 404 is about one contact or about everything (I4, I6: a failed read is not an empty result).

A gateway, a deployment under way or a wrong address answers 404 to everything. So a 404 only counts as "there is none"
if the system answers the same question about somebody else, and then says 404 again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treazure_pipeline.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def nobody() -> list[str]:
    """Return no witnesses, so that every 404 stays undecided."""
    return []


def is_about_one(read: Callable[[str], object], asked: str, witnesses: Callable[[], Iterable[str]]) -> bool:
    """Return whether a 404 that `read(asked)` got is about `asked`.

    `witnesses` are contacts that the system should know; it is enough if it knows one of them. Raises what `read`
    raises, except for a 404.
    """
    for other in witnesses():
        if other.lower() != asked.lower() and _is_found(read, other):
            return not _is_found(read, asked)
    return False


def _is_found(read: Callable[[str], object], asked: str) -> bool:
    try:
        read(asked)
    except NotFoundError:
        return False
    return True
