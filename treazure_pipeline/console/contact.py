"""*Contact*: why this member has these points. Every look-up is recorded: who, when, whom."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from psycopg.rows import class_row
from starlette.responses import RedirectResponse, Response

from treazure_pipeline import people
from treazure_pipeline.console.access import Rate, Visitor
from treazure_pipeline.console.desk import AsApprover, AsService, AtDesk
from treazure_pipeline.console.pages import number, page
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.settings import Role
from treazure_pipeline.terminal.reading import run_url
from treazure_pipeline.verification.explain import Event, Explanation, explain

if TYPE_CHECKING:
    from treazure_pipeline.ledger.store import Ledger
    from treazure_pipeline.settings import Programme

A_MINUTE = 30
_MOST = 300
# There a person may have written the reason.
_DECIDED = {"posted", "done", "discarded"}

router = APIRouter()


@dataclass(frozen=True)
class Movement:
    """A row of the points log, as far as it was fetched; `comment` is what staff or a till wrote."""

    at: datetime
    amount: Decimal
    balance: Decimal | None
    transaction_type: str | None
    expires_at: datetime | None
    shop_id: str | None
    receipt: str | None
    comment: str | None


@dataclass(frozen=True)
class Lookup:
    """Somebody has looked somebody up."""

    at: datetime
    looked_by: str
    contact: str


@dataclass(frozen=True)
class Moment:
    """A line of the timeline, as this visitor may read it; `run` is the address of its run in Dagster."""

    at: datetime
    kind: str
    text: str
    run: str | None


@router.get("/contacts")
def ask(request: Request, _: AsService) -> Response:
    """The form that asks for a contact."""
    return page(request, "contacts.html", problem=None, key="")


@router.post("/contacts")
def find(request: Request, at: AtDesk, visitor: AsService, key: Annotated[str, Form(max_length=200)]) -> Response:
    """Go to the contact of a GUID or key. It comes in a form, so that no log of addresses holds a member number."""
    _count(request, visitor)
    contact = _guid(key) or contact_of(at.ledger, key.strip())
    if contact is None:
        return page(request, "contacts.html", HTTPStatus.NOT_FOUND, problem="Nobody is known by this.", key=key)
    return RedirectResponse(f"/contacts/{contact}", HTTPStatus.SEE_OTHER)


@router.get("/contacts/{contact}")
def show(request: Request, at: AtDesk, visitor: AsService, contact: uuid.UUID) -> Response:
    """What is known of a contact."""
    _count(request, visitor)
    record(at.ledger, str(contact), by=visitor.name)
    told = [(programme, explain(at.ledger, programme, str(contact))) for programme in at.programmes()]
    found = [(one, timeline(at.ledger, programme, one, visitor)) for programme, one in told if one is not None]
    may_read = visitor.role >= Role.OPERATOR
    verdicts = [one.verdict if may_read else people.public(one.verdict) for one, _ in found]
    return page(
        request, "contact.html", contact=str(contact), found=list(zip(found, verdicts, strict=True)), most=_MOST
    )


@router.get("/look-ups")
def lookups(request: Request, at: AtDesk, _: AsApprover) -> Response:
    """Who has looked up whom."""
    return page(request, "lookups.html", lookups=latest(at.ledger), most=_MOST)


def timeline(ledger: Ledger, programme: Programme, explained: Explanation, visitor: Visitor) -> list[Moment]:
    """Join what the ledger knows with the points log, newest first, in words for this visitor."""
    may_read = visitor.role >= Role.OPERATOR
    events = [Moment(one.at, one.kind, _text(one, may_read=may_read), run_url(one.run_id)) for one in explained.events]
    moved = [
        Moment(one.at, "points_log", _movement(one, may_read=may_read), None)
        for one in movements(ledger, programme, explained.contact)
    ]
    return sorted([*events, *moved], key=lambda moment: moment.at, reverse=True)[:_MOST]


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
    facts += [people.word(one.transaction_type)] if one.transaction_type else []
    facts += [f"shop {people.word(one.shop_id)}"] if one.shop_id else []
    facts += [f"receipt {people.word(one.receipt)}"] if one.receipt else []
    facts += [f"expires {one.expires_at:%Y-%m-%d}"] if one.expires_at else []
    facts += [people.said(one.comment)] if one.comment and may_read else []
    return people.public(", ".join(facts)) if not may_read else ", ".join(facts)


def _count(request: Request, visitor: Visitor) -> None:
    rate: Rate = request.app.state.lookups
    rate.count(visitor.name)


def _guid(key: str) -> str | None:
    try:
        return str(uuid.UUID(key.strip()))
    except ValueError:
        return None


@retried
def contact_of(ledger: Ledger, key: str) -> str | None:
    """Return the contact of a key of the newest migration that has it, or of an adjustment's receipt; None: of no one."""
    with ledger.reading() as connection:
        row = connection.execute(_CONTACT_OF, {"key": key}).fetchone()
    if row is None:
        return None
    if row[1] > 1:
        raise HTTPException(HTTPStatus.CONFLICT, "More than one contact is known by this; use the GUID.")
    return str(row[0])


def record(ledger: Ledger, contact: str, *, by: str) -> None:
    """Record a look-up, before anything is shown."""
    with ledger.transaction() as connection:
        connection.execute("insert into lookup (looked_by, contact) values (%s, %s)", (by, contact))


@retried
def latest(ledger: Ledger) -> list[Lookup]:
    """Return the latest look-ups, newest first."""
    with ledger.reading() as connection:
        cursor = connection.cursor(row_factory=class_row(Lookup))
        return cursor.execute(
            "select at, looked_by, contact::text from lookup order by id desc limit %s", (_MOST,)
        ).fetchall()


@retried
def movements(ledger: Ledger, programme: Programme, contact: str) -> list[Movement]:
    """Return the newest movements of a contact's points log, as far as `run history` has fetched it."""
    values: dict[str, Any] = {"programme": programme.name, "contact": contact, "most": _MOST}
    with ledger.reading() as connection:
        return connection.cursor(row_factory=class_row(Movement)).execute(_MOVEMENTS, values).fetchall()


_CONTACT_OF = """
select min(contact::text), count(distinct contact) from (
    select contact from migration_contact where key = %(key)s
        and migration = (select max(migration) from migration_contact where key = %(key)s)
    union all
    select contact from adjustment where receipt = upper(%(key)s) and contact is not null) found
having count(*) > 0
"""

_MOVEMENTS = """
select h.date_time as at, h.amount, h.balance, h.transaction_type, h.expires_at, h.shop_id, h.receipt_nr as receipt, h.comment
from points_history h join programme g on g.id = h.programme
where g.name = %(programme)s and h.contact = %(contact)s order by h.date_time desc, h.position desc limit %(most)s
"""
