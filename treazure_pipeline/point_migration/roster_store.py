"""A migration's contacts and their logs: the exports that list them, keys, what was read, and what could not be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from psycopg.rows import class_row

from treazure_pipeline.balance_sync.staging import is_rubbish, untrusted
from treazure_pipeline.ledger.coverage import OVERLAP
from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.point_migration import backfill
from treazure_pipeline.point_migration.backfill import FINDINGS_AT_ONCE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from typing import Any

    from treazure_pipeline.clients.decoding import BalanceBlock, RejectedRow
    from treazure_pipeline.ledger.store import Ledger
    from treazure_pipeline.point_migration.backfill import Migration


_SHORTEST_WINDOW = timedelta(seconds=2)


@dataclass(frozen=True)
class ExportWindow:
    """The mutation times of an export for the roster."""

    id: int
    kind: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class ToRead:
    """A contact whose log has to be read. `settled`: its balance at the cut-off is known already.

    `alone`: it could not be read before, so its neighbors may be in parts already.
    """

    contact: str
    settled: bool
    alone: bool


@retried
def next_window(ledger: Ledger, migration: Migration) -> ExportWindow | None:
    """Return the next export to request; None if the roster has them all.

    Once all contacts have been read, one more window finds the accounts that moved after the cut-off.
    """
    with ledger.transaction() as connection:
        connection.execute(
            "insert into migration_window (migration, kind, window_from, window_to) "
            "select %(id)s, 'moved', %(from)s, clock_timestamp() + %(overlap)s where not exists "
            "(select from migration_window where migration = %(id)s and (kind = 'moved' or state = 'open'))",
            {"id": migration.id, "from": migration.cut_off - OVERLAP, "overlap": OVERLAP},
        )
        return (
            connection.cursor(row_factory=class_row(ExportWindow))
            .execute(
                "update migration_window w set asked = clock_timestamp(), window_to = case when kind = 'moved' and not exists "
                "(select from migration_window n where n.migration = w.migration and n.window_to > w.window_to) "
                "then clock_timestamp() + %(overlap)s else window_to end where id = (select id from migration_window "
                "where migration = %(id)s and state = 'open' order by kind, window_from limit 1) "
                'returning id, kind, window_from as start, window_to as "end"',
                {"id": migration.id, "overlap": OVERLAP},
            )
            .fetchone()
        )


@retried
def split(ledger: Ledger, window: ExportWindow, error: str) -> bool:
    """Replace a window whose export failed by its halves. Return False if it is too short for that."""
    if window.end - window.start < 2 * _SHORTEST_WINDOW:
        return False
    middle = window.start + (window.end - window.start) / 2
    with ledger.transaction() as connection:
        connection.execute("update migration_window set state = 'split', error = %s where id = %s", (error, window.id))
        connection.execute(
            "insert into migration_window (migration, kind, window_from, window_to) "
            "select w.migration, w.kind, h.start, h.stop from migration_window w, "
            "(values (%(from)s::timestamptz, %(middle)s::timestamptz), (%(middle)s, %(to)s)) h (start, stop) where w.id = %(id)s",
            {"id": window.id, "from": window.start, "middle": middle, "to": window.end},
        )
    return True


@retried
def add_to_roster(
    ledger: Ledger,
    migration: Migration,
    window: ExportWindow,
    blocks: Iterable[BalanceBlock],
    *,
    max_rejected_share: Decimal,
) -> tuple[int, int]:
    """Copy an export into the roster as it streams in, in one transaction. Return (fetched, rejected).

    If several exports list a contact, the last one counts. Nothing is kept unless all of `blocks` arrives. Raises UntrustedExportError if too
    many rows can't be understood, as in the sync.
    """
    fetched = rejected = 0
    reasons: Counter[str] = Counter()
    with ledger.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(
            "create temp table listed (contact uuid not null, balance numeric not null, mutated_at timestamptz, "
            "position bigint not null) on commit drop"
        )
        odd: list[RejectedRow] = []
        with cursor.copy("copy listed (contact, balance, mutated_at, position) from stdin") as copy:
            for block in blocks:
                copy.write(block.copy_text)
                fetched += block.rows + len(block.rejected)
                rejected += len(block.rejected)
                reasons.update(f"{row.field}: {row.reason}" for row in block.rejected)
                odd += block.rejected[: FINDINGS_AT_ONCE - len(odd)]
        if is_rubbish(fetched, rejected, 0, max_rejected_share):
            raise untrusted(fetched, rejected, reasons, max_rejected_share)
        backfill.add_findings(connection, migration, "roster", None, map(_rejected, odd))
        cursor.execute("analyze listed")
        cursor.execute("set local work_mem to '128MB'")
        values = {"migration": migration.id, "shards": migration.shards, "cut_off": migration.cut_off}
        cursor.execute(_ADD_ALL if window.kind == "all" else _ADD_MOVED, values)
        cursor.execute(
            "update migration_window set state = 'done', answered = clock_timestamp(), fetched = %s, rejected = %s, "
            "error = null where id = %s",
            (fetched, rejected, window.id),
        )
    return fetched, rejected


def _rejected(row: RejectedRow) -> Finding:
    return Finding(
        None, "unreadable_row", row.field, f"{row.value} ({row.reason})",
        remedy="Treazure lists an account that can't be read. It is not imported. Correct it in Treazure, and the sync brings it.",
    )  # fmt: skip


@retried
def add_keys(ledger: Ledger, migration: Migration, rows: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Record the retailer's keys (line, contact, key) as they stream in, in place of earlier ones.

    If a key has changed, all shards have to be written again. Return rows whose contact is not in the roster, FINDINGS_AT_ONCE at most.
    """
    with ledger.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(
            "create temp table given (line integer not null, contact uuid not null, key text not null) on commit drop"
        )
        with cursor.copy("copy given (line, contact, key) from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        values = {"migration": migration.id, "shards": migration.shards, "most": FINDINGS_AT_ONCE}
        cursor.execute("create index on given (contact); analyze given")
        cursor.execute(
            "update migration_contact m set key = g.key from migration_contact c left join given g on g.contact = c.contact "
            "where c.migration = %(migration)s and m.migration = c.migration and m.shard = c.shard and m.contact = c.contact "
            "and c.key is distinct from g.key",
            values,
        )
        if cursor.rowcount:
            cursor.execute("update migration_shard set written_at = null where migration = %(migration)s", values)
        return cursor.execute(
            "select line, contact::text, key from given g where not exists (select from migration_contact m where "
            f"m.migration = %(migration)s and m.shard = {_SHARD.format(contact='g.contact')} and m.contact = g.contact) "
            "order by line limit %(most)s",
            values,
        ).fetchall()


@retried
def complete_roster(ledger: Ledger, migration: Migration) -> None:
    """Record that the roster is complete, so that work on the shards can start."""
    with ledger.transaction() as connection:
        connection.execute("analyze migration_contact")
        connection.execute(
            "insert into migration_shard (migration, shard, contacts) select %(id)s, n, count(m.contact) "
            "from generate_series(0, %(last)s) n left join migration_contact m on m.migration = %(id)s and m.shard = n "
            "group by n on conflict (migration, shard) do nothing",
            {"id": migration.id, "last": migration.shards - 1},
        )
        connection.execute(
            "update migration set state = 'ready', roster_answered = (select max(answered) from migration_window "
            "where migration = %(id)s) where id = %(id)s and state = 'roster'",
            {"id": migration.id},
        )


@retried
def roster_figures(ledger: Ledger, migration: Migration) -> dict[str, Any]:
    """Count the contacts, points, accounts that moved after the cut-off, contacts without a key, and exports of a roster."""
    with ledger.transaction() as connection:
        row = one(
            connection,
            "select count(*), coalesce(sum(balance), 0), count(*) filter (where not settled), count(*) filter (where key is null), "
            "(select count(*) from migration_window where migration = %(id)s and state = 'done'), "
            "(select coalesce(sum(fetched), 0)::bigint from migration_window where migration = %(id)s), "
            "(select coalesce(sum(rejected), 0)::bigint from migration_window where migration = %(id)s) "
            "from migration_contact where migration = %(id)s",
            {"id": migration.id},
        )
    names = ("contacts", "points", "moved", "without_key", "exports", "fetched", "rejected")
    return dict(zip(names, row, strict=True))


@retried
def to_read(ledger: Ledger, migration: Migration, shard: int, *, after: str | None, limit: int) -> list[ToRead]:
    """Return contacts of a shard whose log is in no part yet, in order. In balance mode, only those that moved."""
    with ledger.transaction() as connection:
        return records(
            connection,
            ToRead,
            _TO_READ_LOG if migration.mode == "log" else _TO_READ_BALANCE,
            {"migration": migration.id, "shard": shard, "after": after, "limit": limit},
        )


@retried
def add_part(
    ledger: Ledger,
    migration: Migration,
    shard: int,
    contacts: Sequence[str],
    *,
    movements: int,
    body: bytes | None,
    balances: Mapping[str, Decimal],
) -> None:
    """Record the logs of consecutive contacts and the balances found with them, durably and in one transaction."""
    with ledger.transaction() as connection:
        if body is not None:
            connection.execute(
                "insert into migration_log (migration, shard, first, last, contacts, movements, body) "
                "values (%s, %s, %s, %s, %s, %s, %s)",
                (migration.id, shard, contacts[0], contacts[-1], len(contacts), movements, body),
            )
        if balances:
            connection.execute(
                "update migration_contact m set balance = r.balance, settled = true "
                "from unnest(%s::uuid[], %s::numeric[]) r (contact, balance) "
                "where m.migration = %s and m.shard = %s and m.contact = r.contact",
                (list(balances), list(balances.values()), migration.id, shard),
            )
        connection.execute(
            "delete from migration_unread where migration = %s and shard = %s and contact = any (%s::uuid[])",
            (migration.id, shard, list(contacts)),
        )


@retried
def note_unread(ledger: Ledger, migration: Migration, shard: int, contact: str, reason: str) -> None:
    """Note a contact whose log can't be read, and the reason."""
    with ledger.transaction() as connection:
        connection.execute(
            "insert into migration_unread (migration, shard, contact, reason) values (%s, %s, %s, %s) "
            "on conflict (migration, shard, contact) do update set reason = excluded.reason, "
            "tries = migration_unread.tries + 1, last_try = clock_timestamp()",
            (migration.id, shard, contact, reason),
        )


@retried
def unread(ledger: Ledger, migration: Migration, shard: int | None, limit: int = 20) -> list[tuple[str, str, int]]:
    """Return contacts whose log could not be read: contact, reason, tries."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select contact::text, reason, tries from migration_unread where migration = %(id)s "
            "and (%(shard)s::smallint is null or shard = %(shard)s) order by shard, contact limit %(limit)s",
            {"id": migration.id, "shard": shard, "limit": limit},
        ).fetchall()


@retried
def leave_out_unread(ledger: Ledger, migration: Migration, shard: int) -> int:
    """Leave contacts whose log can't be read out of the import, as a person decided. The sync sets their balance."""
    with ledger.transaction() as connection:
        return connection.execute(
            "with gone as (delete from migration_unread where migration = %(id)s and shard = %(shard)s returning contact, reason) "
            "update migration_contact m set left_out = g.reason from gone g "
            "where m.migration = %(id)s and m.shard = %(shard)s and m.contact = g.contact",
            {"id": migration.id, "shard": shard},
        ).rowcount


def parts(ledger: Ledger, migration: Migration, shard: int) -> Iterator[bytes]:
    """Return the parts of a shard's logs one at a time, in the order of their contacts."""
    with ledger.transaction() as connection, connection.cursor(name="parts") as cursor:
        cursor.itersize = 8
        cursor.execute(
            "select l.body from migration_log l where l.migration = %s and l.shard = %s order by l.first",
            (migration.id, shard),
        )
        for (body,) in cursor:
            yield body


def roster(
    ledger: Ledger, migration: Migration, shard: int, *, block: int = 10_000
) -> Iterator[list[tuple[str, Decimal, str | None]]]:
    """Return the contacts of a shard to import, in order and in blocks: (contact, balance at the cut-off, key)."""
    after = None
    while True:
        with ledger.transaction() as connection:
            rows = connection.execute(
                "select contact::text, balance, key from migration_contact where migration = %(id)s and shard = %(shard)s "
                "and left_out is null and (%(after)s::uuid is null or contact > %(after)s) order by contact limit %(block)s",
                {"id": migration.id, "shard": shard, "after": after, "block": block},
            ).fetchall()
        if not rows:
            return
        yield rows
        after = rows[-1][0]


_SHARD = "((hashtextextended({contact}::text, 0) %% %(shards)s + %(shards)s) %% %(shards)s)::smallint"

_LISTED = f"""
select {_SHARD.format(contact="contact")} as shard, contact, balance, mutated_at
from (select distinct on (contact) contact, balance, mutated_at from listed
      order by contact, mutated_at desc nulls last, position desc) latest
"""

_ADD_ALL = f"""
insert into migration_contact as m (migration, shard, contact, balance, mutated_at, settled)
select %(migration)s, shard, contact, balance, mutated_at, coalesce(mutated_at <= %(cut_off)s, true)
from ({_LISTED}) l order by shard, contact
on conflict (migration, shard, contact) do update
set balance = excluded.balance, mutated_at = excluded.mutated_at, settled = m.settled and excluded.settled
"""

_ADD_MOVED = f"""
insert into migration_contact as m (migration, shard, contact, balance, mutated_at, settled)
select %(migration)s, shard, contact, balance, mutated_at, false from ({_LISTED}) l
on conflict (migration, shard, contact) do update set settled = false, mutated_at = excluded.mutated_at
where m.balance <> excluded.balance or excluded.mutated_at is null or excluded.mutated_at > %(cut_off)s
"""

_TO_READ_LOG = """
select m.contact::text, m.settled, exists (
    select from migration_unread u where u.migration = m.migration and u.shard = m.shard and u.contact = m.contact) as alone
from migration_contact m
where m.migration = %(migration)s and m.shard = %(shard)s and m.left_out is null
  and (%(after)s::uuid is null or m.contact > %(after)s)
  and not exists (
    select from (select l.last from migration_log l where l.migration = %(migration)s and l.shard = %(shard)s
                 and l.first <= m.contact order by l.first desc limit 1) l where l.last >= m.contact)
order by m.contact limit %(limit)s
"""

_TO_READ_BALANCE = """
select m.contact::text, m.settled, exists (
    select from migration_unread u where u.migration = m.migration and u.shard = m.shard and u.contact = m.contact) as alone
from migration_contact m
where m.migration = %(migration)s and m.shard = %(shard)s and m.left_out is null and not m.settled
  and (%(after)s::uuid is null or m.contact > %(after)s)
order by m.contact limit %(limit)s
"""
