"""Compares a migration's roster with its files and with what Engage shows, and closes the migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from treazure_pipeline.ledger import batches
from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.point_migration import backfill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from decimal import Decimal
    from typing import Any

    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration

_PLANNED_BATCH_SIZE = 1000


@dataclass(frozen=True)
class ShardAudit:
    """One shard's contacts and points. `unequal`: contacts whose rows do not add up to their balance at the cut-off.

    `without_rows`: contacts with points but no row (no key, left out). Engage's part is empty until it has been read.
    """

    shard: int
    contacts: int
    balance: Decimal
    rounded: Decimal
    rows: int
    imported: Decimal
    unequal: int
    without_rows: int
    left_out: int
    read: int
    in_engage: Decimal
    equal: int
    differing: int
    missing: int


@dataclass(frozen=True)
class Difference:
    """A contact for which Engage shows something different from what was imported; `shown` is None without an account."""

    contact: str
    imported: Decimal | None
    shown: Decimal | None


@dataclass(frozen=True)
class ReadBack:
    """A contact to be read back."""

    shard: int
    contact: str


@retried
def shards(ledger: Ledger, migration: Migration, shard: int | None = None) -> list[ShardAudit]:
    """Compare roster, files and Engage, for each shard or only one."""
    with ledger.transaction() as connection:
        return records(
            connection, ShardAudit, _SHARDS, {"id": migration.id, "decimals": migration.decimals, "shard": shard}
        )


@retried
def unequal(ledger: Ledger, migration: Migration, limit: int = 20) -> list[tuple[str, Decimal, Decimal | None]]:
    """Return contacts whose rows do not add up to their balance: contact, balance at the cut-off, sum of the rows."""
    with ledger.transaction() as connection:
        return connection.execute(
            f"select contact::text, balance, imported from migration_contact where migration = %(id)s and {_UNEQUAL} "
            "order by shard, contact limit %(limit)s",
            {"id": migration.id, "decimals": migration.decimals, "limit": limit},
        ).fetchall()


@retried
def doubled_keys(ledger: Ledger, migration: Migration, limit: int = 20) -> list[tuple[str, int]]:
    """Return keys that several contacts share, and how many share them."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select key, count(*) from migration_contact where migration = %s and key is not null and left_out is null "
            "group by key having count(*) > 1 order by key limit %s",
            (migration.id, limit),
        ).fetchall()


@retried
def findings(ledger: Ledger, migration: Migration) -> list[tuple[str, str, int, Decimal | None]]:
    """Count the findings: origin, kind, how many, and their points."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select origin, kind, count(*), sum(amount) from migration_finding where migration = %s group by 1, 2 order by 1, 2",
            (migration.id,),
        ).fetchall()


@retried
def examples(ledger: Ledger, migration: Migration, limit: int) -> list[tuple[Any, ...]]:
    """Return some findings of every kind: kind, contact, field, value, amount, remedy."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select kind, contact, field, value, amount, remedy from (select f.*, row_number() over "
            "(partition by origin, kind order by contact, value) as n from migration_finding f where migration = %s) f "
            "where n <= %s order by origin, kind, n",
            (migration.id, limit),
        ).fetchall()


