"""Why a contact has its balance: everything the ledger knows about it, in the order of the database's clock.

Nothing here writes, and one transaction sees everything at the same moment. Batches have no index by contact, so `explain` reads all of the
programme's batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg.rows import dict_row

from treazure_pipeline import people, phrases
from treazure_pipeline.clients.engage_wire import UNKNOWN_CONTACT
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.verification.rounds import ROUNDS_TO_HEAL

if TYPE_CHECKING:
    from decimal import Decimal
    from typing import Any

    from treazure_pipeline.ledger.store import Ledger
    from treazure_pipeline.settings import Programme


@dataclass(frozen=True)
class Event:
    """Something that happened to a contact. `facts` holds the details, with points as exact text."""

    at: datetime
    kind: str
    text: str
    run_id: str | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Explanation:
    """A contact in one programme: what Treazure has, what Engage accepted and last showed, and how that came about."""

    programme: str
    contact: str
    verdict: str
    master: Decimal | None
    sent: Decimal | None
    shown: Decimal | None
    pending: bool
    events: list[Event]


@retried
def explain(ledger: Ledger, programme: Programme, contact: str) -> Explanation | None:
    """Explain a contact's balance. None if the ledger knows nothing about the contact in this programme."""
    with ledger.reading() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        found = cursor.execute(
            "select id from programme where loyalty_id = %s and definition_id = %s",
            (programme.loyalty_id, programme.definition_id),
        ).fetchone()
        if found is None:
            return None
        values = {"programme": found["id"], "contact": contact}
        events = [
            Event(row["at"], kind, _TEXTS[kind](row["facts"]), row["run_id"], row["facts"])
            for kind, statement in _EVENTS.items()
            for row in cursor.execute(statement, values)
        ]
        present = cursor.execute(_PRESENT, values).fetchone()
    assert present is not None
    if not events and present["master"] is None:
        return None
    return Explanation(
        programme=programme.name,
        contact=contact,
        verdict=_verdict(present),
        master=present["master"],
        sent=present["sent"],
        shown=present["shown"],
        pending=present["pending"],
        events=sorted(events, key=lambda event: (event.at, list(_EVENTS).index(event.kind))),
    )


def _verdict(now: dict[str, Any]) -> str:
    """Return the present state in one sentence."""
    sentence = _pending(now) if now["pending"] else _settled(now)
    if now["mode"] == "migrating":
        sentence += "; the programme is migrating, so nothing is sent"
    if now["adjustments"]:
        sentence += f"; adjustments not finished: {now['adjustments']}"
    if now["reread"]:
        sentence += f"; two observations overlapped, so the account is read once more{_not_read(now['reread'])}"
    if now["vanished"]:
        sentence += f"; the full exports since {_time(now['vanished'])} did not list it"
    return sentence + "."


def _not_read(reread: dict[str, Any]) -> str:
    if not reread["tries"]:
        return ""
    times = "once" if reread["tries"] == 1 else f"{reread['tries']} times"
    return f" (it could not be read {times}: {reread['reason']})"


def _settled(now: dict[str, Any]) -> str:
    points = _points(now["sent"])
    if now["sent"] is None:
        rejected = f": its rows in exports were rejected ({now['rejected']})" if now["rejected"] else ""
        return f"No balance from Treazure is known{rejected}"
    accepted = "" if now["accepted_at"] is None else f" on {_time(now['accepted_at'])}"
    if now["verdict"] is None:
        return f"Engage accepted {points}{accepted}, which is what Treazure has; it has not been read back yet"
    read = _time(now["read_at"])
    if now["accepted_at"] is not None and now["read_at"] < now["accepted_at"]:
        earlier = "" if now["verdict"] == "equal" else f"; before that it showed {_shown(now)}, on {read}"
        return (
            f"Engage accepted {points}{accepted}, which is what Treazure has; it has not been read back since{earlier}"
        )
    if now["verdict"] == "equal":
        return f"Engage holds what Treazure has: {points}, verified on {read}"
    return f"Engage accepted {points}{accepted}, but showed {_shown(now)} when it was read on {read}"


