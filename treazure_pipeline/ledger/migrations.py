"""The point migration's memory: its cut-off and mode, the roster, fetched logs, files and their delivery.

Belongs here: every statement of a migration up to its delivery. Does not: what Engage holds afterwards (`migration_audit`).

    roster ──▶ ready ──▶ delivered ──▶ closed
       └─────────┴──────────┴────────▶ abandoned

The programme is in mode migrating from the first state to the last: its push claims nothing and its adjustments wait (I11).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from treazure_pipeline.errors import BusyError, PipelineError
from treazure_pipeline.ledger import batches
from treazure_pipeline.ledger.snapshots import OVERLAP
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from decimal import Decimal
    from typing import Any

    import psycopg

    from treazure_pipeline.clients.decoding import BalanceBlock, RejectedRow
    from treazure_pipeline.ledger.store import Account, Ledger

Mode = Literal["log", "balance"]
KeyType = Literal["ContactId", "MemberNumber", "ExternalId"]
_SHORTEST_WINDOW = timedelta(seconds=2)
_FINDINGS_AT_ONCE = 5_000


class MigrationError(PipelineError):
    """What was asked of a migration does not fit its state; the text says what does."""


@dataclass(frozen=True)
class Terms:
    """What a migration is to be; fixed when it begins. `decimals`: what Engage keeps of points."""

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
        """What it was begun with."""
        return Terms(self.mode, self.key_type, self.shards, self.decimals)


@dataclass(frozen=True)
class ExportWindow:
    """Mutation times of one export that the roster is read by."""

    id: int
    kind: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class ToRead:
    """A contact whose log is to be read; `settled`: its balance at the cut-off is known already.

    `alone`: it could not be read before, so the contacts beside it may stand in parts already.
    """

    contact: str
    settled: bool
    alone: bool


@dataclass(frozen=True)
class Progress:
    """How far a migration, or one of its shards, is; all in contacts but `files` and `movements`."""

    contacts: int
    fetched: int
    unread: int
    left_out: int
    movements: int
    files: int
    shards_written: int


@dataclass(frozen=True)
class File:
    """A written file; `state`: written, uploaded (under its temporary name) or delivered."""

    shard: int
    name: str
    rows: int
    total: Decimal
    size: int
    sha256: str
    state: str = "written"


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at: where, what it says, and what to do."""

    contact: str | None
    kind: str
    field: str = ""
    value: str = ""
    amount: Decimal | None = None
    remedy: str = ""


# --- the migration itself ---


@retried
def begin(ledger: Ledger, account: Account, terms: Terms, *, run_id: str, although_loaded: bool) -> Migration:
    """Return the programme's open migration, beginning one where there is none: its cut-off is now, for good.

    The caller holds the programme's lock. From the moment this commits no request to Engage is claimed for the
    programme. Raises MigrationError where the programme has sent balances before, unless `although_loaded`.
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
                hint="It needs no migration. If Engage's accounts have been emptied since, say `although_loaded`.",
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
    """Return the programme's open migration; raise MigrationError where there is none."""
    found = current(ledger, account)
    if found is None:
        raise MigrationError(f"Programme {account.name!r} has no migration.", hint="Run prepare_migration first.")
    return found


@retried
def current(ledger: Ledger, account: Account) -> Migration | None:
    """Return the programme's open migration, None where there is none."""
    with ledger.transaction() as connection:
        return _open(connection, account)


def require(migration: Migration, *states: str) -> None:
    """Raise MigrationError unless the migration is in one of `states`."""
    if migration.state not in states:
        raise MigrationError(
            f"Migration {migration.id} is in state {migration.state!r}, not {' or '.join(states)}.",
            hint={
                "roster": "Its roster is not complete: run prepare_migration again, it goes on where it was.",
                "ready": "Its files are not delivered: run point_migration, then finish_migration.",
                "delivered": "Its files are delivered; only the audit is left: run finish_migration.",
            }.get(migration.state, "It is over."),
        )


@retried
def abandon(ledger: Ledger, account: Account, *, by: str, reason: str) -> Migration:
    """Give the open migration up and let the programme be live again; what was fetched and written is kept.

    Raises BusyError while it is prepared, delivered or audited.
    """
    with holding(ledger, account), ledger.transaction() as connection:
        migration = _open(connection, account)
        if migration is None:
            raise MigrationError(f"Programme {account.name!r} has no migration to give up.")
        end(connection, migration, "abandoned", by=by, reason=reason)
    return migration


