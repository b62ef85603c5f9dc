"""Everything the product raises on purpose.

::

    PipelineError
    ├─ SettingsError
    ├─ BusyError
    ├─ GuardTrippedError
    ├─ DatabaseError
    │  ├─ DatabaseUnavailableError
    │  ├─ ConflictError
    │  ├─ LeaseLostError
    │  └─ SchemaOutdatedError
    ├─ ClocksApartError
    ├─ UntrustedExportError
    ├─ RunIncompleteError
    ├─ RateUsedUpError
    └─ RemoteError
       ├─ TransientError
       │  ├─ NoAnswerError
       │  └─ RateLimitedError
       ├─ PermanentError
       │  ├─ AuthenticationError
       │  ├─ NotFoundError
       │  ├─ GatewayError
       │  └─ ExportExpiredError
       └─ InvalidAnswerError

`str(error)` is one complete paragraph for a person, hint included. No secret is ever part of one, nor what others wrote
(`people.said`): that stands in `message` alone, for the ledger.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from treazure_pipeline import people

System = Literal["treazure", "engage"]

_NAMES: dict[System, str] = {"treazure": "Treazure", "engage": "Engage"}


class PipelineError(Exception):
    """The root. `hint` says what a person can do; `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = 5

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return people.public(f"{self.message} {self.hint}" if self.hint else self.message)


class SettingsError(PipelineError):
    """A setting is missing or wrong; found before any work."""

    exit_code = 2


class BusyError(PipelineError):
    """Another run of the programme holds its lock."""

    exit_code = 4


class GuardTrippedError(PipelineError):
    """A push would change suspiciously much; it waits as the plan `digest` until a person approves that."""

    exit_code = 3

    def __init__(self, message: str, *, digest: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.digest = digest


class DatabaseError(PipelineError):
    """The ledger could not be used."""


class DatabaseUnavailableError(DatabaseError):
    """PostgreSQL is down, full or not reachable."""


class ConflictError(DatabaseError):
    """Two transactions met: a deadlock, a serialisation failure, the same new row. Tried again, it passes."""


class LeaseLostError(DatabaseError):
    """Another process has taken over the work: this one stood still, or could not reach the database, for too long."""


class SchemaOutdatedError(DatabaseError):
    """The ledger's tables are older, or newer, than this version of the product."""


class ClocksApartError(PipelineError):
    """The database's clock and Treazure's differ by more than the windows of exports allow for; nothing was fetched."""


class UntrustedExportError(PipelineError):
    """Too many of an export's rows can't be understood: it covers nothing, and nothing of it was taken over."""


class RunIncompleteError(PipelineError):
    """A run could not finish. What was accepted until then is kept, and the next run goes on."""


class RateUsedUpError(PipelineError):
    """Others use the shared rate, or a pause that a system asked for goes on; nothing was sent."""


class RemoteError(PipelineError):
    """A call to one of the two systems failed.

    `path` comes without the query, `status` is None where no answer arrived, and `request_id` is what
    the system calls the request, for its support.
    """

    def __init__(
        self,
        message: str,
        *,
        system: System,
        method: str,
        path: str,
        status: int | None = None,
        request_id: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.system = system
        self.method = method
        self.path = path
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        facts = [f"status {self.status}"] if self.status is not None else []
        facts += [f"request id {self.request_id}"] if self.request_id else []
        call = f"{_NAMES[self.system]}, {self.method} {self.path}"
        return f"{call} ({', '.join(facts)}): {super().__str__()}" if facts else f"{call}: {super().__str__()}"


class TransientError(RemoteError):
    """Worth trying again: 408, 425, 5xx, no connection, no answer.

    `retry_after` is what the system asked for, in seconds. `effect_possible` is False only where the
    system cannot have acted on the request: it never got it, or said that it did not take it.
    """

    def __init__(
        self,
        message: str,
        *,
        system: System,
        method: str,
        path: str,
        status: int | None = None,
        request_id: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        effect_possible: bool = False,
    ) -> None:
        super().__init__(
            message, system=system, method=method, path=path, status=status, request_id=request_id, hint=hint
        )
        self.retry_after = retry_after
        self.effect_possible = effect_possible


class TooLateError(TransientError):
    """A request whose turn came after the time at which it still made sense: it was not sent."""


class NoAnswerError(TransientError):
    """The request went out and no complete answer came back: whether it had its effect is unknown."""


class RateLimitedError(TransientError):
    """429: the request was not taken. Waiting for the next try costs none of the tries."""


class PermanentError(RemoteError):
    """The system refused the request; the same request would be refused again."""


class AuthenticationError(PermanentError):
    """The credentials, or a token just fetched with them, are not accepted."""


class NotFoundError(PermanentError):
    """404 of the system itself: it does not know what the path names. Never an empty result: the caller decides."""


class GatewayError(PermanentError):
    """A refusal that is a web page: of something in front of the system. No row, account or request is to blame."""


class ExportExpiredError(PermanentError):
    """The export's result is gone (410); a new export has to be requested."""


class InvalidAnswerError(RemoteError):
    """A success whose body is not what the contract says: HTML, cut short, empty, parts missing."""
