"""``doctor --contract``: what we assume about both systems, what they answer, and whether we understand it.

Only the step with a test contact writes. The output has no secrets and no personal data, so it can be sent to the
vendors. docs/contracts.md says where each assumption comes from.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Literal

from treazure_pipeline.adjustments.evidence import returned
from treazure_pipeline.clients import wire
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.movements import Log
from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.clients.shapes import Recorder, Seen, fits, value_of, without_ids
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import NotFoundError, PipelineError
from treazure_pipeline.settings import Programme, Settings

Verdict = Literal["as assumed", "otherwise, understood", "not understood", "not observed"]

_WINDOWS = (timedelta(hours=2), timedelta(days=2), timedelta(days=60))
"""How far back the exports reach. They are tried in turn until one lists somebody."""
_TEST_POINTS = Decimal(1)
# 100 UTF-16 units, Treazure's maximum. The last two are one character.
_TEST_DESCRIPTION = (
    "treazure-pipeline: a test of its connection; taken back at once. ".ljust(98, ".") + "\N{WRAPPED PRESENT}"
)


@dataclass(frozen=True)
class Line:
    """One assumption about a system, and what was observed."""

    system: Literal["Treazure", "Engage"]
    about: str
    assumed: str
    observed: str
    verdict: Verdict


def observe(
    settings: Settings, programme: Programme, *, contact: str | None, test_contact: str | None
) -> Iterator[Line]:
    """Read from both systems and compare.

    `contact` is used if no export lists anybody; only `test_contact` is written to.
    """
    treazure_seen, engage_seen = Recorder(), Recorder()
    with clients(settings, treazure_seen, engage_seen) as (treazure, engage):
        of_treazure = _Treazure(treazure, treazure_seen, programme)
        yield from of_treazure.lines(contact or test_contact)
        yield from _Engage(engage, engage_seen, programme).lines(of_treazure.contact)
        if test_contact is not None:
            yield from _Trial(treazure, treazure_seen, programme, test_contact).lines()


@contextmanager
def clients(
    settings: Settings, treazure_seen: Recorder | None = None, engage_seen: Recorder | None = None
) -> Iterator[tuple[TreazureClient, EngageClient]]:
    """Yield clients of both systems that retry nothing and need no ledger."""
    once = RetryPolicy(waits=())
    with (
        TreazureClient(
            settings.treazure_base_url, settings.treazure_client_id, settings.treazure_client_secret,
            timeout=settings.treazure_timeout_seconds, retry=once, on_answer=treazure_seen,
        ) as treazure,
        EngageClient(
            settings.engage_base_url, settings.engage_api_key, api_version=settings.engage_api_version,
            timeout=settings.engage_timeout_seconds, retry=once, on_answer=engage_seen,
        ) as engage,
    ):  # fmt: skip
        yield treazure, engage


class _System:
    """Makes lines from calls of one client."""

    system: Literal["Treazure", "Engage"]

    def __init__(self, seen: Recorder, programme: Programme) -> None:
        self._seen = seen
        self._programme = programme

    def _line(self, about: str, assumed: str, observed: str, verdict: Verdict) -> Line:
        return Line(self.system, about, assumed, without_ids(observed), verdict)

    def _call(self, about: str, assumed: str, call: Callable[[], object], is_assumed: Callable[[Seen], bool]) -> Line:
        """Make a call, and compare the answer with what is assumed."""
        before = len(self._seen.seen)
        try:
            call()
        except PipelineError as error:
            answers = self._seen.seen[before:]
            observed = f"{_answer(answers[-1])}. {error}" if answers else str(error)
            return self._line(about, assumed, observed, "not understood")
        seen = self._seen.seen[-1]
        return self._line(about, assumed, _answer(seen), "as assumed" if is_assumed(seen) else "otherwise, understood")

    def _unknown(self, about: str, call: Callable[[], object]) -> Line:
        """Ask for a contact that can't exist."""
        assumed = "404 with a JSON body or none, or an empty answer; never an error page"
        try:
            call()
        except NotFoundError:
            return self._line(about, assumed, _answer(self._seen.seen[-1]), "as assumed")
        except PipelineError as error:
            return self._line(about, assumed, str(error), "not understood")
        return self._line(about, assumed, _answer(self._seen.seen[-1]), "as assumed")