@retried
def sizes(ledger: Ledger, migration: Migration) -> list[tuple[int, int, Decimal]]:
    """Return, by the number of digits before the point (negative: -1), how many contacts there are, and their points."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select case when balance < 0 then -1 when balance < 1 then 0 else length(trunc(balance)::text) end as digits, "
            "count(*), sum(balance) from migration_contact where migration = %s group by 1 order by 1",
            (migration.id,),
        ).fetchall()


def export_csv(ledger: Ledger, migration: Migration, what: str) -> Iterator[bytes]:
    """Return a CSV file in pieces: `contacts` (all, with balance, rows, imported, Engage's) or `findings`."""
    statement = _CONTACTS_CSV if what == "contacts" else _FINDINGS_CSV
    with (
        ledger.transaction() as connection,
        connection.cursor() as cursor,
        cursor.copy(statement, {"id": migration.id, "decimals": migration.decimals}) as copy,
    ):
        for piece in copy:
            yield bytes(piece)


# --- reading back ---


@retried
def probe(ledger: Ledger, migration: Migration, limit: int) -> list[ReadBack]:
    """Return a few contacts that have points in the files, spread over all of them."""
    with ledger.transaction() as connection:
        return records(
            connection,
            ReadBack,
            "select shard, contact::text from migration_contact where migration = %s and imported > 0 "
            "order by md5(contact::text) limit %s",
            (migration.id, limit),
        )


@retried
def to_read_back(
    ledger: Ledger, migration: Migration, *, before: datetime, after: ReadBack | None, limit: int
) -> list[ReadBack]:
    """Return contacts that have not been read since the import, or that differed when read before `before`."""
    with ledger.transaction() as connection:
        return records(
            connection,
            ReadBack,
            "select shard, contact::text from migration_contact where migration = %(id)s "
            f"and (read_at is null or read_at < %(before)s and {_DIFFERS}) "
            "and (%(shard)s::smallint is null or (shard, contact) > (%(shard)s, %(contact)s::uuid)) "
            "order by shard, contact limit %(limit)s",
            {
                "id": migration.id,
                "before": before,
                "limit": limit,
                "shard": None if after is None else after.shard,
                "contact": None if after is None else after.contact,
            },
        )


@retried
def record_read_back(
    ledger: Ledger, migration: Migration, rows: Sequence[ReadBack], shown: Sequence[Decimal | None]
) -> None:
    """Record what Engage showed of these contacts."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration_contact m set read_at = clock_timestamp(), read_back = r.shown "
            "from unnest(%s::smallint[], %s::uuid[], %s::numeric[]) r (shard, contact, shown) "
            "where m.migration = %s and m.shard = r.shard and m.contact = r.contact",
            ([row.shard for row in rows], [row.contact for row in rows], list(shown), migration.id),
        )


@retried
def read_back_left(ledger: Ledger, migration: Migration, before: datetime) -> int:
    """Count the contacts that `to_read_back` would return."""
    with ledger.transaction() as connection:
        row = connection.execute(
            f"select count(*) from migration_contact where migration = %s and (read_at is null or read_at < %s and {_DIFFERS})",
            (migration.id, before),
        ).fetchone()
    return 0 if row is None else int(row[0])


@retried
def differences(ledger: Ledger, migration: Migration, limit: int = 20) -> list[Difference]:
    """Return contacts for which Engage shows something different from what was imported."""
    with ledger.transaction() as connection:
        return records(
            connection,
            Difference,
            "select contact::text, imported, read_back as shown from migration_contact "
            f"where migration = %s and read_at is not null and {_DIFFERS} order by shard, contact limit %s",
            (migration.id, limit),
        )


@retried
def close(
    ledger: Ledger, account: Account, migration: Migration, *, run_id: str, accepted_by: str | None, reason: str
) -> dict[str, int]:
    """Record in the ledger what Engage holds, and make the programme live, in one transaction.

    The caller holds the programme's lease and has read every contact back. If Engage shows the newest known master
    balance, to the digits that Engage keeps, that is the sent balance and nothing is pending. Otherwise the sent balance
    is what Engage shows, and the contact is pending. Returns how many contacts there are of each kind.
    """
    batches.fold(ledger, account)
    batches.return_rows(ledger, account)
    with ledger.transaction() as connection:
        batches.keep_from_claiming(connection, account)
        values: dict[str, Any] = {
            "id": migration.id, "programme": account.id, "decimals": migration.decimals, "batch_size": _PLANNED_BATCH_SIZE,
        }  # fmt: skip
        row = one(
            connection,
            "insert into observation (programme, source, state, run_id, asked, answered, figures) "
            "select programme, 'read_back', 'merged', %s, cut_off, roster_answered, %s from migration where id = %s returning id",
            (run_id, Jsonb({"migration": migration.id}), migration.id),
        )
        values["observation"] = row[0]
        connection.execute("set local work_mem to '128MB'")
        connection.execute(_HELD, values)
        connection.execute("create index on held (contact); analyze held")
        for statement in (_LEARN, _SETTLE, _LEAVE_PENDING, _NOTE, _LOADED, _KNOWN):
            connection.execute(statement, values)
        counted = connection.execute(
            "select count(*) filter (where equal), count(*) filter (where not equal) from held"
        ).fetchone()
        assert counted is not None
        figures = {"equal": int(counted[0]), "pending": int(counted[1])}
        connection.execute("update migration set figures = %s where id = %s", (Jsonb(figures), migration.id))
        backfill.end(connection, migration, "closed", by=accepted_by, reason=reason)
    return figures


_UNEQUAL = """left_out is null and (imported is not null and imported <> round(balance, %(decimals)s)
    or imported is null and round(balance, %(decimals)s) <> 0 and not exists (
        select from migration_finding f where f.migration = migration_contact.migration
          and f.contact = migration_contact.contact and f.kind in ('key_missing', 'key_unusable')))"""

_DIFFERS = "coalesce(imported, 0) <> coalesce(read_back, 0)"

_SHARDS = f"""
select shard, count(*) as contacts, sum(balance) as balance, sum(round(balance, %(decimals)s)) as rounded,
       coalesce(sum(rows), 0)::bigint as rows, coalesce(sum(imported), 0) as imported,
       count(*) filter (where {_UNEQUAL}) as unequal,
       count(*) filter (where imported is null and round(balance, %(decimals)s) <> 0) as without_rows,
       count(left_out) as left_out, count(read_at) as read, coalesce(sum(read_back), 0) as in_engage,
       count(*) filter (where read_at is not null and not ({_DIFFERS})) as equal,
       count(*) filter (where read_at is not null and {_DIFFERS}) as differing,
       count(*) filter (where read_at is not null and read_back is null and imported <> 0) as missing
from migration_contact where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s)
group by shard order by shard
"""

_CONTACTS_CSV = f"""
copy (select contact, key, balance as balance_at_cut_off, imported, rows, read_back as in_engage, read_at,
             case when left_out is not null then 'left out' when read_at is null then 'not read'
                  when {_DIFFERS} then 'differs' else 'equal' end as verdict
      from migration_contact where migration = %(id)s order by shard, contact)
