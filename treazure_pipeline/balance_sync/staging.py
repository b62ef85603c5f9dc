"""Copies an export into its staging table as it streams in, keeps rejected rows, and decides whether the export can be trusted.

Nothing else in the ledger changes here. What the rows mean is decided in `merge`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from treazure_pipeline.balance_sync import rejections
from treazure_pipeline.clients import wire
from treazure_pipeline.errors import UntrustedExportError
from treazure_pipeline.ledger import identity
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

    from treazure_pipeline.clients.decoding import BalanceBlock, RejectedRow
    from treazure_pipeline.ledger.coverage import Window
    from treazure_pipeline.ledger.store import Account, Ledger

_REJECTIONS_AT_ONCE = 2_000
_FEWEST_REJECTED = 10
_REASONS_SHOWN = 3


def table(observation: int) -> Identifier:
    """Return the name of an observation's staging table."""
    return Identifier(f"stage_{observation}")


def latest(observation: int) -> Identifier:
    """Return the name of the table with each contact's latest row of an observation, in key order, while it is merged."""
    return Identifier(f"latest_{observation}")


@retried
def ask(ledger: Ledger, account: Account, window: Window, run_id: str) -> int:
    """Note the database's time before an export is requested, and return the observation's number.

    An earlier export of the programme that was never merged is given up, since this one's window covers its time too. If some of its slices
    were merged, its row stays, because changes refer to it.
    """
    with ledger.transaction() as connection:
        identity.notice_within(connection)
        stale = connection.execute(_GIVE_UP, {"programme": account.id}).fetchall()
        for (number,) in stale:
            connection.execute(SQL("drop table if exists {}, {}").format(table(number), latest(number)))
        row = one(
            connection,
            "insert into observation (programme, source, state, run_id, asked, window_from, window_to, is_full) "
            "values (%s, 'export', 'asked', %s, clock_timestamp(), %s, %s, %s) returning id",
            (account.id, run_id, window.start, window.end, window.is_full),
        )
        if window.is_full:
            connection.execute("update programme set full_tried_at = clock_timestamp() where id = %s", (account.id,))
        return int(row[0])


def stage(
    ledger: Ledger, account: Account, observation: int, blocks: Iterable[BalanceBlock], *, max_rejected_share: Decimal
) -> tuple[int, int]:
    """Copy an export's rows into the observation's staging table as they stream in. Return (fetched, rejected).

    If `blocks` raises, the error is passed on and the observation stays unusable. Raises UntrustedExportError if too many rows were
    rejected. The rejected rows are kept in any case; nothing else in the ledger has changed.
    """
    fetched = rejected = discarded = 0
    reasons: Counter[str] = Counter()
    kept: list[RejectedRow] = []
    with ledger.transaction() as connection:
        connection.execute(
            SQL("create unlogged table {} (contact uuid not null, balance numeric not null, mutated_at timestamptz, "
                "position bigint not null)").format(table(observation))
        )  # fmt: skip
    with ledger.transaction() as connection, connection.cursor() as cursor:
        with cursor.copy(
            SQL("copy {} (contact, balance, mutated_at, position) from stdin").format(table(observation))
        ) as copy:
            for block in blocks:
                copy.write(block.copy_text)
                fetched += block.rows + len(block.rejected)
                rejected += len(block.rejected)
                reasons.update(f"{row.field}: {row.reason}" for row in block.rejected)
                kept += block.rejected
                if len(kept) >= _REJECTIONS_AT_ONCE:
                    discarded += _keep_rejected(ledger, account, observation, kept)
                    kept.clear()
        discarded += _keep_rejected(ledger, account, observation, kept)
        if is_rubbish(fetched, rejected, discarded, max_rejected_share):
            raise untrusted(fetched, rejected - discarded, reasons, max_rejected_share)
        cursor.execute(
            "update observation set state = 'staged', answered = clock_timestamp(), figures = %s where id = %s",
            (Jsonb({"fetched": fetched, "rejected": rejected}), observation),
        )
    return fetched, rejected


