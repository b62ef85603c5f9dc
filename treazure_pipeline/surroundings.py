"""Explains errors from the environment that can occur anywhere: the disk, file permissions, Dagster's storage.

The clients and the ledger explain their own errors (`treazure_pipeline.errors`).
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator

from treazure_pipeline.errors import DatabaseUnavailableError, PipelineError

_NO_ROOM = ("There is no room left on the disk", "Make room, and try again; nothing is lost.")
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
    """Return an error for the operator; None if it is a bug of ours."""
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
    # Except for upgrades, the ledger does without SQLAlchemy. If it was not imported, the error can't be its own.
    if (alchemy := sys.modules.get("sqlalchemy")) is not None and isinstance(error, alchemy.exc.DBAPIError):
        return dagster_unavailable(error.orig or error)
    if isinstance(error, OSError) and error.errno in _KNOWN:
        what, hint = _KNOWN[error.errno]
        return PipelineError(f"{what} ({error.filename})." if error.filename else f"{what}.", hint=hint)
    if isinstance(error, MemoryError):
        return PipelineError("There is not enough memory.", hint="Give the process more memory.")
    return None


def dagster_unavailable(reason: BaseException | str) -> DatabaseUnavailableError:
    """Return the error for when Dagster's storage can't be used."""
    return DatabaseUnavailableError(
        f"Dagster's storage can't be used: {' '.join(str(reason).split()).rstrip('.')}.",
        hint="Run `treazure-pipeline db upgrade`, or check DAGSTER_POSTGRES_URL and the rights of its role.",
    )
