"""Errors of what the product runs on, in a sentence: the disk, rights on files, Dagster's storage.

What clients and ledger meet they name themselves (`treazure_pipeline.errors`); this is for what can come from anywhere.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator

from treazure_pipeline.errors import DatabaseUnavailableError, PipelineError

_NO_ROOM = ("There is no room left on the disk", "Make room, and do it again; nothing is lost.")
_NO_RIGHT = ("This user may not do that with a file", "Give it the right, or choose another folder.")
_TOO_MANY = ("The system gives this process no more files or connections", "Raise its limit (ulimit -n).")
_KNOWN = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EROFS: ("The disk can only be read", "Choose another folder."),
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EIO: ("The disk can't be read or written", "Look at the system's log."),
}


def understood(error: BaseException) -> PipelineError | None:
    """Return what an error says for the operator, None where it is a mistake of ours."""
    return next((ours for each in _causes(error) if (ours := _named(each)) is not None), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    while True:
        yield error
        if error.__cause__ is None:
            return
        error = error.__cause__


def _named(error: BaseException) -> PipelineError | None:
    if isinstance(error, PipelineError):
        return error
    # The ledger goes without SQLAlchemy, but for its upgrade; where nobody has imported it, the error is not its own.
    if (alchemy := sys.modules.get("sqlalchemy")) is not None and isinstance(error, alchemy.exc.DBAPIError):
        return dagster_unavailable(error.orig or error)
    if isinstance(error, OSError) and error.errno in _KNOWN:
        what, hint = _KNOWN[error.errno]
        return PipelineError(f"{what} ({error.filename})." if error.filename else f"{what}.", hint=hint)
    if isinstance(error, MemoryError):
        return PipelineError("There is not enough memory.", hint="Give the process more memory.")
    return None


def dagster_unavailable(reason: BaseException | str) -> DatabaseUnavailableError:
    """Return the error of Dagster's storage that can't be used."""
    return DatabaseUnavailableError(
        f"Dagster's storage can't be used: {' '.join(str(reason).split()).rstrip('.')}.",
        hint="Run `treazure-pipeline db upgrade`, or check DAGSTER_POSTGRES_URL and the rights of its role.",
    )
