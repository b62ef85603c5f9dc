"""A migration's files and how far their delivery to Engage has got, as files or row by row through the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried
from treazure_pipeline.point_migration import backfill
from treazure_pipeline.point_migration.backfill import Finding, MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal
    from typing import Any

    import psycopg

    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration


@dataclass(frozen=True)
class File:
    """A written file. `state`: written, uploaded (it may be at the target) or delivered."""

    shard: int
    name: str
    rows: int
    total: Decimal
    size: int
    sha256: str
    state: str = "written"


@retried
def record_files(
    ledger: Ledger,
    migration: Migration,
    shard: int,
    files: Sequence[File],
    findings: Iterable[Finding],
    sums: Iterable[tuple[str, Decimal, int]],
    figures: Mapping[str, Any],
) -> None:
    """Record what a shard's files hold, in place of what an earlier run wrote: files, findings, and (key, sum, rows).

    `sums` was read from the files themselves. Raises MigrationError where a file that has left already would change.
    """
    with ledger.transaction() as connection, connection.cursor() as cursor:
        known = {
            name: sha256
            for name, sha256, state in cursor.execute(
                "select name, sha256, state from migration_file where migration = %s and shard = %s for update",
                (migration.id, shard),
            ).fetchall()
            if state != "written"
        }
        asked = cursor.execute("select exists (select from migration_request where migration = %s)", (migration.id,))
        sent = asked.fetchone() == (True,)
        written = {file.name: file.sha256 for file in files}
        if any(written.get(name) != sha256 for name, sha256 in known.items()) or (
            sent and not _same(connection, migration, shard, written)
        ):
            raise MigrationError(
                f"Shard {shard} of migration {migration.id} has been delivered, and its files would change.",
                hint="The hourly sync brings what changed. Nothing has to be written again.",
            )
        cursor.execute(
            "delete from migration_file where migration = %s and shard = %s and state = 'written'",
            (migration.id, shard),
        )
        cursor.executemany(
            "insert into migration_file (migration, shard, name, rows, total, size, sha256) "
            "values (%s, %s, %s, %s, %s, %s, %s) on conflict (migration, name) do nothing",
            [(migration.id, shard, f.name, f.rows, f.total, f.size, f.sha256) for f in files],
        )
        cursor.execute("create temp table held (key text not null, total numeric, rows integer) on commit drop")
        with cursor.copy("copy held (key, total, rows) from stdin") as copy:
            for row in sums:
                copy.write_row(row)
        cursor.execute("create index on held (key); analyze held")
        values = {"id": migration.id, "shard": shard, "by_contact": migration.key_type == "ContactId"}
        cursor.execute(_RECORD_SUMS, values)
        cursor.execute(
            "delete from migration_finding where migration = %s and origin = 'files' and shard = %s",
            (migration.id, shard),
        )
        backfill.add_findings(connection, migration, "files", shard, findings)
        cursor.execute(
            "update migration_shard set written_at = clock_timestamp(), figures = %s where migration = %s and shard = %s",
            (Jsonb(figures), migration.id, shard),
        )


def _same(connection: psycopg.Connection, migration: Migration, shard: int, written: Mapping[str, str]) -> bool:
    rows = connection.execute(
        "select name, sha256 from migration_file where migration = %s and shard = %s", (migration.id, shard)
    ).fetchall()
    return {str(name): str(sha256) for name, sha256 in rows} == dict(written)


@retried
def files(ledger: Ledger, migration: Migration) -> list[File]:
    """Return the files of all shards, by name."""
    with ledger.transaction() as connection:
        return records(
            connection,
            File,
            "select shard, name, rows, total, size, sha256, state from migration_file where migration = %s order by name",
            (migration.id,),
        )


@retried
def mark_file(ledger: Ledger, migration: Migration, name: str, state: str) -> None:
    """Record durably how far a file's delivery has got."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration_file set state = %(state)s, "
            "delivered_at = case when %(state)s = 'delivered' then clock_timestamp() end "
            "where migration = %(id)s and name = %(name)s",
            {"state": state, "id": migration.id, "name": name},
        )


@retried
def ledger_has_moved(ledger: Ledger, migration: Migration) -> bool:
    """Return whether the ledger has been restored or failed over since the migration began."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select ledger is distinct from ledger_identity() from migration where id = %s and ledger is not null",
            (migration.id,),
        ).fetchone()
    return row is not None and bool(row[0])


@retried
def numbers(ledger: Ledger, account: Account) -> set[int]:
    """Return the numbers of all migrations of a programme, including ended ones."""
    with ledger.transaction() as connection:
        rows = connection.execute("select id from migration where programme = %s", (account.id,)).fetchall()
    return {number for (number,) in rows}


@retried
def complete_delivery(ledger: Ledger, migration: Migration, *, by: str, to: str) -> None:
    """Record that everything is delivered. `to` contains no secret."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration set state = 'delivered', delivered_by = %s, delivered_to = %s, delivered_at = clock_timestamp() "
            "where id = %s and state = 'ready'",
            (by, to, migration.id),
        )