def _pending(now: dict[str, Any]) -> str:
    change = f"{_points(now['sent'], 'nothing')} → {_points(now['master'])}"
    since = _time(now["pending_since"])
    if now["gone"]:
        return f"Gone: {UNKNOWN_CONTACT}, for 30 days; {_points(now['master'])} are no longer sent"
    if now["under_way"] is not None:
        return f"Under way since {since}: {change}, in request {now['under_way']}"
    if now["reason"] is not None:
        next_try = "with the next push" if now["next_try"] is None else f"after {_time(now['next_try'])}"
        times = "once" if now["tries"] == 1 else f"{now['tries']} times"
        return f"Pending since {since}: {change}, Engage refused it {times}: {now['reason']}; next try {next_try}"
    return _waiting(now, change)


def _waiting(now: dict[str, Any], change: str) -> str:
    since = _time(now["pending_since"])
    if now["held"]:
        return f"Held since {since}: {change}, a negative balance that needs approval"
    if now["marked"]:
        heals = "; sending it again has not helped so far" if now["rounds"] > ROUNDS_TO_HEAL else ""
        again = _points(now["master"]) if now["master"] == now["sent"] else change
        return f"To be sent again: {again}, since Engage showed {_shown(now)} on {_time(now['read_at'])}{heals}"
    if now["plan"] is not None:
        return f"Pending since {since}: {change}, in plan {now['plan']}, which waits for approval"
    return f"Pending since {since}: {change}; the next push sends it"


def _shown(now: dict[str, Any]) -> str:
    return "no account" if now["shown"] is None else _points(now["shown"])


def _points(value: Decimal | str | None, nothing: str = "no balance") -> str:
    return nothing if value is None else f"{phrases.points(value)} points"


def _time(moment: datetime | str | None) -> str:
    if moment is None:
        return "never"
    return f"{datetime.fromisoformat(moment) if isinstance(moment, str) else moment:%Y-%m-%d %H:%M:%S} UTC"


def _observed(facts: dict[str, Any]) -> str:
    before = "for the first time" if facts["before"] is None else f"before: {phrases.points(facts['before'])}"
    said = f"{_points(facts['after'])} ({before})"
    if facts["source"] == "export":
        return f"Treazure's export of the changes {_time(facts['window_from'])} to {_time(facts['window_to'])} lists {said}"
    return f"Treazure, asked for this account, says {said}"


def _given(facts: dict[str, Any]) -> str:
    amount = _points(facts["amount"]) if facts["is_understood"] else f"{facts['amount']} points"
    text = f"{amount} given as adjustment {facts['adjustment']}, receipt {facts['receipt']}"
    return f"{text}; its description was cut to 100 characters" if facts["description_cut"] else text


def _moved(facts: dict[str, Any]) -> str:
    reason = f": {facts['reason']}" if facts["reason"] else ""
    return f"adjustment {facts['adjustment']} is {facts['state']}{reason}"


def _sent(facts: dict[str, Any]) -> str:
    outcome = {
        "sending": "under way",
        "accepted": f"accepted as transaction {facts['transaction_id']}",
        "folded": f"accepted as transaction {facts['transaction_id']}",
        "refused": f"refused: {facts['error']}",
        "failed": f"not taken: {facts['error']}",
        "lost": f"the answer was lost: {facts['error']}",
    }[facts["state"]]
    if facts["refused"]:
        outcome = "Engage took the request but refused this row"
    others = f" with {phrases.counted(facts['rows'] - 1, 'other')}" if facts["rows"] > 1 else ""
    return (
        f"{_points(facts['amount'])} sent in batch {facts['batch']}{others}, timeStamp {facts['time_stamp']}: {outcome}"
    )


def _found(facts: dict[str, Any]) -> str:
    shown = _shown(facts)
    text = {
        "equal": f"read back: Engage shows {shown}, as sent",
        "healed": f"read back: Engage shows {shown} again; it differed since {_time(facts['since'])}",
        "drift": f"read back: Engage shows {shown} instead of {phrases.points(facts['sent'])}",
        "missing": f"read back: Engage has no account, {_points(facts['sent'])} were sent",
    }[facts["verdict"]]
    return f"{text}; marked for sending again" if facts["marked"] else text


