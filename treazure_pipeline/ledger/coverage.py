"""Which mutation times have been fetched, and which are asked for next (I1).

Coverage ends when the last export whose result is in the ledger was requested. It uses the database's clock. An end in the future was recorded
while that clock was ahead, nobody knows since when, so that coverage is no longer trusted at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from treazure_pipeline.ledger.store import Account, Ledger

OVERLAP = timedelta(hours=2)
MOST_APART = timedelta(minutes=5)
"""How far the database's clock may be from Treazure's, and from its own past: a small part of the overlap."""

BETWEEN_TRIES = timedelta(hours=6)
"""A full resync that failed is not tried again sooner. The hourly windows continue meanwhile."""

_APART = f"interval '{MOST_APART.seconds} seconds'"
TRUSTED = f"case when upper(g.covered) <= clock_timestamp() + {_APART} then g.covered else '{{}}' end"
"""The coverage of a programme `g`; empty if the clock was ahead when it was recorded."""

COVERED_UNTIL = f"(select upper(r) from unnest({TRUSTED}) r where r @> %(beginning)s::timestamptz)"
"""The end of unbroken coverage since the beginning; null if there is none."""

HOLES = f"""
unnest(tstzmultirange(case when isempty(g.covered) then 'empty' else tstzrange(%(beginning)s, greatest(
    %(beginning)s, coalesce(upper({TRUSTED}), clock_timestamp()))) end) - {TRUSTED})
"""
"""The times between the beginning and the end of coverage that are not covered, as a set of ranges."""


def past(time: str) -> str:
    """Return SQL for a recorded time, or the epoch if it is in the future: such a time came from a clock that was ahead."""
    return f"case when {time} <= clock_timestamp() then {time} else 'epoch' end"


@dataclass(frozen=True)
class Window:
    """The mutation times [start, end] to ask the master for. `is_full`: all accounts, from the programme's beginning."""

    start: datetime
    end: datetime
    is_full: bool = False


@dataclass(frozen=True)
class LastFull:
    """When everything was last asked for, on the database's clock: in an export that was merged, and in any."""

    now: datetime
    merged_at: datetime | None
    tried_at: datetime | None


@retried
def last_full(ledger: Ledger, account: Account) -> LastFull:
    """Return when everything was last asked for."""
    with ledger.transaction() as connection:
        row = one(
            connection,
            "select clock_timestamp(), full_asked_at, full_tried_at from programme where id = %s",
            (account.id,),
        )
    return LastFull(*row)


@retried
def next_window(ledger: Ledger, account: Account, *, full: bool = False) -> Window:
    """Return the window that leaves no hole: from 2 h before the end of unbroken coverage (at the latest, now) to 2 h from now.

    With `full`, or if nothing is covered, it starts at the programme's beginning.
    """
    with ledger.transaction() as connection:
        row = one(
            connection,
            f"select clock_timestamp(), (select {COVERED_UNTIL} from programme g where g.id = %(id)s)",
            {"id": account.id, "beginning": account.beginning},
        )
    now, covered_until = row
    if full or covered_until is None:
        return Window(account.beginning, now + OVERLAP, is_full=True)
    return Window(max(min(covered_until, now) - OVERLAP, account.beginning), now + OVERLAP)


@retried
def holes(ledger: Ledger, account: Account) -> Sequence[tuple[datetime, datetime]]:
    """Return the times between the programme's beginning and the end of coverage that no window covers.

    They are computed anew from the windows. A window that ends after a later one was asked for was recorded by a clock that was ahead.
    Neither it nor anything before it counts.
    """
    with ledger.transaction() as connection:
        return connection.execute(_HOLES, {"id": account.id, "beginning": account.beginning}).fetchall()


_HOLES = f"""
with windows as materialized (
    select id, window_from, least(window_to, asked) as until,
           min(asked) over (order by id rows between current row and unbounded following) as asked_since
    from observation where programme = %(id)s and source = 'export' and state = 'merged'),
trusted as (
    select range_agg(tstzrange(window_from, until)) as covered from windows
    where window_from < until and id > (
        select coalesce(max(id), 0) from windows
        where until > least(asked_since, clock_timestamp()) + {_APART})),
wanted as (
    select tstzmultirange(tstzrange(%(beginning)s, coalesce(upper(covered), clock_timestamp())))
           - coalesce(covered, '{{}}') as missing
    from trusted where exists (select from windows) and coalesce(upper(covered), clock_timestamp()) > %(beginning)s)
select lower(hole), upper(hole) from wanted, unnest(missing) hole order by 1
"""
