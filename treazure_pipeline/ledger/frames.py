"""The ledger as pandas DataFrames, for people and notebooks. Points stay `Decimal`; times are UTC.

Other tools can use the views `treazure_pipeline.balance` and `balance_change`.
Each function takes the ledger first. Its `rows` returns the same without pandas, whose import takes half a second; runs use that.
"""

from __future__ import annotations

from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec

from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import pandas as pd

    from treazure_pipeline.ledger.store import Account, Ledger

_P = ParamSpec("_P")


class _Asked(NamedTuple):
    """A statement and its values."""

    statement: str
    values: dict[str, object]


class Rows(NamedTuple):
    """The names of the columns, and a tuple for each row."""

    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]


class _Question(Generic[_P]):
    """Turns a function that returns a statement and its values into one that asks the ledger."""

    def __init__(self, asked: Callable[_P, _Asked]) -> None:
        self._asked = asked
        update_wrapper(self, asked)

    def __call__(self, ledger: Ledger, *args: _P.args, **kwargs: _P.kwargs) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415 - takes half a second, and only notebooks need it

        found = self.rows(ledger, *args, **kwargs)
        return pd.DataFrame(found.rows, columns=list(found.columns))

    def rows(self, ledger: Ledger, *args: _P.args, **kwargs: _P.kwargs) -> Rows:
        return _answered(ledger, self._asked(*args, **kwargs))


@_Question
def balances(account: Account, contacts: Sequence[str] | None = None) -> _Asked:
    """Return contact, master, sent, pending, pending_since, reason, next_try, for all contacts or these."""
    return _Asked(
        "select coalesce(p.contact, l.contact)::text as contact, coalesce(p.master, l.sent) as master, l.sent, "
        "p.contact is not null as pending, p.since as pending_since, p.reason, p.next_try "
        "from (select * from ledger where programme = %(id)s and (%(any)s or contact = any (%(contacts)s::uuid[]))) l "
        "full join (select * from unsettled where programme = %(id)s and (%(any)s or contact = any (%(contacts)s::uuid[]))) p "
        "using (contact) order by 1",
        {"id": account.id, "any": contacts is None, "contacts": list(contacts or ())},
    )


@_Question
def diff(account: Account, run_id: str, limit: int | None = None) -> _Asked:
    """Return what a run's observations changed in the master: contact, before (None: new), after."""
    return _Asked(
        "select r.contact::text as contact, r.before, r.after from observation o join change c on c.observation = o.id, "
        "unnest(c.contacts, c.before, c.after) as r (contact, before, after) "
        "where o.programme = %(id)s and o.run_id = %(run)s order by r.contact "
        "limit %(limit)s",
        {"id": account.id, "run": run_id, "limit": limit},
    )


@_Question
def changes(
    account: Account,
    contacts: Sequence[str] | None = None,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    limit: int | None = None,
) -> _Asked:
    """Return the changes noted in [start, end), oldest first.

    The columns are contact, before (None: new), after, points, noted_at, source, run_id, window_from, window_to. It reads all changes of that
    time even for a few `contacts`; without a `start`, the whole history.
    """
    return _Asked(
        "select contact::text as contact, before, after, points, noted_at, source, run_id, window_from, window_to "
        "from balance_change where programme = %(programme)s and (%(start)s::timestamptz is null or noted_at >= %(start)s) "
        "and (%(end)s::timestamptz is null or noted_at < %(end)s) and (%(any)s or contact = any (%(contacts)s::uuid[])) "
        "order by noted_at, observation, contact limit %(limit)s",
        {"programme": account.name, "start": start, "end": end, "any": contacts is None,
         "contacts": list(contacts or ()), "limit": limit},
    )  # fmt: skip