def _planned(facts: dict[str, Any]) -> str:
    before = "nothing" if facts["before"] is None else phrases.points(facts["before"])
    change = f"{before} → {phrases.points(facts['after'])}"
    return f"{change} held in plan {facts['digest']}: {'; '.join(facts['reasons'])} ({facts['state']})"


_TEXTS = {
    "observed": _observed,
    "confirmed": lambda facts: (
        f"Treazure, asked for this account, confirms the balance (observation {facts['observation']})"
    ),
    "rejected": lambda facts: (
        f"a row of an export was rejected, {facts['field']} {people.said(facts['value'])}: {facts['reason']}"
        f" (seen {facts['seen']}x, last on {_time(facts['last_seen'])})"
    ),
    "vanished": lambda facts: f"the last full export no longer lists it ({_points(facts['balance'])} stay)",
    "adjustment": _given,
    "adjustment_state": _moved,
    "planned": _planned,
    "approved": lambda facts: (
        f"plan {facts['digest']} approved by {facts['approved_by']}, until {_time(facts['expires_at'])}"
    ),
    "sent": _sent,
    "read_back": _found,
}

# Kind → at, run_id, facts. Two events at the same time are shown in this order.
_EVENTS = {
    "observed": """
        select c.noted_at as at, o.run_id, jsonb_build_object(
            'source', o.source, 'window_from', o.window_from, 'window_to', o.window_to, 'asked', o.asked,
            'answered', o.answered, 'observation', c.observation, 'before', trim_scale(c.before[c.n])::text,
            'after', trim_scale(c.after[c.n])::text) as facts
        from (select *, array_position(contacts, %(contact)s::uuid) as n from change
              where programme = %(programme)s and contacts @> array[%(contact)s::uuid]) c
        left join observation o on o.id = c.observation""",
    "confirmed": """
        select o.answered as at, o.run_id,
               jsonb_build_object('observation', o.id, 'asked', o.asked, 'answered', o.answered) as facts
        from observation o
        where o.programme = %(programme)s and o.contact = %(contact)s and o.answered is not null
          and not exists (select from change c where c.observation = o.id)""",
    "rejected": """
        select r.first_seen as at, o.run_id, jsonb_build_object(
            'field', r.field, 'value', r.value, 'reason', r.reason, 'seen', r.seen, 'last_seen', r.last_seen,
            'observation', r.observation) as facts
        from rejection r left join observation o on o.id = r.observation
        where r.programme = %(programme)s and r.contact = %(contact)s""",
    "vanished": """
        select v.since as at, null as run_id, jsonb_build_object('balance', trim_scale(l.sent)::text) as facts
        from vanished v left join ledger l using (programme, contact)
        where v.programme = %(programme)s and v.contact = %(contact)s""",
    "adjustment": """
        select a.received_at as at, null as run_id, jsonb_build_object(
            'adjustment', a.id, 'amount', coalesce(trim_scale(a.amount)::text, a.payload ->> 'amount'),
            'is_understood', a.amount is not null, 'receipt', a.receipt, 'state', a.state, 'source', a.source, 'event_id', a.event_id, 'description', a.description,
            'comment', a.comment, 'description_cut', a.description is distinct from a.comment) as facts
        from adjustment a
        where (a.programme = %(programme)s and a.contact = %(contact)s)
           or (a.contact is null and lower(a.payload ->> 'contactId') = %(contact)s::uuid::text)""",
    "adjustment_state": """
        select t.at, t.run_id, jsonb_build_object(
            'adjustment', a.id, 'state', t.state, 'reason', t.reason, 'answer', t.answer, 'receipt', a.receipt) as facts
        from adjustment a join adjustment_transition t on t.adjustment = a.id
        where (a.programme = %(programme)s and a.contact = %(contact)s)
           or (a.contact is null and lower(a.payload ->> 'contactId') = %(contact)s::uuid::text)""",
    "planned": """
        select p.made_at as at, p.run_id, jsonb_build_object(
            'digest', p.digest, 'state', p.state, 'reasons', p.reasons, 'before', trim_scale(t.before[t.n])::text,
            'after', trim_scale(t.after[t.n])::text, 'used_at', p.used_at, 'used_run_id', p.used_run_id) as facts
        from (select *, array_position(contacts, %(contact)s::uuid) as n from plan_lot
              where contacts @> array[%(contact)s::uuid]) t
        join plan p on p.id = t.plan and p.programme = %(programme)s""",
    "approved": """
        select p.approved_at as at, null as run_id, jsonb_build_object(
            'digest', p.digest, 'approved_by', p.approved_by, 'expires_at', p.expires_at) as facts
        from plan p
        where p.programme = %(programme)s and p.approved_at is not null
          and exists (select from plan_lot t where t.plan = p.id and t.contacts @> array[%(contact)s::uuid])""",
    "sent": """
        select b.claimed_at as at, b.run_id, jsonb_build_object(
            'batch', b.id, 'amount', trim_scale(b.amounts[array_position(b.contacts, %(contact)s::uuid)])::text,
            'rows', cardinality(b.contacts), 'time_stamp', b.time_stamp, 'state', b.state,
            'refused', %(contact)s::uuid = any (b.refused), 'answered_at', b.answered_at,
            'transaction_id', b.transaction_id, 'request_id', b.request_id, 'error', b.error) as facts
        from batch b where b.programme = %(programme)s and b.contacts @> array[%(contact)s::uuid]""",
    "read_back": """
        select f.read_at as at, f.run_id, jsonb_build_object(
            'verdict', f.verdict, 'sent', trim_scale(f.sent)::text, 'shown', trim_scale(f.shown)::text,
            'since', f.since, 'marked', f.marked) as facts
        from finding f where f.programme = %(programme)s and f.contact = %(contact)s
        union all
        select v.read_at, null, jsonb_build_object(
            'verdict', v.verdict, 'sent', trim_scale(v.sent)::text, 'shown', trim_scale(v.shown)::text,
            'since', v.since, 'marked', false)
        from verification v
        where v.programme = %(programme)s and v.contact = %(contact)s and not exists (
            select from finding f
            where f.programme = v.programme and f.contact = v.contact and f.read_at = v.read_at)""",
}

