"""Points logs in the database: which are due, the rows of those that were read, and what they add up to.

`refresh` asks Treazure, and `export` writes files.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.types.json import Json

from treazure_pipeline.errors import PipelineError
from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.texts import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from decimal import Decimal

    from psycopg.rows import TupleRow

    from treazure_pipeline.clients.movements import Unreadable
    from treazure_pipeline.clients.wire import Movement
    from treazure_pipeline.ledger.store import Account, Ledger

COLUMNS = (
    "date_time", "amount", "balance", "transaction_type", "expires_at", "comment", "operator_id", "shop_id", "pos_id",
    "receipt_nr", "properties",
)  # fmt: skip
_OF_MONTH = (
    "programme = %(programme)s and date_time >= %(start)s::timestamp at time zone 'UTC' "
    "and date_time < (%(start)s::timestamp + interval '1 month') at time zone 'UTC'"
)


class UnstorableError(PipelineError):
    """A log contains something that PostgreSQL can't store."""


@dataclass(frozen=True)
class Due:
    """A contact whose log is due. `known` is the newest master balance, None if there is none."""

    contact: str
    change: int
    failed_at: datetime
    known: Decimal | None


@dataclass(frozen=True)
class Read:
    """A contact's log, oldest movement first, asked for at `asked` (database's clock).

    Attributes:
        total: The sum of the amounts that move points.
        log_balance: The balance after the newest movement.
        balance: The account's balance at that time; None if Treazure has no such account.
        unreadable: The movements that can't be read.
    """

    due: Due
    asked: datetime
    movements: Sequence[Movement]
    total: Decimal
    log_balance: Decimal
    balance: Decimal | None
    unreadable: Sequence[Unreadable] = ()


@dataclass(frozen=True)
class State:
    """How a programme's logs stand: movements stored (`rows`), logs that are due and since when, and what is wrong.

    `unreadable` counts movements; `failed` and `differing` count logs.
    """

    rows: int
    due: int
    oldest_due: datetime | None
    failed: int
    differing: int
    unreadable: int


@dataclass(frozen=True)
class Month:
    """How many movements a month has, and when they last changed."""

    month: date
    rows: int
    changed_at: datetime


@retried
def note_due(ledger: Ledger, account: Account, *, everybody: bool, keep_days: int) -> bool:
    """Note whose log is due: contacts whose balance changed since this was last done, or everybody's.

    It is also everybody's the first time, and after so long that `change` may have lost rows since. Returns whether it was. A programme's
    changes become visible in the order of their numbers, since whoever writes one holds the programme's row. So nothing can appear before
    the newest one seen.
    """
    with ledger.transaction() as connection:
        values = {"programme": account.id, "days": keep_days}
        marked = connection.execute(
            "select 1 from points_history_mark where programme = %(programme)s "
            "and noted_at > clock_timestamp() - make_interval(days => %(days)s) for update",
            values,
        ).fetchone()
        if everybody or marked is None:
            connection.execute(_NOTE_EVERYBODY, values)
            return True
        connection.execute(_NOTE_CHANGED, values)
        return False


@retried
def due(ledger: Ledger, account: Account, *, before: datetime, after: Due | None, limit: int) -> list[Due]:
    """Return the next contacts after one, in key order, those that have not failed first.

    Contacts that have failed since `before` (when the run began) are left to the next run.
    """
    with ledger.transaction() as connection:
        found = connection.execute(
            _DUE if after is None else _DUE_AFTER,
            {
                "programme": account.id, "before": before, "limit": limit,
                **({} if after is None else {"failed_at": after.failed_at, "contact": after.contact}),
            },
            prepare=False,
        ).fetchall()  # fmt: skip
    return [Due(*row) for row in found]


@retried
def count_due(ledger: Ledger, account: Account, *, before: datetime) -> int:
    """Count all contacts that `due` will return."""
    with ledger.transaction() as connection:
        row = one(
            connection,
            "select count(*) from points_history_due where programme = %s and failed_at < %s",
            (account.id, before),
        )
    return int(row[0])


@retried
def replace(ledger: Ledger, account: Account, read: Read) -> int:
    """Replace a contact's rows with those of its log, in one transaction. Return how many rows were written.

    Unchanged rows at the start of the log stay as they are. A log that was asked for earlier than the stored one changes nothing. The contact
    stays due if another change was noted meanwhile. Raises UnstorableError if PostgreSQL can't store the log.
    """
    new = [_row(movement) for movement in read.movements]
    values = {
        "programme": account.id, "contact": read.due.contact, "asked": read.asked, "change": read.due.change,
        "rows": len(new), "sum": read.total, "log_balance": read.log_balance, "balance": read.balance,
        "unreadable": len(read.unreadable), "first": str(read.unreadable[0]) if read.unreadable else None,
    }  # fmt: skip
    with _storing(), ledger.transaction() as connection:
        # What a crash of the server loses is still due afterwards.
        connection.execute("set local synchronous_commit to off")
        if connection.execute(_NOTE_READ, values).fetchone() is None:
            return 0
        old = connection.execute(
            f"select {', '.join(COLUMNS)} from points_history "
            "where programme = %(programme)s and contact = %(contact)s order by position",
            values,
        ).fetchall()
        same = 0
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        if same < len(old):
            connection.execute(
                "delete from points_history where programme = %(programme)s and contact = %(contact)s "
                "and position > %(same)s",
                values | {"same": same},
            )
        _copy(connection, values, new, same)
        _count_months(connection, account, old[same:], new[same:])
        connection.execute(
            "delete from points_history_due where programme = %(programme)s and contact = %(contact)s "
            "and change <= %(change)s",
            values,
        )
    return len(new) - same