def end(connection: psycopg.Connection, migration: Migration, state: str, *, by: str | None, reason: str) -> None:
    """End a migration and let its programme be live, within the caller's transaction."""
    connection.execute(
        "update migration set state = %s, ended_at = clock_timestamp(), ended_by = %s, ended_because = %s where id = %s",
        (state, by, reason, migration.id),
    )
    connection.execute("update programme set mode = 'live' where id = %s", (migration.programme,))


def holding(ledger: Ledger, account: Account, shard: int | None = None) -> AbstractContextManager[None]:
    """Keep another process from the same step of the programme's migration, or from the same shard.

    It is apart from the lease of the programme's runs, so the hourly sync is not kept waiting. Raises BusyError.
    """
    name = f"migration:{account.id}" if shard is None else f"migration:{account.id}:{shard}"
    what = "the migration" if shard is None else f"shard {shard} of the migration"
    message = f"Another run works on {what} of programme {account.name!r}."
    return ledger.lease(name, BusyError(message, hint="Let it finish."))


def _open(connection: psycopg.Connection, account: Account) -> Migration | None:
    return (
        connection.cursor(row_factory=class_row(Migration))
        .execute(
            "select id, programme, state, cut_off, mode, key_type, shards, decimals, run_id, delivered_by, delivered_to "
            "from migration where programme = %s and state not in ('closed', 'abandoned')",
            (account.id,),
        )
        .fetchone()
    )


# --- the roster ---