def is_rubbish(fetched: int, rejected: int, discarded: int, max_rejected_share: Decimal) -> bool:
    """Return whether so many of an export's rows were rejected that it covers nothing.

    Rows that a person has discarded don't count. If all others were rejected, that is always too many; otherwise `max_rejected_share`
    decides, from 10 rows on.
    """
    bad = rejected - discarded
    is_all = bad == fetched - discarded
    return bad > 0 and (is_all or (bad >= _FEWEST_REJECTED and bad > max_rejected_share * fetched))


def untrusted(fetched: int, bad: int, reasons: Counter[str], max_rejected_share: Decimal) -> UntrustedExportError:
    """Return the error for an export that `is_rubbish`, with the most common reasons."""
    commonest = "; ".join(f"{reason} ({rows:,})" for reason, rows in reasons.most_common(_REASONS_SHOWN))
    return UntrustedExportError(
        f"{bad:,} of the export's {fetched:,} rows can't be understood ({bad / fetched:.1%}; GUARD_MAX_REJECTED_SHARE is "
        f"{max_rejected_share:.1%}), so none of it counts. The most common reasons: {commonest}.",
        hint="See `treazure-pipeline rejections list`, or a migration's findings. The next run asks for the same time again. Have "
        "the rows corrected in Treazure, or discard those that are of no use.",
    )


@retried
def staged(ledger: Ledger, account: Account) -> int | None:
    """Return the number of the observation that is staged and waits to be merged, or None."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select id from observation where programme = %s and source = 'export' and state = 'staged'",
            (account.id,),
        ).fetchone()
    return None if row is None else int(row[0])


@retried
def _keep_rejected(ledger: Ledger, account: Account, observation: int, rows: Sequence[RejectedRow]) -> int:
    """Keep rejected rows. Return how many of them a person had discarded before."""
    columns = [
        [value.replace("\0", "\\0") if isinstance(value, str) else value for value in column]
        for column in (
            [None if row.field in wire.CONTACTS else row.contact for row in rows],
            [row.field for row in rows],
            [row.value for row in rows],
            [row.reason for row in rows],
            [row.raw for row in rows],
        )
    ]
    names = ("contacts", "fields", "values", "reasons", "raws")
    with ledger.transaction() as connection:
        found = one(
            connection,
            _KEEP,
            {"programme": account.id, "observation": observation} | dict(zip(names, columns, strict=True)),
        )
    return int(found[0])


_GIVE_UP = """
with merged_in_part as (
    update observation o set state = 'asked' where programme = %(programme)s and state = 'staged'
      and exists (select from change where observation = o.id) returning id),
never_merged as (
    delete from observation o where programme = %(programme)s and source = 'export' and state <> 'merged'
      and not exists (select from change where observation = o.id) returning id)
select id from merged_in_part union all select id from never_merged
"""

_KEEP = f"""
with rows as materialized (
    select md5(r.raw || chr(10) || r.reason) as digest, r.*, count(*) over same as times, row_number() over same as n
    from unnest(%(contacts)s::uuid[], %(fields)s::text[], %(values)s::text[], %(reasons)s::text[], %(raws)s::text[])
         as r (contact, field, value, reason, raw)
    window same as (partition by r.raw, r.reason)),
kept as (
    insert into rejection (programme, digest, contact, field, value, reason, raw, first_seen, last_seen, seen, observation)
    select %(programme)s, digest, contact, field, value, reason, raw, now(), now(), times, %(observation)s
    from rows where n = 1 order by digest
    on conflict (programme, digest) do update
    set last_seen = now(), seen = rejection.seen + excluded.seen, observation = excluded.observation{rejections.REOPEN}
    returning digest, resolved_by)
select coalesce(sum(rows.times) filter (where kept.resolved_by = 'person'), 0)::bigint
from kept join rows on rows.digest = kept.digest and rows.n = 1
"""