@retried
def note_failure(ledger: Ledger, account: Account, contact: str, reason: str) -> None:
    """Note why a contact's log could not be read. Its rows stay, and the next run tries again."""
    values = {"programme": account.id, "contact": contact, "reason": clean(reason)}
    with ledger.transaction() as connection:
        connection.execute(
            "insert into points_history_read (programme, contact, tried_at, error) "
            "values (%(programme)s, %(contact)s, clock_timestamp(), %(reason)s) "
            "on conflict (programme, contact) do update set tried_at = excluded.tried_at, error = excluded.error",
            values,
        )
        connection.execute(
            "update points_history_due set failed_at = clock_timestamp() "
            "where programme = %(programme)s and contact = %(contact)s",
            values,
        )


@retried
def state(ledger: Ledger, account: Account) -> State:
    """Return how the logs stand. The cost grows with what is due or wrong."""
    with ledger.transaction() as connection:
        row = one(connection, _STATE, {"programme": account.id})
    return State(*row)


@retried
def months(ledger: Ledger, account: Account) -> list[Month]:
    """Return all months in which a programme has or had movements, in order."""
    with ledger.reading() as connection:
        return records(
            connection,
            Month,
            "select month, rows, changed_at from points_history_month where programme = %s order by month",
            (account.id,),
        )


class Block(NamedTuple):
    """Rows of CSV, each ending with a line break, and how many there are."""

    text: bytearray
    rows: int

    @property
    def has_breaks(self) -> bool:
        """Whether a value contains a line break."""
        return self.text.count(b"\n") != self.rows or b"\r" in self.text


@contextmanager
def unchanging(ledger: Ledger, account: Account, month: date) -> Iterator[Snapshot]:
    """Yield an unchanging view of a month, for an export. Only one month at a time, since it keeps vacuum from cleaning up."""
    with ledger.reading() as connection:
        row = one(
            connection,
            "select month, rows, changed_at from points_history_month where programme = %s and month = %s",
            (account.id, month),
        )
        yield Snapshot(connection, account, Month(*row))


class Snapshot:
    """The movements of a programme's month as they were at one moment; `month` describes that state."""

    def __init__(self, connection: psycopg.Connection[TupleRow], account: Account, month: Month) -> None:
        self._connection = connection
        self._account = account
        self.month = month

    @contextmanager
    def csv(self, size: int) -> Iterator[Iterator[Block]]:
        """Read the month in order of time as CSV (contact, position, and `COLUMNS`), in blocks of complete rows.

        A block ends with the row that brings it to `size` bytes. Times are ISO 8601 in UTC, properties are JSON, and a value that is
        empty and unquoted is null.
        """
        with (
            self._connection.cursor() as cursor,
            cursor.copy(
                f"copy (select contact, position, {', '.join(COLUMNS)} from points_history where {_OF_MONTH} "
                "order by date_time, contact, position) to stdout (format csv)",
                {"programme": self._account.id, "start": self.month.month},
            ) as copy,
        ):
            yield _blocks(copy, size)


def _blocks(rows: Iterable[bytes | bytearray | memoryview], size: int) -> Iterator[Block]:
    text, count = bytearray(), 0
    for row in rows:
        text += row
        count += 1
        if len(text) >= size:
            yield Block(text, count)
            text, count = bytearray(), 0
    if count:
        yield Block(text, count)


@retried
def too_long(ledger: Ledger, account: Account, *, digits: int, decimals: int) -> tuple[str, int] | None:
    """Return the contact and position of a movement whose points have too many digits or decimals, or None."""
    with ledger.reading() as connection:
        found = connection.execute(
            "select contact::text, position from points_history where programme = %(programme)s "
            "and (scale(trim_scale(amount)) > %(decimals)s or scale(trim_scale(balance)) > %(decimals)s "
            "or greatest(abs(amount), abs(balance)) >= power(10::numeric, %(digits)s - %(decimals)s)) limit 1",
            {"programme": account.id, "digits": digits, "decimals": decimals},
        ).fetchone()
    return None if found is None else (found[0], found[1])