to stdout (format csv, header)
"""

# A leading apostrophe keeps spreadsheets from treating a text as a formula.
_FINDINGS_CSV = """
copy (select origin, shard, kind, contact, field,
             case when value ~ '^[-=+@\\t\\r]' then '''' || value else value end as value, amount, remedy
      from migration_finding where migration = %(id)s order by origin, shard, kind, contact)
to stdout (format csv, header)
"""

_HELD = """
create temp table held on commit drop as
select contact, read_back, master, observation, was_pending, is_new,
       round(master, %(decimals)s::integer) = coalesce(read_back, 0) as equal
from (select m.contact, m.read_back, coalesce(p.master, l.sent, m.balance) as master,
             coalesce(p.observation, l.observation, %(observation)s) as observation,
             p.contact is not null as was_pending, p.contact is null and l.contact is null as is_new
      from migration_contact m
      left join pending p on p.programme = %(programme)s and p.contact = m.contact
      left join ledger l on l.programme = %(programme)s and l.contact = m.contact
      where m.migration = %(id)s and m.read_at is not null) m
"""

_LEARN = """
insert into ledger (programme, contact, sent, batch, observation)
select %(programme)s, contact, case when equal then master else read_back end, 0, observation
from held where equal or read_back is not null order by contact
on conflict (programme, contact) do update set sent = excluded.sent, batch = 0, observation = excluded.observation
"""

_SETTLE = """
delete from pending p using held h where h.equal and h.was_pending and p.programme = %(programme)s and p.contact = h.contact
"""

_LEAVE_PENDING = """
insert into pending (programme, contact, master, observation, since)
select %(programme)s, contact, master, observation, clock_timestamp() from held where not equal and not was_pending
"""

_NOTE = """
insert into change (programme, observation, planned, contacts, before, after)
select %(programme)s, %(observation)s, false, array_agg(contact), array_agg(null::numeric), array_agg(master)
from (select contact, master, (row_number() over (order by contact) - 1) / %(batch_size)s as n from held where is_new) h group by n
"""

_LOADED = """
update programme set loaded_at = clock_timestamp(), points_total = points_total + new.points, points_added = points_added + new.added
from (select coalesce(sum(master), 0) as points, coalesce(sum(greatest(master, 0)), 0) as added from held where is_new) new
where id = %(programme)s
"""

_KNOWN = """
insert into known select %(programme)s, count(*) from ledger where programme = %(programme)s
on conflict (programme) do update set contacts = excluded.contacts
"""
