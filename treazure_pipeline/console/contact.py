"""*Contact*: why this member has these points. Every look-up is recorded: who, when, whom."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from treazure_pipeline import people
from treazure_pipeline.console import lookups
from treazure_pipeline.console.access import Visitor
from treazure_pipeline.console.desk import AsService, AtDesk
from treazure_pipeline.console.pages import number, page
from treazure_pipeline.ledger.rows import records
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.settings import Role
from treazure_pipeline.terminal.ledger import run_url
from treazure_pipeline.verification.explain import Event, Explanation, explain

if TYPE_CHECKING:
    from treazure_pipeline.ledger.store import Ledger
    from treazure_pipeline.settings import Programme

_MOST = 300
_LATEST = 10
# In these states a person may have written the reason.
_DECIDED = {"posted", "done", "discarded"}

router = APIRouter()


@dataclass(frozen=True)
class Movement:
    """A row of the fetched points log; `comment` is what staff or a till wrote."""

    at: datetime
    amount: Decimal
    balance: Decimal | None
    transaction_type: str | None
    expires_at: datetime | None
    shop_id: str | None
    receipt: str | None
    comment: str | None


@dataclass(frozen=True)
class Moment:
    """A line of the timeline, as this visitor may read it; `run` is the address of its run in Dagster."""

    at: datetime
    kind: str
    text: str
    run: str | None


@dataclass(frozen=True)
class Change:
    """A change of the balance: its points, the balance after it, and what it was, as this visitor may read it."""

    at: datetime
    points: Decimal
    balance: Decimal | None
    what: str


@dataclass(frozen=True)
class Told:
    """A contact in one programme; `fetched`: its points log was fetched, and `changes` are its movements."""

    explained: Explanation
    verdict: str
    fetched: bool
    changes: list[Change]
    timeline: list[Moment]


@router.get("/contacts")
def ask(request: Request, _: AsService) -> Response:
    """The form that asks for a contact."""
    return page(request, "contacts.html", problem=None, key="")


@router.post("/contacts")
def find(request: Request, at: AtDesk, visitor: AsService, key: Annotated[str, Form(max_length=200)]) -> Response:
    """Go to the contact of a GUID or key. It comes in a form, so that no access log contains a member number.

    The look-up is recorded before its answer is shown, even if the key is nobody's.
    """
    lookups.count(request, visitor)
    contact = _guid(key)
    if contact is None:
        found = contacts_of(at.ledger, key.strip())
        contact = found[0] if len(found) == 1 else None
        lookups.record(at.ledger, contact, by=visitor.name)
        if contact is None:
            problem = "No contact has this key." if not found else "More than one contact has this key; use the GUID."
            status = HTTPStatus.NOT_FOUND if not found else HTTPStatus.CONFLICT
            return page(request, "contacts.html", status, problem=problem, key=key)
    return RedirectResponse(f"/contacts/{contact}", HTTPStatus.SEE_OTHER)


@router.get("/contacts/{contact}")
def show(request: Request, at: AtDesk, visitor: AsService, contact: uuid.UUID) -> Response:
    """What is known about a contact."""
    lookups.count(request, visitor)
    lookups.record(at.ledger, str(contact), by=visitor.name)
    explained = [(programme, explain(at.ledger, programme, str(contact))) for programme in at.programmes()]
    found = [told(at.ledger, programme, one, visitor) for programme, one in explained if one is not None]
    return page(request, "contact.html", contact=str(contact), found=found, most=_MOST)


def told(ledger: Ledger, programme: Programme, explained: Explanation, visitor: Visitor) -> Told:
    """Combine the ledger with the points log, newest first, in words for this visitor."""
    may_read = visitor.role >= Role.OPERATOR
    moved = movements(ledger, programme, explained.contact)
    events = [Moment(one.at, one.kind, _text(one, may_read=may_read), run_url(one.run_id)) for one in explained.events]
    log = [Moment(one.at, "points_log", _movement(one, may_read=may_read), None) for one in moved]
    return Told(
        explained,
        explained.verdict if may_read else people.public(explained.verdict),
        bool(moved),
        _changes(moved, explained, may_read=may_read)[:_LATEST],
        sorted([*events, *log], key=lambda moment: moment.at, reverse=True)[:_MOST],
    )


def _changes(moved: list[Movement], explained: Explanation, *, may_read: bool) -> list[Change]:
    """Return what changed the balance, newest first: from the points log, or else from the observations."""
    if moved:
        return [
            Change(one.at, one.amount, one.balance, ", ".join(_circumstances(one, may_read=may_read)))
            for one in moved
            if one.amount
        ]
    seen = [(one, one.facts["before"], one.facts["after"]) for one in explained.events if one.kind == "observed"]
    return [
        Change(one.at, Decimal(after) - Decimal(before or 0), Decimal(after), "seen in Treazure" if before else "first seen in Treazure")
        for one, before, after in reversed(seen)
    ]  # fmt: skip


def _text(event: Event, *, may_read: bool) -> str:
    if may_read:
        comment = event.facts.get("comment")
        return f"{event.text}: {people.said(comment)}" if comment else event.text
    if event.kind == "adjustment_state" and event.facts["state"] in _DECIDED:
        return f"adjustment {event.facts['adjustment']} is {event.facts['state']}"
    return people.public(event.text)


def _movement(one: Movement, *, may_read: bool) -> str:
    facts = [f"{number(one.amount)} points"]
    facts += [f"balance {number(one.balance)}"] if one.balance is not None else []
    return ", ".join([*facts, *_circumstances(one, may_read=may_read)])


def _circumstances(one: Movement, *, may_read: bool) -> list[str]:
    facts = [people.word(one.transaction_type)] if one.transaction_type else []
    facts += [f"shop {people.word(one.shop_id)}"] if one.shop_id else []
    facts += [f"receipt {people.word(one.receipt)}"] if one.receipt else []
    facts += [f"expires {one.expires_at:%Y-%m-%d}"] if one.expires_at else []
    facts += [people.said(one.comment)] if one.comment and may_read else []
    return facts if may_read else [people.public(fact) for fact in facts]


def _guid(key: str) -> str | None:
    try:
        return str(uuid.UUID(key.strip()))
    except ValueError:
        return None


@retried
def contacts_of(ledger: Ledger, key: str) -> list[str]:
    """Return who has this key in the newest migration that has it, or an adjustment with this receipt; two at most."""
    with ledger.reading() as connection:
        return [contact for (contact,) in connection.execute(_CONTACTS_OF, {"key": key})]


@retried
def movements(ledger: Ledger, programme: Programme, contact: str) -> list[Movement]:
    """Return the newest movements of a contact's points log that `run history` has fetched."""
    values: dict[str, Any] = {"programme": programme.name, "contact": contact, "most": _MOST}
    with ledger.reading() as connection:
        return records(connection, Movement, _MOVEMENTS, values)


_CONTACTS_OF = """
select contact::text from migration_contact where key = %(key)s
    and migration = (select max(migration) from migration_contact where key = %(key)s)
union
select contact::text from adjustment where receipt = upper(%(key)s) and contact is not null
limit 2
"""

_MOVEMENTS = """
select h.date_time as at, h.amount, h.balance, h.transaction_type, h.expires_at, h.shop_id, h.receipt_nr as receipt, h.comment
from points_history h join programme g on g.id = h.programme
where g.name = %(programme)s and h.contact = %(contact)s order by h.date_time desc, h.position desc limit %(most)s
"""
