"""Whether a 404 is about the one that was asked for, or about everything (I4, I6: a failed read is no empty result).

A gateway, a deployment under way or a wrong address answers 404 whatever is asked. So a 404 counts as "there is none"
only where the system answers the same question about somebody else, and says 404 again afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treazure_pipeline.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def nobody() -> list[str]:
    """Return no witness: every 404 stays undecided."""
    return []


def is_about_one(read: Callable[[str], object], asked: str, witnesses: Callable[[], Iterable[str]]) -> bool:
    """Tell whether a 404 that `read(asked)` has met is about `asked`.

    `witnesses` are contacts that the system should know; one that is answered is enough. Raises what `read` raises,
    but for a 404.
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