class _Treazure(_System):
    system = "Treazure"

    def __init__(self, client: TreazureClient, seen: Recorder, programme: Programme) -> None:
        super().__init__(seen, programme)
        self._client = client
        self.contact: str | None = None

    def lines(self, contact: str | None) -> Iterator[Line]:
        yield self._call(
            "login", "200, access_token, expires_in as a number of seconds, token_type", self._client.check,
            lambda seen: fits(
                value_of(seen.body), {"access_token": "text", "expires_in": "integer", "token_type": "text"}
            ),
        )  # fmt: skip
        yield from self._export()
        self.contact = contact or self.contact
        loyalty_id = self._programme.loyalty_id
        if self.contact is None:
            missing = "no export of the last 60 days lists anybody; choose a contact with --contact"
            for about in ("account", "points log"):
                yield self._line(about, "", missing, "not observed")
        else:
            account = self.contact
            yield self._call(
                "account", "loyaltyPrograms with loyaltyPointDefinitionId and balance as a number",
                lambda: self._client.account_balance(account, loyalty_id),
                lambda seen: fits(
                    value_of(seen.body),
                    {"loyaltyPrograms": [{"loyaltyPointDefinitionId": "text|GUID|number as text",
                                          "balance": "decimal|integer"}]},
                ),
            )  # fmt: skip
            yield from self._log(account)
        nobody = str(uuid.uuid4())
        yield self._unknown("an unknown account", lambda: self._client.account_balance(nobody, loyalty_id))
        yield self._unknown("the log of an unknown account", lambda: self._client.history(nobody, loyalty_id))

    def _export(self) -> Iterator[Line]:
        """Ask for exports that reach farther back, until one lists somebody; show the last."""
        lines: list[Line] = []
        for window in _WINDOWS:
            lines = list(self._export_of(window))
            if self.contact is not None or lines[-1].verdict == "not understood":
                break
        yield from lines

    def _export_of(self, window: timedelta) -> Iterator[Line]:
        now = datetime.now(UTC)
        before = len(self._seen.seen)
        path = ""

        def request() -> None:
            nonlocal path
            path = self._client.request_balances(self._programme.loyalty_id, now - window, now).path

        yield self._call(
            "export: request", "an href at the top or in links, on this host", request,
            lambda seen: fits(value_of(seen.body), {"href": "text"}),
        )  # fmt: skip
        if not path:
            return
        yield self._clock(before)
        about, assumed = "export: result", "202 or 404 until it is ready; an array of accountNumber, balance, mutatedAt"
        try:
            with self._client.open_balances(path) as pieces:
                for _ in islice(pieces, 4):
                    pass
        except PipelineError as error:
            yield self._line(about, assumed, str(error), "not understood")
            return
        polls = self._seen.seen[before + 1 :]
        rows = value_of(polls[-1].body)
        row = {"accountNumber": "GUID", "balance": "decimal|integer", "mutatedAt": "time"}
        is_assumed = fits(rows, [row]) and {seen.status for seen in polls} <= {200, 202, 404}
        statuses = ", ".join(str(seen.status) for seen in polls)
        observed = f"statuses {statuses}; {_answer(polls[-1])}; the last {round(window.total_seconds() / 3600)} hours"
        yield self._line(about, assumed, observed, "as assumed" if is_assumed else "otherwise, understood")
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            self.contact = next((str(rows[0][name]) for name in wire.CONTACTS if rows[0].get(name)), None)

    def _clock(self, before: int) -> Line:
        about, assumed = "clock", "a Date header, within 5 minutes of ours"
        seen = self._seen.seen[before]
        if seen.clock is None:
            return self._line(about, assumed, "no Date header", "not observed")
        apart = abs((datetime.now(UTC) - seen.clock).total_seconds())
        verdict: Verdict = "as assumed" if apart <= 300 else "not understood"
        return self._line(about, assumed, f"{apart:.0f} s apart", verdict)

    def _log(self, account: str) -> Iterator[Line]:
        log = Log([])

        def read_it() -> None:
            nonlocal log
            log = self._client.history(account, self._programme.loyalty_id)

        row = {
            "dateTime": "time", "amount": "decimal|integer", "transactionType": "text", "balance": "decimal|integer",
        }  # fmt: skip
        yield self._call(
            "points log", "an array of dateTime, amount, transactionType, balance, receiptNr, comment, expiresAt",
            read_it,
            lambda seen: fits(value_of(seen.body), [row]),
        )  # fmt: skip
        if log.unreadable:
            observed = f"{len(log.unreadable)} of {len(log.unreadable) + len(log.movements)} can't be read"
            first = f"{observed}: {log.unreadable[0]}"
            yield self._line("points log: movements", "each can be read", first, "not understood")
        read = log.movements
        if not read:
            return
        kinds = sorted({movement.transaction_type for movement in read})
        known = wire.MOVING | wire.INFORMATIONAL
        shown = ", ".join(kind if kind in known else "another" for kind in kinds)
        yield self._line(
            "points log: types", ", ".join(sorted(known)), shown,
            "as assumed" if set(kinds) <= known else "otherwise, understood",
        )  # fmt: skip
        moving = [movement for movement in read if movement.amount and movement.balance is not None]
        ordered = [movement.date_time for movement in moving] == sorted(movement.date_time for movement in moving)
        signs = sorted({f"{movement.transaction_type} {'+' if movement.amount > 0 else '-'}" for movement in moving})
        yield self._line(
            "points log: signs", "Load +, Redeem - and Expire -", ", ".join(signs) or "nothing moved",
            "as assumed" if not {"Load -", "Redeem +", "Expire +"} & set(signs) else "otherwise, understood",
        )  # fmt: skip
        yield self._line(
            "points log: order", "by dateTime, except for movements that tills sent late",
            "by dateTime" if ordered else "not by dateTime", "as assumed" if ordered else "otherwise, understood",
        )  # fmt: skip


