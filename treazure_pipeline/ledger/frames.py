"""The ledger as pandas DataFrames, for people and notebooks. Points stay `Decimal`; times are UTC.

`where` the rows come from stays SQL: the view `treazure_pipeline.balance` holds the same for other tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from treazure_pipeline.ledger.store import Account, Ledger


def balances(ledger: Ledger, account: Account, contacts: Sequence[str] | None = None) -> pd.DataFrame:
    """Return contact, master, sent, pending, pending_since, reason, next_try: one row per contact (or those asked for)."""
    return _frame(
        ledger,
        "select coalesce(p.contact, l.contact)::text as contact, coalesce(p.master, l.sent) as master, l.sent, "
        "p.contact is not null as pending, p.since as pending_since, p.reason, p.next_try "
        "from (select * from ledger where programme = %(id)s and (%(any)s or contact = any (%(contacts)s::uuid[]))) l "
        "full join (select * from unsettled where programme = %(id)s and (%(any)s or contact = any (%(contacts)s::uuid[]))) p "
        "using (contact) order by 1",
        {"id": account.id, "any": contacts is None, "contacts": list(contacts or ())},
    )


def diff(ledger: Ledger, account: Account, run_id: str, limit: int | None = None) -> pd.DataFrame:
    """Return what a run's observations changed in the master: contact, before (None: new), after."""
    return _frame(
        ledger,
        "select r.contact::text as contact, r.before, r.after from observation o join change c on c.observation = o.id, "
        "unnest(c.contacts, c.before, c.after) as r (contact, before, after) "
        "where o.programme = %(id)s and o.run_id = %(run)s order by r.contact "
        "limit %(limit)s",
        {"id": account.id, "run": run_id, "limit": limit},
    )


def pending(ledger: Ledger, account: Account, limit: int | None = None) -> pd.DataFrame:
    """Return the pending rows, oldest first: contact, sent, master, since, tries, next_try, gone, reason."""
    return _frame(
        ledger,
        "select p.contact::text as contact, l.sent, p.master, p.since, p.tries, p.next_try, p.gone, p.reason from unsettled p "
        "left join ledger l on l.programme = p.programme and l.contact = p.contact where p.programme = %(id)s "
        "order by p.since, p.contact limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


def rejections(ledger: Ledger, account: Account, limit: int | None = None) -> pd.DataFrame:
    """Return the rows of exports that could not be understood, newest first."""
    return _frame(
        ledger,
        "select contact::text as contact, field, value, reason, seen, first_seen, last_seen, raw from rejection "
        "where programme = %(id)s order by last_seen desc, digest limit %(limit)s",
        {"id": account.id, "limit": limit},
    )


def batches(ledger: Ledger, account: Account, run_id: str) -> pd.DataFrame:
    """Return a run's requests to Engage: id, state, rows, refused, settled, times, transaction_id, request_id, error."""
    return _frame(
        ledger,
        "select id, state, array_length(contacts, 1) as rows, coalesce(array_length(refused, 1), 0) as refused, settled, "
        "time_stamp, claimed_at, answered_at, transaction_id, request_id, error from batch "
        "where programme = %(id)s and run_id = %(run)s order by id",
        {"id": account.id, "run": run_id},
    )


def adjustments(ledger: Ledger, states: Sequence[str] | None = None, limit: int | None = None) -> pd.DataFrame:
    """Return adjustments, newest first: id, state, contact, amount, description, receipt, balance, reason, times."""
    return _frame(
        ledger,
        "select id, state, contact::text as contact, amount, comment, receipt, balance, tries, reason, received_at, "
        "next_try, event_id from adjustment where %(any)s or state = any (%(states)s) order by id desc limit %(limit)s",
        {"any": states is None, "states": list(states or ()), "limit": limit},
    )


def _frame(ledger: Ledger, statement: str, values: dict[str, object]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - half a second, which a run's process is better off with after its work

    with ledger.connection() as connection:
        cursor = connection.execute(statement, values)
        columns = [column.name for column in cursor.description or ()]
        return pd.DataFrame(cursor.fetchall(), columns=columns)