@_Question
def pending(account: Account, limit: int | None = None) -> _Asked:
    """Return the pending rows, oldest first: contact, sent, master, since, tries, next_try, gone, reason."""
    return _Asked(
        "select p.contact::text as contact, l.sent, p.master, p.since, p.tries, p.next_try, p.gone, p.reason from unsettled p "
        "left join ledger l on l.programme = p.programme and l.contact = p.contact where p.programme = %(id)s "
        "order by p.since, p.contact limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


@_Question
def rejections(account: Account, limit: int | None = None) -> _Asked:
    """Return outstanding rejected rows of exports, newest first."""
    return _Asked(
        "select contact::text as contact, field, value, reason, seen, first_seen, last_seen, raw from rejection "
        "where programme = %(id)s and resolved_at is null order by last_seen desc, digest limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


@_Question
def batches(account: Account, run_id: str) -> _Asked:
    """Return a run's requests to Engage: id, state, rows, refused, settled, times, transaction_id, request_id, error."""
    return _Asked(
        "select id, state, array_length(contacts, 1) as rows, coalesce(array_length(refused, 1), 0) as refused, settled, "
        "time_stamp, claimed_at, answered_at, transaction_id, request_id, error from batch "
        "where programme = %(id)s and run_id = %(run)s order by id",
        {"id": account.id, "run": run_id},
    )


@_Question
def adjustments(states: Sequence[str] | None = None, limit: int | None = None) -> _Asked:
    """Return adjustments, newest first: id, state, contact, amount, description, receipt, balance, reason, times."""
    return _Asked(
        "select id, state, contact::text as contact, amount, comment, receipt, balance, tries, reason, received_at, "
        "next_try, event_id from adjustment where %(any)s or state = any (%(states)s) order by id desc limit %(limit)s",
        {"any": states is None, "states": list(states or ()), "limit": limit},
    )


@_Question
def differing(account: Account, limit: int | None = None) -> _Asked:
    """Return contacts for which Engage last showed a different balance from the one sent, the longest first."""
    return _Asked(
        "select contact::text as contact, verdict, sent, shown, since, rounds, read_at from verification "
        "where programme = %(id)s and verdict <> 'equal' order by rounds desc, since, contact limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


@_Question
def verification_runs(account: Account, limit: int = 24 * 7) -> _Asked:
    """Return the latest verifications, oldest first: started_at, ended_at, run_id, error, and contacts by outcome."""
    return _Asked(
        "select r.started_at, r.ended_at, r.run_id, r.error, f.* from ("
        "select * from verification_run where programme = %(id)s order by id desc limit %(limit)s) r, "
        "jsonb_to_record(r.figures) as f (read bigint, equal bigint, drift bigint, missing bigint, unsettled bigint, "
        "failed bigint, marked bigint, healed bigint) order by r.id",
        {"id": account.id, "limit": limit},
    )


@_Question
def dead_letters(limit: int | None = None) -> _Asked:
    """Return dead letters that nobody has dealt with, newest first, without their bodies."""
    return _Asked(
        "select id, delivery_id, received_at, reason, length(body) as characters from dead_letter "
        "where settled_at is null order by id desc limit %(limit)s",
        {"limit": limit},
    )


@_Question
def points_history(
    account: Account,
    contacts: Sequence[str] | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    newest: int | None = None,
) -> _Asked:
    """Return movements within [since, until), of all contacts or these, by contact and position.

    With `newest`, return that many of the newest ones, newest first.
    """
    order = "contact, position" if newest is None else "date_time desc, contact, position desc"
    return _Asked(
        "select contact::text as contact, position, date_time, amount, balance, transaction_type, expires_at, comment, "
        "operator_id, shop_id, pos_id, receipt_nr, properties from points_history where programme = %(id)s "
        "and (%(any)s or contact = any (%(contacts)s::uuid[])) "
        "and date_time >= coalesce(%(since)s, '-infinity'::timestamptz) "
        f"and date_time < coalesce(%(until)s, 'infinity'::timestamptz) order by {order} limit %(limit)s",
        {"id": account.id, "any": contacts is None, "contacts": list(contacts or ()), "since": since, "until": until,
         "limit": newest},
    )  # fmt: skip


@_Question
def history_differences(account: Account, limit: int | None = None) -> _Asked:
    """Return contacts whose log does not add up: contact, balance, sum, difference, log_balance, rows, read_at."""
    return _Asked(
        "select contact::text as contact, balance, sum, difference, log_balance, rows, read_at from points_history_read "
        "where programme = %(id)s and read_at is not null "
        "and (difference is distinct from 0 or log_balance is distinct from balance) order by contact limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


@_Question
def history_failures(account: Account, limit: int | None = None) -> _Asked:
    """Return contacts whose log could not be read last time: contact, error, tried_at, read_at (of the stored rows)."""
    return _Asked(
        "select contact::text as contact, error, tried_at, read_at from points_history_read "
        "where programme = %(id)s and error is not null order by contact limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


@_Question
def history_unreadable(account: Account, limit: int | None = None) -> _Asked:
    """Return contacts whose log has movements that can't be read: contact, unreadable, first_unreadable, read_at."""
    return _Asked(
        "select contact::text as contact, unreadable, first_unreadable, read_at from points_history_read "
        "where programme = %(id)s and unreadable > 0 order by contact limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


@retried
def _answered(ledger: Ledger, asked: _Asked) -> Rows:
    with ledger.transaction() as connection:
        cursor = connection.execute(asked.statement, asked.values)
        return Rows([column.name for column in cursor.description or ()], cursor.fetchall())
