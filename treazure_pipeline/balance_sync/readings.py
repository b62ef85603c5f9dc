"""Readings of single accounts: an observation of one balance beside those of the exports (I2).

Belongs here: what a reading changes of what is known, and which accounts are due to be read once more. Does not: the calls
to Treazure (`snapshot`).
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from psycopg.rows import dict_row

from treazure_pipeline.balance_sync import rejections
from treazure_pipeline.ledger import batches
from treazure_pipeline.ledger.coverage import past
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from datetime import datetime

    from treazure_pipeline.ledger.store import Account, Ledger

_LONGEST_LAG = 3600.0


@retried
def record_account(
    ledger: Ledger,
    account: Account,
    contact: str,
    balance: Decimal,
    asked: datetime,
    run_id: str,
    *,
    lag: float | None = None,
    clocks_apart: bool = False,
) -> bool:
    """Record one account's balance, read between `asked` (database clock) and now. Return True when that settled it.

    False: the reading overlaps with another observation that differs, so which one is newer can't be told; read the
    account once more. An account read before what is known is dropped as superseded (True). `lag`: the balance is a
    transaction's answer, and for that many seconds a read may come from a replica that lacks it. A read that differs is
    dropped meanwhile, and the account is read once more afterwards (True). While Treazure's and the database's clocks
    are apart (`clocks_apart`), the database's may have jumped past these seconds, so they are not over.
    """
    with (
        ledger.transaction() as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        # Its caller commits durably after this, which flushes what comes before; the programme's row is free sooner.
        cursor.execute("set local synchronous_commit to off")
        known = one(
            cursor,
            f"select clock_timestamp() as answered, {past('g.export_answered')} as "
            "export_answered, g.points_total from programme g where id = %s for update",
            (account.id,),
        )
        batches.keep_from_settling(connection, account, contact)
        values = {"programme": account.id, "contact": contact, "balance": balance}
        row = cursor.execute(_KNOWN_ROW, values).fetchone()
        differs = row is None or row["balance"] != balance
        if differs and row is not None and row["asked"] > known["answered"]:
            return True
        last_seen = known["export_answered"] if row is None else max(known["export_answered"], row["answered"])
        if differs and asked <= last_seen:
            return False
        lagging = row is not None and row["lags_until"] is not None and (clocks_apart or asked <= row["lags_until"])
        if lag is None and lagging and differs:
            wait = batches.FIRST_WAIT if clocks_apart else timedelta(0)
            cursor.execute(_READ_LATER, values | {"next_try": row and max(row["lags_until"], known["answered"] + wait)})
            return True
        lags_until = row["lags_until"] if row is not None and lagging else None
        if lag is not None:
            lags_until = known["answered"] + timedelta(seconds=min(lag, _LONGEST_LAG))
        settled = row is None or row["settled"]
        values["observation"] = one(
            cursor,
            # `outdated`: read by workers of older versions, which fail on null.
            "insert into observation (programme, source, state, run_id, asked, answered, lags_until, outdated, contact, entered) "
            "values (%s, 'account', 'merged', %s, %s, %s, %s, '{}', %s, %s) returning id",
            (
                account.id,
                run_id,
                asked,
                known["answered"],
                lags_until,
                contact,
                int(differs and settled),
            ),
        )["id"]
        if differs:
            before = None if row is None else row["balance"]
            cursor.execute(_ENTER, values | {"before": before, "change": balance - (before or 0)})
        else:
            cursor.execute(_TOUCH, values)
        cursor.execute(_HAS_BEEN_READ, values | {"asked": asked})
    return True


@retried
def to_reread(ledger: Ledger, account: Account) -> list[str]:
    """Return the contacts that are to be read once more now: their observations overlapped and differed."""
    with ledger.transaction() as connection:
        rows = connection.execute(_TO_REREAD, {"id": account.id, "longest": batches.LONGEST_WAIT})
        return [contact for (contact,) in rows]


@retried
def postpone_reread(ledger: Ledger, account: Account, contact: str, reason: str, scale: float) -> None:
    """Note that an account could not be read once more; it waits, longer each time (`scale` multiplies the waits)."""
    with ledger.transaction() as connection:
        connection.execute(
            "update reread set tries = least(tries + 1, 1000), reason = %s, "
            "next_try = clock_timestamp() + least(%s * power(2, least(tries, 20)), %s) "
            "where programme = %s and contact = %s",
            (reason, batches.FIRST_WAIT * scale, batches.LONGEST_WAIT * scale, account.id, contact),
        )


@retried
def drop_reread(ledger: Ledger, account: Account, contact: str) -> None:
    """Give up reading a contact once more (its account is gone in Treazure); what is known stays."""
    with ledger.transaction() as connection:
        connection.execute("delete from reread where programme = %s and contact = %s", (account.id, contact))


_KNOWN_ROW = f"""
select k.balance, k.settled, case when o.answered <= clock_timestamp() then o.asked else 'epoch' end as asked,
       {past("o.answered")} as answered, case when o.answered <= clock_timestamp() then o.lags_until end as lags_until
from (
    (select master as balance, observation, false as settled from unsettled
     where programme = %(programme)s and contact = %(contact)s)
    union all
    (select sent, observation, true from ledger where programme = %(programme)s and contact = %(contact)s)
    order by settled limit 1) k
left join observation o on o.id = k.observation
"""

# A planned batch with an older balance of the contact is taken apart. It would be sent after the newer one.
_ENTER = f"""
with noted as (
    insert into change (programme, observation, planned, contacts, before, after)
    values (%(programme)s, %(observation)s, false, array[%(contact)s::uuid], array[%(before)s::numeric], array[%(balance)s])),
{batches.UNPLAN.format(planned="%(contact)s = any (contacts)", rows="r.contact <> %(contact)s")},
entered as (
    insert into pending (programme, contact, master, observation, since)
    values (%(programme)s, %(contact)s, %(balance)s, %(observation)s, clock_timestamp())
    on conflict (programme, contact) do update
    set master = excluded.master, observation = excluded.observation, changed_at = excluded.changed_at, {batches.REVIVED})
update programme set points_total = points_total + %(change)s, points_added = points_added + greatest(%(change)s, 0)
where id = %(programme)s
"""

_TO_REREAD = """
select contact::text from reread
where programme = %(id)s and not (next_try > clock_timestamp() and next_try <= clock_timestamp() + %(longest)s)
order by since
"""

_READ_LATER = """
insert into reread (programme, contact, since, next_try) values (%(programme)s, %(contact)s, clock_timestamp(), %(next_try)s)
on conflict (programme, contact) do update set next_try = excluded.next_try
"""

_HAS_BEEN_READ = f"""
with resolved as ({rejections.RESOLVE_READ})
delete from reread where programme = %(programme)s and contact = %(contact)s
"""

_TOUCH = f"""
with touched as (
    update pending set observation = %(observation)s, {batches.REVIVED} where programme = %(programme)s and contact = %(contact)s)
update ledger set observation = %(observation)s where programme = %(programme)s and contact = %(contact)s
"""