_PRESENT = """
select g.mode, trim_scale(coalesce(u.master, l.sent)) as master, trim_scale(l.sent) as sent, u.contact is not null as pending,
       u.since as pending_since, u.tries, u.next_try, u.gone, u.reason, u.marked, u.held,
       b.answered_at as accepted_at, v.verdict, trim_scale(v.shown) as shown, v.read_at, coalesce(v.rounds, 0) as rounds,
       (select max(o.id) from batch o where o.programme = g.id and o.state in ('sending', 'accepted')
            and o.contacts @> array[%(contact)s::uuid]) as under_way,
       (select max(p.digest) from plan p join plan_lot t on t.plan = p.id
            where p.programme = g.id and p.state = 'open' and t.contacts @> array[%(contact)s::uuid]) as plan,
       (select string_agg(a.id || ' (' || a.state || ')', ', ' order by a.id) from adjustment a
            where a.programme = g.id and a.contact = %(contact)s
              and a.state in ('received', 'queued', 'sending', 'posted', 'uncertain')) as adjustments,
       (select max(r.reason) from rejection r where r.programme = g.id and r.contact = %(contact)s) as rejected,
       (select jsonb_build_object('tries', r.tries, 'reason', r.reason) from reread r
        where r.programme = g.id and r.contact = %(contact)s) as reread,
       (select since from vanished s where s.programme = g.id and s.contact = %(contact)s) as vanished
from programme g
left join unsettled u on u.programme = g.id and u.contact = %(contact)s
left join ledger l on l.programme = g.id and l.contact = %(contact)s
left join batch b on b.id = l.batch
left join verification v on v.programme = g.id and v.contact = %(contact)s
where g.id = %(programme)s
"""