@contextmanager
def _storing() -> Iterator[None]:
    try:
        yield
    except psycopg.DataError as error:
        # The driver's text would quote the log.
        raise UnstorableError(
            f"PostgreSQL can't hold this log ({type(error).__name__}).", hint="Correct the movement in Treazure."
        ) from None


def _row(movement: Movement) -> tuple[Any, ...]:
    return tuple(getattr(movement, name) for name in COLUMNS)


def _copy(
    connection: psycopg.Connection[TupleRow], values: dict[str, Any], rows: Sequence[tuple[Any, ...]], same: int
) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(f"copy points_history (programme, contact, position, {', '.join(COLUMNS)}) from stdin") as copy,
    ):
        for position, (*others, properties) in enumerate(rows[same:], same + 1):
            held = None if properties is None else Json(properties)
            copy.write_row((values["programme"], values["contact"], position, *others, held))


def _count_months(
    connection: psycopg.Connection[TupleRow],
    account: Account,
    gone: Sequence[tuple[Any, ...]],
    come: Sequence[tuple[Any, ...]],
) -> None:
    more = Counter(_month(row[0]) for row in come)
    changed = sorted({*more, *(_month(row[0]) for row in gone)})
    more.subtract(_month(row[0]) for row in gone)
    if changed:
        # Always in the same order, so that two transactions never wait for each other.
        connection.execute(
            "insert into points_history_month (programme, month, rows, changed_at) "
            "select %s, month, rows, clock_timestamp() from unnest(%s::date[], %s::bigint[]) as m (month, rows) "
            "order by month on conflict (programme, month) do update "
            "set rows = points_history_month.rows + excluded.rows, changed_at = clock_timestamp()",
            (account.id, changed, [more[month] for month in changed]),
        )


def _month(moment: datetime) -> date:
    return date(moment.year, moment.month, 1)


_NOTE_EVERYBODY = """
with horizon as (
    select coalesce(max(id), 0) as change from change where programme = %(programme)s),
marked as (
    insert into points_history_mark (programme, change, noted_at)
    select %(programme)s, change, clock_timestamp() from horizon
    on conflict (programme) do update set change = excluded.change, noted_at = excluded.noted_at)
insert into points_history_due (programme, contact, change)
select %(programme)s, contact, horizon.change from (
    select contact from ledger where programme = %(programme)s
    union select contact from unsettled where programme = %(programme)s) c, horizon
order by contact on conflict do nothing
"""

_NOTE_CHANGED = """
with news as materialized (
    select c.id, c.contacts from change c join points_history_mark m on m.programme = c.programme
    where c.programme = %(programme)s and c.id > m.change),
marked as (
    update points_history_mark set change = greatest(change, (select max(id) from news)), noted_at = clock_timestamp()
    where programme = %(programme)s)
insert into points_history_due (programme, contact, change)
select %(programme)s, r.contact, max(news.id) from news, unnest(news.contacts) as r (contact)
group by r.contact order by r.contact
on conflict (programme, contact) do update set change = greatest(points_history_due.change, excluded.change)
"""

_NEXT = """
select d.contact::text, d.change, d.failed_at, coalesce(u.master, l.sent) from (
    select contact, change, failed_at from points_history_due
    where programme = %(programme)s and failed_at < %(before)s {after}
    order by failed_at, contact limit %(limit)s) d
left join ledger l on l.programme = %(programme)s and l.contact = d.contact
left join unsettled u on u.programme = %(programme)s and u.contact = d.contact
order by d.failed_at, d.contact
"""
_DUE = _NEXT.format(after="")
_DUE_AFTER = _NEXT.format(after="and (failed_at, contact) > (%(failed_at)s, %(contact)s::uuid)")

_NOTE_READ = """
insert into points_history_read (programme, contact, read_at, tried_at, rows, sum, log_balance, balance, unreadable,
                                 first_unreadable)
values (%(programme)s, %(contact)s, %(asked)s, clock_timestamp(), %(rows)s, %(sum)s, %(log_balance)s, %(balance)s,
        %(unreadable)s, %(first)s)
on conflict (programme, contact) do update
set read_at = excluded.read_at, tried_at = excluded.tried_at, rows = excluded.rows, sum = excluded.sum,
    log_balance = excluded.log_balance, balance = excluded.balance, error = null,
    unreadable = excluded.unreadable, first_unreadable = excluded.first_unreadable, texts = true
where points_history_read.read_at is null or points_history_read.read_at <= excluded.read_at
returning true
"""

_STATE = """
select (select coalesce(sum(rows), 0)::bigint from points_history_month where programme = %(programme)s),
       (select count(*) from points_history_due where programme = %(programme)s),
       (select min(since) from points_history_due where programme = %(programme)s),
       (select count(*) from points_history_read where programme = %(programme)s and error is not null),
       (select count(*) from points_history_read where programme = %(programme)s
            and (difference is distinct from 0 or log_balance is distinct from balance) and read_at is not null),
       (select coalesce(sum(unreadable), 0)::bigint from points_history_read
            where programme = %(programme)s and unreadable > 0)
"""
