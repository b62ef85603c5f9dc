"""The state of a point migration: how it begins and ends, its terms and cut-off, its progress, and what was found.

Its contacts and their logs are in `roster_store`, its files and their delivery in `file_store`, and what Engage holds afterwards in `audit_store`.

    roster ──▶ ready ──▶ delivered ──▶ closed
       └─────────┴──────────┴────────▶ abandoned

The programme is migrating from the first state to the last: its push claims nothing, and its adjustments wait (I11).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from treazure_pipeline.errors import BusyError, PipelineError
from treazure_pipeline.ledger import batches
from treazure_pipeline.ledger.coverage import OVERLAP
from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from datetime import datetime
    from decimal import Decimal

    import psycopg

    from treazure_pipeline.ledger.store import Account, Ledger

Mode = Literal["log", "balance"]
KeyType = Literal["ContactId", "MemberNumber", "ExternalId"]
FINDINGS_AT_ONCE = 5_000


class MigrationError(PipelineError):
    """A request does not fit the migration's state. The text says what does."""


@dataclass(frozen=True)
class Terms:
    """The terms of a migration, fixed when it begins. `decimals`: how many digits of points Engage keeps."""

    mode: Mode
    key_type: KeyType
    shards: int
    decimals: int


@dataclass(frozen=True)
class Migration:
    """A programme's migration. Movements up to `cut_off` are imported."""

    id: int
    programme: int
    state: str
    cut_off: datetime
    mode: Mode
    key_type: KeyType
    shards: int
    decimals: int
    run_id: str
    delivered_by: str | None
    delivered_to: str | None

    @property
    def terms(self) -> Terms:
        """The terms with which it began."""
        return Terms(self.mode, self.key_type, self.shards, self.decimals)


@dataclass(frozen=True)
class Progress:
    """How far a migration or a shard has got, counted in contacts, except `movements`, `files` and `shards_written`."""

    contacts: int
    fetched: int
    unread: int
    left_out: int
    movements: int
    files: int
    shards_written: int


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at: where, what it is, and what to do."""

    contact: str | None
    kind: str
    field: str = ""
    value: str = ""
    amount: Decimal | None = None
    remedy: str = ""


@retried
def begin(ledger: Ledger, account: Account, terms: Terms, *, run_id: str, although_loaded: bool) -> Migration:
    """Return the programme's open migration. If there is none, begin one, whose cut-off is now.

    The caller holds the programme's lock. Once this commits, no request to Engage is claimed for the programme. Raises MigrationError if the
    programme has sent balances before, unless `although_loaded`.
    """
    with ledger.transaction() as connection:
        batches.keep_from_claiming(connection, account)
        found = _open(connection, account)
        if found is not None:
            return found
        row = connection.execute(
            "select exists (select from ledger where programme = %(id)s) or exists (select from batch where "
            "programme = %(id)s and state not in ('refused', 'failed')) from programme where id = %(id)s",
            {"id": account.id},
        ).fetchone()
        if row is not None and row[0] and not although_loaded:
            raise MigrationError(
                f"Programme {account.name!r} has sent balances to Engage already, and an import would add to them.",
                hint="It needs no migration. If Engage's accounts have been emptied since then, set `although_loaded`.",
            )
        connection.execute("update programme set mode = 'migrating' where id = %s", (account.id,))
        connection.execute(
            "insert into migration (programme, cut_off, mode, key_type, shards, decimals, run_id) "
            "values (%s, clock_timestamp(), %s, %s, %s, %s, %s)",
            (account.id, terms.mode, terms.key_type, terms.shards, terms.decimals, run_id),
        )
        begun = _open(connection, account)
        assert begun is not None
        connection.execute(
            "insert into migration_window (migration, kind, window_from, window_to) values (%s, 'all', %s, %s)",
            (begun.id, account.beginning, begun.cut_off + OVERLAP),
        )
    return begun


def opened(ledger: Ledger, account: Account) -> Migration:
    """Return the programme's open migration. Raises MigrationError if there is none."""
    found = current(ledger, account)
    if found is None:
        raise MigrationError(f"Programme {account.name!r} has no migration.", hint="Run prepare_migration first.")
    return found


@retried
def current(ledger: Ledger, account: Account) -> Migration | None:
    """Return the programme's open migration, or None."""
    with ledger.transaction() as connection:
        return _open(connection, account)


@retried
def newest(ledger: Ledger, account: Account) -> Migration | None:
    """Return the programme's newest migration, open or over, or None."""
    with ledger.transaction() as connection:
        return _one(connection, account, "order by id desc")


