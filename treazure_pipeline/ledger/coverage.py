"""Which mutation times have been fetched, and which are asked for next (I1).

Coverage ends when the last export whose result is in the ledger was requested. It uses the database's clock: an end in the
future was recorded while that clock was ahead, nobody knows since when, and so nothing of it is trusted any more.
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
"""So much may the database's clock differ from Treazure's, and from what it was before: a small part of the overlap."""

BETWEEN_TRIES = timedelta(hours=6)
"""A full resync that failed is not tried again sooner: the hourly windows go on meanwhile."""

_APART = f"interval '{MOST_APART.seconds} seconds'"
TRUSTED = f"case when upper(g.covered) <= clock_timestamp() + {_APART} then g.covered else '{{}}' end"
"""The coverage of a programme `g`; none where the clock was ahead when it was recorded."""

COVERED_UNTIL = f"(select upper(r) from unnest({TRUSTED}) r where r @> %(beginning)s::timestamptz)"
"""The end of unbroken coverage since the beginning; null where there is none."""

HOLES = f"""
unnest(tstzmultirange(case when isempty(g.covered) then 'empty' else tstzrange(%(beginning)s, greatest(
    %(beginning)s, coalesce(upper({TRUSTED}), clock_timestamp()))) end) - {TRUSTED})
"""
"""The times between the beginning and the end of coverage that are not covered, as a set of ranges."""


def past(time: str) -> str:
    """Say in SQL: a recorded time; one in the future was recorded by a clock that was ahead, and tells nothing of the order."""
    return f"case when {time} <= clock_timestamp() then {time} else 'epoch' end"


@dataclass(frozen=True)
class Window:
    """Mutation times [start, end] asked of the master; `is_full`: from the programme's beginning, all accounts."""

    start: datetime
    end: datetime
    is_full: bool = False


@dataclass(frozen=True)
class LastFull:
    """When everything was asked for last, on the database's clock: merged since, and whatever became of it."""

    now: datetime
    merged_at: datetime | None
    tried_at: datetime | None


@retried
def last_full(ledger: Ledger, account: Account) -> LastFull:
    """Return when everything was asked for last."""
    with ledger.transaction() as connection:
        row = one(
            connection,
            "select clock_timestamp(), full_asked_at, full_tried_at from programme where id = %s",
            (account.id,),
        )
    return LastFull(*row)


@retried
def next_window(ledger: Ledger, account: Account, *, full: bool = False) -> Window:
    """Return the window that leaves no hole: from 2 h before the end of unbroken coverage, or now, to 2 h from now.

    With no coverage from the programme's beginning on, or with `full`, it starts at that beginning.
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
    """Return the times not covered between the programme's beginning and the end of coverage, recomputed from the windows.

    A window that reaches further than a later one was asked at was recorded by a clock that was ahead: neither it nor
    what came before it counts.
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
