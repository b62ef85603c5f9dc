"""Who decides something with a command, for the ledger's record."""

from __future__ import annotations

import getpass

from treazure_pipeline.errors import PipelineError
from treazure_pipeline.ledger.decisions import SOMEBODY


def named() -> str:
    """Return the session's user. Raises PipelineError if it has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise PipelineError("This session has no user name.", hint="Say who approves with --by NAME.") from None


def known() -> str:
    """Return the session's user, or a placeholder if its name is not known."""
    try:
        return named()
    except PipelineError:
        return SOMEBODY