@retried
def next_window(ledger: Ledger, migration: Migration) -> ExportWindow | None:
    """Return the next export to ask for, None when the roster has them all.

    When all contacts have been read, one more window finds the accounts that moved after the cut-off.
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
    """Replace a window whose export failed by its halves; False where it is too short for that."""
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
    ledger: Ledger, migration: Migration, window: ExportWindow, blocks: Iterable[BalanceBlock]
) -> tuple[int, int]:
    """Copy an export into the roster as it streams in, in one transaction; return (fetched, rejected).

    A contact that several exports list has the balance of the last one. Unless all of `blocks` arrives nothing is kept.
    """
    fetched = rejected = 0
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
                odd += block.rejected[: _FINDINGS_AT_ONCE - len(odd)]
        add_findings(connection, migration, "roster", None, map(_rejected, odd))
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
        remedy="Treazure lists an account that can't be read. It is not imported; mend it in Treazure, the sync brings it.",
    )  # fmt: skip


@retried
def add_keys(ledger: Ledger, migration: Migration, rows: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Record the retailer's keys (line, contact, key) as they stream in, in place of earlier ones.

    Where a key has changed, every shard has to be written again.
    Returns the rows whose contact is not in the roster, at most so many as findings are kept at once.
    """
    with ledger.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(
            "create temp table given (line integer not null, contact uuid not null, key text not null) on commit drop"
        )
        with cursor.copy("copy given (line, contact, key) from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        values = {"migration": migration.id, "shards": migration.shards, "most": _FINDINGS_AT_ONCE}
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
    """Record that the roster is complete: the shards can be worked on."""
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
    """Count the roster: contacts, points, accounts that moved after the cut-off, contacts without a key, exports."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select count(*), coalesce(sum(balance), 0), count(*) filter (where not settled), count(*) filter (where key is null), "
            "(select count(*) from migration_window where migration = %(id)s and state = 'done'), "
            "(select coalesce(sum(fetched), 0)::bigint from migration_window where migration = %(id)s), "
            "(select coalesce(sum(rejected), 0)::bigint from migration_window where migration = %(id)s) "
            "from migration_contact where migration = %(id)s",
            {"id": migration.id},
        ).fetchone()
    assert row is not None
    names = ("contacts", "points", "moved", "without_key", "exports", "fetched", "rejected")
    return dict(zip(names, row, strict=True))


# --- the points log ---


@retried
def to_read(ledger: Ledger, migration: Migration, shard: int, *, after: str | None, limit: int) -> list[ToRead]:
    """Return contacts of a shard, in order, whose log is in no part yet; those of balance mode that moved, else all."""
    with ledger.transaction() as connection:
        return (
            connection.cursor(row_factory=class_row(ToRead))
            .execute(
                _TO_READ_LOG if migration.mode == "log" else _TO_READ_BALANCE,
                {"migration": migration.id, "shard": shard, "after": after, "limit": limit},
            )
            .fetchall()
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
    """Record, durably and together, the logs of consecutive contacts and the balances that were settled by them."""
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
    """Keep a contact whose log can't be read, with the reason."""
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
    """Leave contacts whose log can't be read out of the import, by a person's decision; the sync sets their balance."""
    with ledger.transaction() as connection:
        return connection.execute(
            "with gone as (delete from migration_unread where migration = %(id)s and shard = %(shard)s returning contact, reason) "
            "update migration_contact m set left_out = g.reason from gone g "
            "where m.migration = %(id)s and m.shard = %(shard)s and m.contact = g.contact",
            {"id": migration.id, "shard": shard},
        ).rowcount


@retried
def progress(ledger: Ledger, migration: Migration, shard: int | None = None) -> Progress:
    """Count how far a migration is, or one of its shards."""
    statement = _PROGRESS_LOG if migration.mode == "log" else _PROGRESS_BALANCE
    with ledger.transaction() as connection:
        row = connection.execute(statement, {"id": migration.id, "shard": shard}).fetchone()
    assert row is not None
    return Progress(*row)


def parts(ledger: Ledger, migration: Migration, shard: int) -> Iterator[bytes]:
    """Return the parts of a shard's logs in the order of their contacts, one at a time."""
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
    """Return a shard's contacts that are to be imported, in order: (contact, balance at the cut-off, key), in blocks."""
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


# --- files ---


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
                hint="What changed comes by the hourly sync; nothing has to be written again.",
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
        add_findings(connection, migration, "files", shard, findings)
        cursor.execute(
            "update migration_shard set written_at = clock_timestamp(), figures = %s where migration = %s and shard = %s",
            (Jsonb(figures), migration.id, shard),
        )


def _same(connection: psycopg.Connection, migration: Migration, shard: int, written: Mapping[str, str]) -> bool:
    rows = connection.execute(
        "select name, sha256 from migration_file where migration = %s and shard = %s", (migration.id, shard)
    ).fetchall()
    return {str(name): str(sha256) for name, sha256 in rows} == dict(written)


def add_findings(
    connection: psycopg.Connection, migration: Migration, origin: str, shard: int | None, findings: Iterable[Finding]
) -> None:
    """Keep findings, within the caller's transaction; `origin` is the step that found them."""
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
    """Keep findings of a step in place of those that an earlier run of it kept."""
    with ledger.transaction() as connection:
        connection.execute(
            "delete from migration_finding where migration = %s and origin = %s and shard is null",
            (migration.id, origin),
        )
        add_findings(connection, migration, origin, None, findings)


@retried
def files(ledger: Ledger, migration: Migration) -> list[File]:
    """Return the files of all shards, by name."""
    with ledger.transaction() as connection:
        return (
            connection.cursor(row_factory=class_row(File))
            .execute(
                "select shard, name, rows, total, size, sha256, state from migration_file where migration = %s order by name",
                (migration.id,),
            )
            .fetchall()
        )


# --- delivery ---


@retried
def mark_file(ledger: Ledger, migration: Migration, name: str, state: str) -> None:
    """Record, durably, how far a file's delivery is."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration_file set state = %(state)s, "
            "delivered_at = case when %(state)s = 'delivered' then clock_timestamp() end "
            "where migration = %(id)s and name = %(name)s",
            {"state": state, "id": migration.id, "name": name},
        )


@retried
def complete_delivery(ledger: Ledger, migration: Migration, *, by: str, to: str) -> None:
    """Record that everything is delivered; `to` shows no secret."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration set state = 'delivered', delivered_by = %s, delivered_to = %s, delivered_at = clock_timestamp() "
            "where id = %s and state = 'ready'",
            (by, to, migration.id),
        )


@dataclass(frozen=True)
class Request:
    """Rows of a file for one request to Engage. `repeat`: an earlier call got no answer; `seconds` ago it was made."""

    id: int
    key: str
    state: str
    repeat: bool
    seconds: float