class _Engage(_System):
    system = "Engage"

    def __init__(self, client: EngageClient, seen: Recorder, programme: Programme) -> None:
        super().__init__(seen, programme)
        self._client = client

    def lines(self, contact: str | None) -> Iterator[Line]:
        yield self._call(
            "contacts: count",
            "an integer",
            self._client.contact_count,
            lambda seen: fits(value_of(seen.body), "integer"),
        )
        found: list[int] = []
        yield self._call(
            "point definitions", "an array of id, name, description",
            lambda: found.extend(each.id for each in self._client.definitions()),
            lambda seen: fits(value_of(seen.body), [{"id": "integer", "name": "text"}]),
        )  # fmt: skip
        number = self._programme.definition_id
        yield self._line(
            "the programme's definition", f"definition {number} exists", "yes" if number in found else "no",
            "as assumed" if number in found else "not understood",
        )  # fmt: skip
        account = {"id": "integer", "contactId": "GUID", "definitionId": "integer", "balance": "decimal|integer"}
        envelope = {"items": [account], "count": "integer", "offset": "integer"}
        about, assumed = (
            "point accounts",
            "items with id, contactId, definitionId, balance; count and offset beside them",
        )
        if contact is None:
            yield self._line(about, assumed, "no contact to ask about; choose one with --contact", "not observed")
        else:
            yield self._call(
                about, assumed, lambda: self._client.point_accounts(contact),
                lambda seen: fits(value_of(seen.body), envelope),
            )  # fmt: skip
        yield self._unknown(
            "point accounts of an unknown contact", lambda: self._client.point_accounts(str(uuid.uuid4()))
        )
        written = "only seen when balances are set; `run balance-sync --limit 5` is a careful way to try it"
        yield self._line("setting balances", "2xx with a transaction id, refused rows listed", written, "not observed")


class _Trial(_System):
    """Adds a point to a test contact, reads account and log, and takes it back."""

    system = "Treazure"

    def __init__(self, client: TreazureClient, seen: Recorder, programme: Programme, contact: str) -> None:
        super().__init__(seen, programme)
        self._client = client
        self._contact = contact
        self._receipt = f"VETEST{uuid.uuid4().hex[:20].upper()}"

    def lines(self) -> Iterator[Line]:
        before = self._balance()
        yield self._call(
            "adding a point", "200 with the account, or its balance",
            lambda: self._post(_TEST_POINTS, self._receipt, _TEST_DESCRIPTION),
            lambda seen: seen.status == 200 and value_of(seen.body) is not None,
        )  # fmt: skip
        try:
            after = self._balance()
            movements = self._client.history(self._contact, self._programme.loyalty_id).movements
        except PipelineError as error:
            observed = f"{error} Look for the receipt {self._receipt}, and take the point back by hand if it is there."
            yield self._line("reading after adding", "the account and its log can be read", observed, "not understood")
            return
        come_back = returned(self._receipt, movements)
        if after - before != _TEST_POINTS and come_back.found == "absent":
            observed = f"neither the balance changed nor is {self._receipt} in the log; nothing is taken back"
            yield self._line("reading after adding", "the account shows the point at once", observed, "not understood")
            return
        yield self._line(
            "reading after adding", "the account shows the point at once", f"{after - before} more than before",
            "as assumed" if after - before == _TEST_POINTS else "otherwise, understood",
        )  # fmt: skip
        yield self._line(
            "receipt", f"receiptNr of {len(self._receipt)} characters comes back whole",
            f"{come_back.found}, {come_back.length} characters", "as assumed" if come_back.found == "whole" else
            "otherwise, understood",
        )  # fmt: skip
        same = any(movement.comment == _TEST_DESCRIPTION for movement in movements)
        yield self._line(
            "description", "100 UTF-16 units come back as comment", "whole" if same else "another text, or none",
            "as assumed" if same else "otherwise, understood",
        )  # fmt: skip
        yield self._call(
            "taking it back", "200 with the account, or its balance",
            lambda: self._post(-_TEST_POINTS, f"{self._receipt}R", "treazure-pipeline: the test point is taken back"),
            lambda seen: seen.status == 200 and value_of(seen.body) is not None,
        )  # fmt: skip

    def _balance(self) -> Decimal:
        return self._client.account_balance(self._contact, self._programme.loyalty_id) or Decimal(0)

    def _post(self, amount: Decimal, receipt: str, comment: str) -> None:
        self._client.post_transaction(
            self._contact, self._programme.loyalty_id, amount, receipt=receipt, comment=comment
        )


def _answer(seen: Seen) -> str:
    moved = "" if seen.redirected_to is None else f" to {seen.redirected_to}"
    return f"{seen.call}: {seen.status}{moved}, {seen.content_type}, {seen.shape}"
