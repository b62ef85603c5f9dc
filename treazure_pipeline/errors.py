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
       │  ├─ TooLateError
       │  ├─ NoAnswerError
       │  └─ RateLimitedError
       ├─ PermanentError
       │  ├─ AuthenticationError
       │  ├─ NotFoundError
       │  ├─ GatewayError
       │  └─ ExportExpiredError
       └─ InvalidAnswerError

`str(error)` is one complete paragraph for a person, hint included. It never contains a secret, nor what others wrote
(`people.said`): that is only in `message`, for the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from treazure_pipeline import people

System = Literal["treazure", "engage"]

_NAMES: dict[System, str] = {"treazure": "Treazure", "engage": "Engage"}


class PipelineError(Exception):
    """The root. `hint` says what a person can do; `exit_code` is the command's exit code."""

    exit_code: ClassVar[int] = 5

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return people.public(f"{self.message} {self.hint}" if self.hint else self.message)


class SettingsError(PipelineError):
    """A setting is missing or wrong. Raised before any work begins."""

    exit_code = 2


class UnknownPartitionError(SettingsError):
    """A run was asked for a part that does not exist."""


class BusyError(PipelineError):
    """Another run of the programme holds its lock."""

    exit_code = 4


class GuardTrippedError(PipelineError):
    """A push would change suspiciously much; it waits as the plan `digest` until a person approves it."""

    exit_code = 3

    def __init__(self, message: str, *, digest: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.digest = digest


class DatabaseError(PipelineError):
    """The ledger could not be used."""


class DatabaseUnavailableError(DatabaseError):
    """PostgreSQL is down, full or not reachable."""


class ConflictError(DatabaseError):
    """Two transactions collided: a deadlock, a serialization failure, the same new row. Another try succeeds."""


class LeaseLostError(DatabaseError):
    """Another process has taken over the work: this one was stopped, or could not reach the database, for too long."""


class SchemaOutdatedError(DatabaseError):
    """The ledger's tables are older, or newer, than this version of the product."""


class ClocksApartError(PipelineError):
    """The database's clock and Treazure's differ by more than the windows of exports allow; nothing was fetched."""


class UntrustedExportError(PipelineError):
    """Too many of an export's rows can't be understood, so none of it was used, and it covers nothing."""


class RunIncompleteError(PipelineError):
    """A run could not finish. What was accepted until then is recorded, and the next run continues."""


class RateUsedUpError(PipelineError):
    """Others are using up the shared rate, or a system has asked for a pause; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, as errors describe it.

    `path` has no query, `status` is None if no answer arrived, and `request_id` is the system's id of the request, for
    its support.
    """

    system: System
    method: str
    path: str
    status: int | None = None
    request_id: str | None = None


class RemoteError(PipelineError):
    """A call to one of the two systems failed; `clients.outcome` decides what that means."""

    def __init__(self, message: str, call: Call, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.call = call

    @property
    def system(self) -> System:
        """Which of the two systems it was."""
        return self.call.system

    @property
    def status(self) -> int | None:
        """The status of the answer, or None if there was none."""
        return self.call.status

    @property
    def request_id(self) -> str | None:
        """The system's id of the request."""
        return self.call.request_id

    def __str__(self) -> str:
        call = self.call
        facts = [f"status {call.status}"] if call.status is not None else []
        facts += [f"request id {call.request_id}"] if call.request_id else []
        where = f"{_NAMES[call.system]}, {call.method} {call.path}"
        return f"{where} ({', '.join(facts)}): {super().__str__()}" if facts else f"{where}: {super().__str__()}"


class TransientError(RemoteError):
    """Worth trying again: 408, 409, 423, 425, 5xx, no connection, no answer.

    `retry_after` is what the system asked for, in seconds; `sent`: whether any of the request went out.
    """

    def __init__(
        self, message: str, call: Call, *, hint: str | None = None, retry_after: float | None = None, sent: bool = True
    ) -> None:
        super().__init__(message, call, hint=hint)
        self.retry_after = retry_after
        self.sent = sent


class TooLateError(TransientError):
    """Its time ran out before it could be sent, so it was not sent."""

    def __init__(self, call: Call) -> None:
        super().__init__(
            "its time ran out before it could be sent, so it was not sent.",
            call,
            hint="It will be sent again. If this keeps happening, lower the number of threads.",
            sent=False,
        )


class NoAnswerError(TransientError):
    """The request went out and no complete answer came back; `timed_out`: not in time."""

    def __init__(self, message: str, call: Call, *, hint: str | None = None, timed_out: bool = False) -> None:
        super().__init__(message, call, hint=hint)
        self.timed_out = timed_out


class RateLimitedError(TransientError):
    """429: the request was not processed. Waiting for the next try does not count as a try."""


class PermanentError(RemoteError):
    """The system refused the request, and would refuse it again."""


class AuthenticationError(PermanentError):
    """The credentials, or a token just fetched with them, are not accepted."""


class NotFoundError(PermanentError):
    """404 from the system itself: it does not know what the path names. The caller decides what that means."""


class GatewayError(PermanentError):
    """A refusal in the form of a web page, from something in front of the system. No row or account is to blame."""


class ExportExpiredError(PermanentError):
    """The export's result is gone (410); a new export has to be requested."""


class InvalidAnswerError(RemoteError):
    """A successful status with a body that breaks the contract: HTML, cut short, empty, parts missing."""