@dataclass(frozen=True)
class Request:
    """Rows of a file for one request to Engage. `repeat`: an earlier call, made `seconds` ago, got no answer."""

    id: int
    key: str
    state: str
    repeat: bool
    seconds: float


@retried
def claim_request(
    ledger: Ledger,
    migration: Migration,
    name: str,
    first_row: int,
    rows: int,
    key: str,
    *,
    remembered: float,
    forgetful: bool,
) -> Request:
    """Store the intent to send some rows of a file, once, before the call; return what is known of it.

    A call without an answer may be repeated with its key for `remembered` seconds; after that it is uncertain. So is
    one that a `forgetful` ledger (`ledger_has_moved`) knows nothing of.
    """
    state = "uncertain" if forgetful else "sending"
    values = {
        "migration": migration.id, "name": name, "first": first_row, "rows": rows, "key": key, "remembered": remembered,
        "state": state,
    }  # fmt: skip
    with ledger.transaction() as connection:
        made = connection.execute(
            "insert into migration_request (migration, name, first_row, rows, idempotency_key, state, asked_at) "
            "values (%(migration)s, %(name)s, %(first)s, %(rows)s, %(key)s, %(state)s, clock_timestamp()) "
            "on conflict (migration, name, first_row) do nothing returning id",
            values,
        ).fetchone()
        if made is not None:
            return Request(made[0], key, state, repeat=False, seconds=0.0)
        row = one(
            connection,
            "update migration_request set state = case when state = 'sending' and "
            "asked_at + make_interval(secs => %(remembered)s) <= clock_timestamp() then 'uncertain' else state end "
            "where migration = %(migration)s and name = %(name)s and first_row = %(first)s "
            "returning id, idempotency_key, state, extract(epoch from clock_timestamp() - asked_at)::float",
            values,
        )
    return Request(row[0], row[1], row[2], repeat=True, seconds=row[3])


@retried
def answer_request(ledger: Ledger, request: Request, state: str, *, refused: int = 0, error: str | None = None) -> None:
    """Record durably how a request ended. `sending` keeps it, to be repeated with its key."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration_request set state = %s, refused = %s, error = %s, "
            "answered_at = case when %s = 'sending' then null else clock_timestamp() end where id = %s",
            (state, refused, error, state, request.id),
        )


@retried
def take_back_request(ledger: Ledger, request: Request) -> None:
    """Forget a request that had no effect, so that it is made again."""
    with ledger.transaction() as connection:
        connection.execute("delete from migration_request where id = %s", (request.id,))


@retried
def note_refused_rows(ledger: Ledger, migration: Migration, findings: Iterable[Finding]) -> None:
    """Record rows that Engage refused."""
    with ledger.transaction() as connection:
        backfill.add_findings(connection, migration, "delivery", None, findings)


@retried
def has_requests(ledger: Ledger, migration: Migration) -> bool:
    """Return whether rows of the migration have gone to Engage by API."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select exists (select from migration_request where migration = %s)", (migration.id,)
        ).fetchone()
    return row is not None and bool(row[0])


@retried
def uncertain_requests(ledger: Ledger, migration: Migration) -> list[tuple[int, str, int, int]]:
    """Return requests that Engage may or may not have taken: id, file, first row, rows."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select id, name, first_row, rows from migration_request where migration = %s and state = 'uncertain' order by id",
            (migration.id,),
        ).fetchall()


@retried
def decide_uncertain(ledger: Ledger, migration: Migration, *, taken: bool) -> int:
    """Settle the uncertain requests by a person's decision: Engage has them, or they are to be sent.

    That person has looked, so the ledger is no longer one that may have forgotten.
    """
    statement = (
        "update migration_request set state = 'taken', error = 'taken, a person says' where migration = %s and state = 'uncertain'"
        if taken
        else "delete from migration_request where migration = %s and state = 'uncertain'"
    )
    with ledger.transaction() as connection:
        connection.execute("update migration set ledger = ledger_identity() where id = %s", (migration.id,))
        return connection.execute(statement, (migration.id,)).rowcount


_RECORD_SUMS = """
update migration_contact m set imported = h.total, rows = coalesce(h.rows, 0)
from migration_contact c left join held h on h.key = case when %(by_contact)s then c.contact::text else c.key end
where c.migration = %(id)s and c.shard = %(shard)s
  and m.migration = c.migration and m.shard = c.shard and m.contact = c.contact
"""