def require(migration: Migration, *states: str) -> None:
    """Raise MigrationError unless the migration is in one of `states`."""
    if migration.state not in states:
        raise MigrationError(
            f"Migration {migration.id} is in state {migration.state!r}, not {' or '.join(states)}.",
            hint={
                "roster": "Its roster is not complete. Run prepare_migration again; it continues where it stopped.",
                "ready": "Its files are not delivered. Run point_migration, then finish_migration.",
                "delivered": "Its files are delivered, and only the audit is left. Run finish_migration.",
            }.get(migration.state, "It is over."),
        )


@retried
def abandon(ledger: Ledger, account: Account, *, by: str, reason: str) -> Migration:
    """Abandon the open migration and make the programme live again. What was fetched and written is kept.

    Raises BusyError while it is being prepared, delivered or audited.
    """
    with holding(ledger, account), ledger.transaction() as connection:
        migration = _open(connection, account)
        if migration is None:
            raise MigrationError(f"Programme {account.name!r} has no migration to abandon.")
        end(connection, migration, "abandoned", by=by, reason=reason)
    return migration


def end(connection: psycopg.Connection, migration: Migration, state: str, *, by: str | None, reason: str) -> None:
    """End a migration and make its programme live, within the caller's transaction."""
    connection.execute(
        "update migration set state = %s, ended_at = clock_timestamp(), ended_by = %s, ended_because = %s where id = %s",
        (state, by, reason, migration.id),
    )
    connection.execute("update programme set mode = 'live' where id = %s", (migration.programme,))


def holding(ledger: Ledger, account: Account, shard: int | None = None) -> AbstractContextManager[None]:
    """Keep other processes from the same step of the programme's migration, or from the same shard.

    This is not the lease for the programme's runs, so the hourly sync does not wait. Raises BusyError.
    """
    name = f"migration:{account.id}" if shard is None else f"migration:{account.id}:{shard}"
    what = "the migration" if shard is None else f"shard {shard} of the migration"
    busy = BusyError(f"Another run is working on {what} of programme {account.name!r}.", hint="Let it finish.")
    return ledger.lease(name, busy)


def _open(connection: psycopg.Connection, account: Account) -> Migration | None:
    return _one(connection, account, "and state not in ('closed', 'abandoned')")


def _one(connection: psycopg.Connection, account: Account, which: str) -> Migration | None:
    return next(
        iter(records(connection, Migration, f"{_MIGRATION} where programme = %s {which} limit 1", (account.id,))), None
    )


@retried
def progress(ledger: Ledger, migration: Migration, shard: int | None = None) -> Progress:
    """Count how far a migration or a shard has got."""
    statement = _PROGRESS_LOG if migration.mode == "log" else _PROGRESS_BALANCE
    with ledger.transaction() as connection:
        row = one(connection, statement, {"id": migration.id, "shard": shard})
    return Progress(*row)


def add_findings(
    connection: psycopg.Connection, migration: Migration, origin: str, shard: int | None, findings: Iterable[Finding]
) -> None:
    """Store findings in the caller's transaction. `origin` is the step that found them."""
    with connection.cursor().copy(
        "copy migration_finding (migration, shard, origin, contact, kind, field, value, amount, remedy) from stdin"
    ) as copy:
        for found in findings:
            value = found.value.replace("\0", "\\0")[:500]
            copy.write_row(
                (migration.id, shard, origin, found.contact, found.kind, found.field, value, found.amount, found.remedy)
            )


@retried
def keep_findings(ledger: Ledger, migration: Migration, origin: str, findings: Iterable[Finding]) -> None:
    """Store a step's findings, in place of those of an earlier run of it."""
    with ledger.transaction() as connection:
        connection.execute(
            "delete from migration_finding where migration = %s and origin = %s and shard is null",
            (migration.id, origin),
        )
        add_findings(connection, migration, origin, None, findings)


_PROGRESS = """
select {total}, {fetched},
       (select count(*) from migration_unread where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s)),
       (select count(*) from migration_contact where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s)
        and left_out is not null),
       (select coalesce(sum(movements), 0)::bigint from migration_log
        where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s)),
       (select count(*) from migration_file where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s)),
       (select count(*) from migration_shard where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s)
        and written_at is not null)
"""
_CONTACTS = """(select coalesce(sum(contacts), 0)::bigint from {table}
        where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s))"""
_MIGRATION = (
    "select id, programme, state, cut_off, mode, key_type, shards, decimals, run_id, delivered_by, delivered_to "
    "from migration"
)

_PROGRESS_LOG = _PROGRESS.format(
    total=_CONTACTS.format(table="migration_shard"), fetched=_CONTACTS.format(table="migration_log")
)
_PROGRESS_BALANCE = _PROGRESS.format(
    total=_CONTACTS.format(table="migration_shard"),
    fetched="""(select count(*) from migration_contact
        where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s) and settled and left_out is null)""",
)
