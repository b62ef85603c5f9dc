"""Waits for a Treazure export: not ready, failed, gone, or there, perhaps after a redirect to a storage host.

Sources: docs.treazure.cloud ("Long Running Operation" of Coupon/Batch). docs/contracts.md says what is assumed.
"""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from treazure_pipeline.clients import wire
from treazure_pipeline.clients.answers import Answer, read, retry_after_seconds, unusable
from treazure_pipeline.clients.pacing import RetryPolicy, jittered
from treazure_pipeline.clients.transport import Http
from treazure_pipeline.errors import (
    ExportExpiredError,
    InvalidAnswerError,
    NotFoundError,
    PermanentError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from treazure_pipeline.clients.pacing import Pacer

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 30 * 60.0
SHORTEST_PATIENCE_SECONDS = 10.0
WRONG_PATH_SECONDS = 5 * 60.0
SHORTEST_WRONG_PATH_SECONDS = 2.0
FIRST_POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0
SHORTEST_POLL_SECONDS = 0.02
_MOST_REDIRECTS = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LARGEST_STATUS_BYTES = 256 * 1024
_LINK_IS_OVER = frozenset({401, 403, 410})
"""What a storage host answers when a link has expired. Then Treazure is asked for a new one."""

Opened = tuple[Answer, "Iterator[bytes]"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An answer at an export's address. `pieces`: the data, if they are ready."""

    answer: Answer
    pieces: Iterator[bytes] | None = None


class Exports:
    """The results of exports. `look` opens a path of Treazure with a valid token, within the rate."""

    def __init__(self, http: Http, look: Callable[[str, ExitStack], Opened], retry: RetryPolicy, pacer: Pacer) -> None:
        self._http = http
        self._look = look
        self._retry = retry
        self._pacer = pacer

    @contextmanager
    def open(self, href: str) -> Iterator[Iterator[bytes]]:
        """Wait until an export is ready, then yield its body in pieces; see `TreazureClient.open_balances`."""
        path = wire.result_path(self._http.local_path(href, "GET", wire.EXPORT_RESULT))
        began = time.monotonic()
        never_found = True
        for polls in itertools.count(1):
            with ExitStack() as stack:
                seen = self._retry.call(lambda: self._see(path, stack), pacer=self._pacer)
                if seen.pieces is not None:
                    try:
                        yield seen.pieces
                    except InvalidAnswerError as error:
                        error.call = seen.answer.call  # the reader of the rows does not know the answer
                        raise
                    return
            never_found = never_found and seen.answer.status == 404
            self._wait(seen.answer, polls, time.monotonic() - began, never_found=never_found)

    def _see(self, path: str, stack: ExitStack) -> _Seen:
        """Look at the export's address once, follow redirects, and return what is there.

        No credentials go to another host, nor to wherever it redirects.
        """
        answer, pieces = self._look(path, stack)
        url, is_home = f"{self._http.base_url}{path}", True
        for _ in range(_MOST_REDIRECTS):
            target = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not target:
                break
            url = urljoin(url, target.strip())
            is_home = is_home and self._http.is_own(url)
            if is_home:
                answer, pieces = self._look(self._http.local_path(url, "GET", answer.path), stack)
            else:
                storage, rest = self._http.elsewhere(url, answer)
                stack.callback(storage.close)
                answer, pieces = stack.enter_context(storage.stream(rest))
        if answer.status in _LINK_IS_OVER and not is_home:
            raise TransientError(
                "the storage host does not take the link that Treazure gave.",
                answer.call,
                hint="Treazure will be asked for a new link.",
            )
        if answer.status == wire.EXPIRED:
            raise self._gone(answer)
        return self._judged(answer, pieces)

    def _judged(self, answer: Answer, pieces: Iterator[bytes]) -> _Seen:
        if answer.status == 200:
            return self._begun(answer, pieces)
        if answer.status not in wire.NOT_READY:
            raise self._http.failure(answer)
        self._require_hope(answer)
        return _Seen(answer)

    def _begun(self, answer: Answer, pieces: Iterator[bytes]) -> _Seen:
        """Decide by the start of a body whether it is the array, a status, or not ready."""
        head = b""
        for piece in pieces:
            head += piece
            if _start(head):
                break
        if not _start(head):
            return _Seen(answer)
        if _start(head) == b"[":
            return _Seen(answer, itertools.chain([head], pieces))
        for piece in pieces:
            head += piece
            if len(head) > _LARGEST_STATUS_BYTES:
                break
        whole = replace(answer, body=head.removeprefix(wire.BOM))
        if not self._require_hope(whole):
            raise unusable(whole, "it is neither a JSON array of balances nor a status")
        return _Seen(answer)

    def _require_hope(self, answer: Answer) -> bool:
        """Return whether an answer names a status. Raises if the status is a failure."""
        status = read(answer, wire.read_export_status)
        if status is None:
            return False
        if status.is_gone:
            raise self._gone(answer)
        if status.has_failed:
            raise PermanentError(
                f"the export has failed: {status.name}{f', {status.reason}' if status.reason else ''}.",
                answer.call,
                hint="The next run requests a new one.",
            )
        return True

    def _gone(self, answer: Answer) -> ExportExpiredError:
        return ExportExpiredError("the export's result is gone.", answer.call, hint="A new export has to be requested.")

    def _wait(self, answer: Answer, polls: int, waited: float, *, never_found: bool) -> None:
        scale = self._retry.scale
        if never_found and waited > max(WRONG_PATH_SECONDS * scale, SHORTEST_WRONG_PATH_SECONDS):
            raise NotFoundError(
                f"the export's address has answered only 404 for {waited:,.0f} s, so the path must be wrong.",
                answer.call,
                hint="Ask Cow Hills where to fetch the result of Balances/Get.",
            )
        asked = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
        growing = min(FIRST_POLL_SECONDS * 2 ** min(polls - 1, 10), LONGEST_POLL_SECONDS) * scale
        wait = jittered(max(growing, SHORTEST_POLL_SECONDS)) if asked is None else max(asked, SHORTEST_POLL_SECONDS)
        logger.debug("The export is not ready; asked again in %.1f s", wait)
        patience = max(PATIENCE_SECONDS * scale, SHORTEST_PATIENCE_SECONDS)
        if waited + wait > patience or not self._retry.sleep(wait):
            raise TransientError(
                f"the export did not become ready in time (asked {polls} times in {waited:,.0f} s).",
                answer.call,
                hint="The next run requests a new one.",
            )


def _start(body: bytes) -> bytes:
    """Return the first byte after a BOM and white space; empty if there is none yet."""
    if len(body) < len(wire.BOM) and wire.BOM.startswith(body):
        return b""
    return body.removeprefix(wire.BOM).lstrip()[:1]