@retried
def claim_request(
    ledger: Ledger, migration: Migration, name: str, first_row: int, rows: int, key: str, *, remembered: float
) -> Request:
    """Store the intent to send some rows of a file, once, before the call; return what is known of it.

    A call without an answer may be repeated with its key for `remembered` seconds; after that it is uncertain.
    """
    values = {
        "migration": migration.id, "name": name, "first": first_row, "rows": rows, "key": key, "remembered": remembered,
    }  # fmt: skip
    with ledger.transaction() as connection:
        made = connection.execute(
            "insert into migration_request (migration, name, first_row, rows, idempotency_key, state, asked_at) "
            "values (%(migration)s, %(name)s, %(first)s, %(rows)s, %(key)s, 'sending', clock_timestamp()) "
            "on conflict (migration, name, first_row) do nothing returning id",
            values,
        ).fetchone()
        if made is not None:
            return Request(made[0], key, "sending", repeat=False, seconds=0.0)
        row = connection.execute(
            "update migration_request set state = case when state = 'sending' and "
            "asked_at + make_interval(secs => %(remembered)s) <= clock_timestamp() then 'uncertain' else state end "
            "where migration = %(migration)s and name = %(name)s and first_row = %(first)s "
            "returning id, idempotency_key, state, extract(epoch from clock_timestamp() - asked_at)::float",
            values,
        ).fetchone()
    assert row is not None
    return Request(row[0], row[1], row[2], repeat=True, seconds=row[3])


@retried
def answer_request(ledger: Ledger, request: Request, state: str, *, refused: int = 0, error: str | None = None) -> None:
    """Record, durably, how a request ended; `sending` keeps it for a repetition with its key."""
    with ledger.transaction() as connection:
        connection.execute(
            "update migration_request set state = %s, refused = %s, error = %s, "
            "answered_at = case when %s = 'sending' then null else clock_timestamp() end where id = %s",
            (state, refused, error, state, request.id),
        )


@retried
def take_back_request(ledger: Ledger, request: Request) -> None:
    """Forget a request that had no effect, so that it is made anew."""
    with ledger.transaction() as connection:
        connection.execute("delete from migration_request where id = %s", (request.id,))


@retried
def note_refused_rows(ledger: Ledger, migration: Migration, findings: Iterable[Finding]) -> None:
    """Keep rows that Engage refused."""
    with ledger.transaction() as connection:
        add_findings(connection, migration, "delivery", None, findings)


@retried
def has_requests(ledger: Ledger, migration: Migration) -> bool:
    """Tell whether rows of the migration have gone to Engage by API."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select exists (select from migration_request where migration = %s)", (migration.id,)
        ).fetchone()
    return row is not None and bool(row[0])


@retried
def uncertain_requests(ledger: Ledger, migration: Migration) -> list[tuple[int, str, int, int]]:
    """Return requests of which nobody can tell whether Engage took them: id, file, first row, rows."""
    with ledger.transaction() as connection:
        return connection.execute(
            "select id, name, first_row, rows from migration_request where migration = %s and state = 'uncertain' order by id",
            (migration.id,),
        ).fetchall()


@retried
def decide_uncertain(ledger: Ledger, migration: Migration, *, taken: bool) -> int:
    """Settle the uncertain requests by a person's decision: Engage has them, or they are sent with a new key."""
    statement = (
        "update migration_request set state = 'taken', error = 'taken, a person says' where migration = %s and state = 'uncertain'"
        if taken
        else "delete from migration_request where migration = %s and state = 'uncertain'"
    )
    with ledger.transaction() as connection:
        return connection.execute(statement, (migration.id,)).rowcount


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
_PROGRESS_LOG = _PROGRESS.format(
    total=_CONTACTS.format(table="migration_shard"), fetched=_CONTACTS.format(table="migration_log")
)
_PROGRESS_BALANCE = _PROGRESS.format(
    total=_CONTACTS.format(table="migration_shard"),
    fetched="""(select count(*) from migration_contact
        where migration = %(id)s and (%(shard)s::smallint is null or shard = %(shard)s) and settled and left_out is null)""",
)

_RECORD_SUMS = """
update migration_contact m set imported = h.total, rows = coalesce(h.rows, 0)
from migration_contact c left join held h on h.key = case when %(by_contact)s then c.contact::text else c.key end
where c.migration = %(id)s and c.shard = %(shard)s
  and m.migration = c.migration and m.shard = c.shard and m.contact = c.contact
"""
