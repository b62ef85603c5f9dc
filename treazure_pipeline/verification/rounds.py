"""What Engage showed when it was read back: who is next, what follows from a reading, and how things stand.

A run reads recently sent rows, batch by batch from a mark on, and the whole programme round by round, in the order of the ledger's key from a
cursor on. A reading becomes a verdict only if the contact is settled and its row is still the one that was read. A verdict never changes
`ledger.sent` (I3): what differs gets a `marked` row in `pending`.

    recent: batch 41 ▸ 42 ▸ mark … │ accepted within the grace time, or not yet answered: later
    round:  00… ▸ cursor … ff ▸ the next round
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from treazure_pipeline import phrases
from treazure_pipeline.errors import BusyError
from treazure_pipeline.ledger import batches
from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from decimal import Decimal
    from typing import Any

    import psycopg

    from treazure_pipeline.ledger.store import Account, Ledger

NOT_OLDER_THAN = timedelta(hours=24)
MOST_RECENT = 50_000
"""Rows sent earlier than NOT_OLDER_THAN, or before this many others, are left to the rounds."""
ROUNDS_TO_HEAL = 3
"""A contact that still differs after being marked this often in a row will not heal by itself."""

_BATCHES_AT_ONCE = 20
_ALL_OF_IT = 1_000_000


@dataclass(frozen=True)
class Row:
    """A contact to be read back, what Engage last accepted for it, and the batch that carried it."""

    contact: str
    sent: Decimal
    batch: int


@dataclass(frozen=True)
class Chunk:
    """The contacts that are next: `rows` to be read, out of `passed` in all. Those that are `unsettled` can't be judged now.

    `asked` is the database's time before the reading. Recording the chunk moves the mark (`batch`, `position`) if it `is_recent`, otherwise
    the round's `cursor`. After the chunk that `is_last`, nothing follows.
    """

    rows: list[Row]
    passed: int
    unsettled: int
    asked: datetime
    is_recent: bool
    is_last: bool
    batch: int = 0
    position: int = 0
    cursor: str | None = None


@dataclass(frozen=True)
class Reading:
    """What Engage showed for a row (None: no account), and whether it is what it had accepted."""

    row: Row
    shown: Decimal | None
    equal: bool


@dataclass
class Tally:
    """The results of a run, counted in contacts: read = equal + drift + missing + those of `unsettled` that were read.

    Attributes:
        unsettled: Not judged, whether or not they were read.
        failed: The reading failed.
        marked: To be sent again.
        healed: Equal again.
        requests: Readings of Engage, however often each was tried.
        master_read: A sample that was read from Treazure.
        master_recorded: Those of the sample that differed from what the ledger knew.
        master_differs: Those of the sample that the ledger should have known.
    """

    read: int = 0
    equal: int = 0
    drift: int = 0
    missing: int = 0
    unsettled: int = 0
    failed: int = 0
    marked: int = 0
    healed: int = 0
    requests: int = 0
    master_read: int = 0
    master_differs: int = 0
    master_recorded: int = 0
    master_failed: int = 0


@dataclass(frozen=True)
class Standing:
    """How Engage compares with what it accepted. Times, including `now`, are on the database's clock.

    Attributes:
        drift: Contacts for which Engage shows a different balance.
        missing: Contacts for which Engage has no account.
        will_not_heal: Those of them that still differ after being sent again three times in a row.
        oldest: Since when the oldest of them differs.
        read_through_from: When the last finished round started; every contact known then has been read since.
        read_through_at: When that round ended.
        round_share: How much of the programme the present round has passed, from 0 to 1.
    """

    now: datetime
    last_run: datetime | None
    last_run_id: str | None
    last_run_ended: bool
    last_figures: dict[str, Any]
    drift: int
    missing: int
    will_not_heal: int
    oldest: datetime | None
    read_through_from: datetime | None
    read_through_at: datetime | None
    round: int
    round_share: float

    @property
    def sentence(self) -> str:
        """Whether Engage holds what it accepted."""
        if not (self.drift or self.missing or self.will_not_heal):
            return "Engage holds what it accepted, as far as it was read back"
        differ = [
            phrases.counted(self.drift, "balance differs", "balances differ") if self.drift else "",
            phrases.counted(self.missing, "contact has", "contacts have") + " no account" if self.missing else "",
        ]
        healing = f"; {self.will_not_heal:,} will not heal by sending again" if self.will_not_heal else ""
        return f"{phrases.sentence(differ)} in Engage{healing}"


def lease(account: Account) -> str:
    """Return the name of the lease of whoever verifies a programme. The sync has a different one."""
    return f"verification:{account.id}"


def holding(ledger: Ledger, account: Account) -> AbstractContextManager[None]:
    """Keep other verifications of the programme out, but not its sync. Raises BusyError."""
    busy = BusyError(
        f"Another verification of programme {account.name!r} is under way.",
        hint="Nothing to do. It continues where the last one stopped.",
    )
    return ledger.lease(lease(account), busy)


@retried
def begin(ledger: Ledger, account: Account, run_id: str) -> int:
    """Note that a run begins, and a round if none is under way. Return the run's number."""
    with ledger.transaction() as connection:
        values = {
            "programme": account.id, "run_id": run_id, "not_older": NOT_OLDER_THAN, "most": MOST_RECENT,
            "all_of_it": _ALL_OF_IT,
        }  # fmt: skip
        connection.execute(_BEGIN, values)
        connection.execute(_BEGIN_ROUND, values)
        row = one(
            connection,
            "insert into verification_run (programme, run_id) values (%(programme)s, %(run_id)s) returning id",
            values,
        )
    return int(row[0])


@retried
def end(ledger: Ledger, run: int, tally: Tally, error: str | None) -> None:
    """Note that a run has ended, and with which error."""
    with ledger.transaction() as connection:
        connection.execute(
            "update verification_run set ended_at = clock_timestamp(), figures = %s, error = %s where id = %s",
            (Jsonb(asdict(tally)), error, run),
        )


@retried
def sent_recently(ledger: Ledger, account: Account, *, grace: float, size: int) -> Chunk:
    """Return the next rows that Engage accepted more than `grace` seconds ago, by batch from the mark on.

    Rows that were sent again since, or read after the grace time, are left out. Unsettled contacts are only counted by the round.
    """
    values = {"programme": account.id, "grace": grace, "size": size, "batches": _BATCHES_AT_ONCE}
    with ledger.transaction() as connection:
        rows = connection.execute(_SENT_RECENTLY, values).fetchall()
    if not rows:
        return Chunk([], 0, 0, ledger.now(), is_recent=True, is_last=True)
    batch, position = rows[-1][6:8]
    return Chunk(**_looked_at(rows) | {"unsettled": 0}, is_recent=True, is_last=False, batch=batch, position=position)


@retried
def next_of_round(ledger: Ledger, account: Account, *, grace: float, size: int) -> Chunk:
    """Return the next rows of the round, in the order of the ledger's key, without those already read in this round."""
    with ledger.transaction() as connection:
        found = one(
            connection,
            "select cursor::text, round_started from verification_progress where programme = %s",
            (account.id,),
        )
        cursor, started = found
        values = {"programme": account.id, "grace": grace, "size": size, "cursor": cursor, "started": started}
        rows = connection.execute(_FIRST_OF_ROUND if cursor is None else _NEXT_OF_ROUND, values).fetchall()
    if not rows:
        return Chunk([], 0, 0, ledger.now(), is_recent=False, is_last=True)
    return Chunk(**_looked_at(rows), is_recent=False, is_last=len(rows) < size, cursor=rows[-1][0])


def _looked_at(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Sort out rows of `_LOOK`: contact, sent, batch, past_grace, unsettled, fresh, …, now."""
    wanted = [row for row in rows if row[1] is not None and not row[5]]
    settled = [Row(*row[:3]) for row in wanted if row[3] and not row[4]]
    return {"rows": settled, "passed": len(rows), "unsettled": len(wanted) - len(settled), "asked": rows[0][-1]}


@retried
def next_for_master(ledger: Ledger, account: Account, *, size: int) -> list[Row]:
    """Return the next contacts to compare with the master, in the order of the ledger's key, over and over.

    Unsettled contacts are left out. For the others, the sent balance is the newest known master balance.
    """
    with ledger.transaction() as connection:
        found = one(
            connection, "select master_cursor::text from verification_progress where programme = %s", (account.id,)
        )
        values = {"programme": account.id, "size": size, "cursor": found[0]}
        rows = connection.execute(_FIRST_FOR_MASTER if found[0] is None else _NEXT_FOR_MASTER, values).fetchall()
        connection.execute(
            "update verification_progress set master_cursor = %s where programme = %s",
            (rows[-1][0] if len(rows) == size else None, account.id),
        )
    return [Row(*row[:3]) for row in rows if not row[3]]


@retried
def record(
    ledger: Ledger,
    account: Account,
    run: int,
    run_id: str,
    chunk: Chunk,
    readings: Sequence[Reading],
    tally: Tally,
    *,
    finished: bool,
    grace: float,
) -> None:
    """Store the verdicts on `readings`, mark what differs to be sent again, and count everything in `tally`.

    All in one transaction with the run's progress, which only moves on if the chunk was `finished`. A contact that has become unsettled, or
    whose row has changed since it was read, is not judged. Marked rows join the backlog of pending rows, and an observation says so (I6).
    """
    values = {
        "programme": account.id, "run_id": run_id, "asked": chunk.asked,
        "contacts": [reading.row.contact for reading in readings],
        "batches": [reading.row.batch for reading in readings],
        "shown": [reading.shown for reading in readings],
        "equal": [reading.equal for reading in readings],
    }  # fmt: skip
    with ledger.transaction() as connection:
        if not all(reading.equal for reading in readings):
            batches.keep_from_claiming(connection, account)
        row = one(connection, _RECORD, values)
        equal, drift, missing, healed, marked = row
        counted = replace(
            tally, read=tally.read + len(readings), equal=tally.equal + equal, drift=tally.drift + drift,
            missing=tally.missing + missing, healed=tally.healed + healed, marked=tally.marked + marked,
            unsettled=tally.unsettled + chunk.unsettled + len(readings) - equal - drift - missing,
        )  # fmt: skip
        if finished:
            _move_on(connection, account, chunk, grace)
        connection.execute("update verification_run set figures = %s where id = %s", (Jsonb(asdict(counted)), run))
    vars(tally).update(vars(counted))


def _move_on(connection: psycopg.Connection, account: Account, chunk: Chunk, grace: float) -> None:
    if chunk.is_recent:
        if chunk.passed:
            connection.execute(
                "update verification_progress set batch = %s, position = %s where programme = %s",
                (chunk.batch, chunk.position, account.id),
            )
        return
    connection.execute(
        "update verification_progress set cursor = %s, round_passed = round_passed + %s where programme = %s",
        (chunk.cursor, chunk.passed, account.id),
    )
    if chunk.is_last:
        connection.execute(_END_ROUND, {"programme": account.id, "grace": grace})


@retried
def standing(ledger: Ledger, account: Account) -> Standing:
    """Return what is outstanding, and how far the reading has got."""
    with ledger.transaction() as connection:
        cursor = connection.cursor(row_factory=class_row(Standing))
        return one(cursor, _STANDING, {"programme": account.id, "rounds": ROUNDS_TO_HEAL})


_BEGIN = """
insert into verification_progress as p (programme, batch, position)
select %(programme)s, coalesce(max(b.id), 0), %(all_of_it)s
from (select id, claimed_at, sum(settled) over (order by id desc) as sent from batch
      where programme = %(programme)s
        and id > coalesce((select batch from verification_progress where programme = %(programme)s), 0)) b
where b.claimed_at < clock_timestamp() - %(not_older)s or b.sent > %(most)s
on conflict (programme) do update set
    batch = greatest(p.batch, excluded.batch),
    position = case when excluded.batch > p.batch then excluded.position else p.position end
"""

_BEGIN_ROUND = """
update verification_progress set round = round + 1, round_started = clock_timestamp(), cursor = null, round_passed = 0,
    round_size = (select count(*) from ledger where programme = %(programme)s)
where programme = %(programme)s and round_started is null
"""

# A row accepted before the round began, but neither judged in it nor sent again, was within its grace time. For such rows the round
# goes over the programme once more. A round in which no row could be judged has verified nothing either.
_END_ROUND = """
with progress as (select * from verification_progress where programme = %(programme)s),
skipped as (
    select from progress p
    join batch b on b.programme = p.programme and b.state = 'folded' and b.answered_at < p.round_started
        and b.answered_at > p.round_started - make_interval(secs => %(grace)s)
    cross join unnest(b.contacts) as r (contact)
    join ledger l on l.programme = b.programme and l.contact = r.contact and l.batch = b.id
    left join verification v on v.programme = l.programme and v.contact = l.contact
    where coalesce(v.read_at < p.round_started, true) and not exists (
        select from unsettled u where u.programme = l.programme and u.contact = l.contact)
    limit 1),
judged as (
    select not exists (select from skipped) and (round_passed = 0 or exists (
        select from verification v where v.programme = p.programme and v.read_at >= p.round_started)) as all_of_it
    from progress p)
update verification_progress p set cursor = null,
    round_passed = case when judged.all_of_it then round_passed else 0 end,
    read_through_from = case when judged.all_of_it then round_started else read_through_from end,
    read_through_at = case when judged.all_of_it then clock_timestamp() else read_through_at end,
    round_started = case when judged.all_of_it then null else round_started end
from judged where p.programme = %(programme)s
"""

_LOOK = """
busy as materialized (
    select contact from unsettled where programme = %(programme)s and contact = any (array(select contact from rows)))
select r.contact::text, r.sent, r.batch,
       coalesce(b.answered_at, 'epoch') <= clock_timestamp() - make_interval(secs => %(grace)s) as past_grace,
       r.contact in (select contact from busy) as unsettled,
       coalesce(v.read_at >= {fresh}, false) as fresh,
       r.at_batch, r.position, clock_timestamp() as now
from rows r
left join batch b on b.id = r.batch
left join verification v on v.programme = %(programme)s and v.contact = r.contact
order by {order}
"""

_SENT_RECENTLY = """
with progress as materialized (
    select batch, position from verification_progress where programme = %(programme)s),
due as materialized (
    select b.id, b.contacts from batch b, progress
    where b.programme = %(programme)s and b.state = 'folded' and b.id >= progress.batch
      and b.id < coalesce((
        select min(o.id) from batch o
        where o.programme = %(programme)s and o.id > progress.batch
          and (o.state in ('sending', 'accepted')
               or o.state = 'folded' and o.answered_at > clock_timestamp() - make_interval(secs => %(grace)s))),
        9223372036854775807)
    order by b.id limit %(batches)s),
listed as materialized (
    select due.id, r.position, r.contact
    from due, progress, unnest(due.contacts) with ordinality as r (contact, position)
    where (due.id, r.position) > (progress.batch, progress.position) order by due.id, r.position limit %(size)s),
rows as materialized (
    select r.contact, l.sent, l.batch, r.id as at_batch, r.position
    from listed r left join ledger l on l.programme = %(programme)s and l.contact = r.contact and l.batch = r.id),
""" + _LOOK.format(fresh="b.answered_at + make_interval(secs => %(grace)s)", order="r.at_batch, r.position")

_OF_ROUND = """
with rows as materialized (
    select contact, sent, batch, null::bigint as at_batch, null::bigint as position from ledger
    where programme = %(programme)s {behind} order by contact limit %(size)s),
""" + _LOOK.format(fresh="%(started)s", order="r.contact")
_FIRST_OF_ROUND = _OF_ROUND.format(behind="")
_NEXT_OF_ROUND = _OF_ROUND.format(behind="and contact > %(cursor)s::uuid")

_FOR_MASTER = """
with rows as materialized (
    select contact, sent, batch from ledger where programme = %(programme)s {behind} order by contact limit %(size)s)
select contact::text, sent, batch, contact in (
    select u.contact from unsettled u
    where u.programme = %(programme)s and u.contact = any (array(select contact from rows)))
from rows order by rows.contact
"""
_FIRST_FOR_MASTER = _FOR_MASTER.format(behind="")
_NEXT_FOR_MASTER = _FOR_MASTER.format(behind="and contact > %(cursor)s::uuid")

_RECORD = """
with readings as materialized (
    select * from unnest(%(contacts)s::uuid[], %(shown)s::numeric[], %(equal)s::boolean[], %(batches)s::bigint[])
        as r (contact, shown, equal, batch)),
busy as materialized (
    select contact from unsettled where programme = %(programme)s and contact = any (%(contacts)s::uuid[])),
judged as materialized (
    select r.contact, l.sent, r.shown, l.observation, v.verdict as before, v.since,
           case when r.equal then 'equal' when r.shown is null then 'missing' else 'drift' end as verdict,
           not r.equal and (r.shown is not null or l.sent <> 0) as differs
    from readings r
    join ledger l on l.programme = %(programme)s and l.contact = r.contact and l.batch = r.batch
    left join verification v on v.programme = l.programme and v.contact = l.contact
    where r.contact not in (select contact from busy)),
entered as (
    insert into pending (programme, contact, master, observation, since, marked, let_through)
    select %(programme)s, contact, sent, observation, clock_timestamp(), true, case when sent < 0 then sent end
    from judged where differs order by contact on conflict do nothing returning contact),
observed as (
    insert into observation (programme, source, state, run_id, asked, entered)
    select %(programme)s, 'read_back', 'merged', %(run_id)s, %(asked)s, count(*) from entered having count(*) > 0),
kept as (
    insert into verification as v (programme, contact, verdict, sent, shown, read_at, since, rounds)
    select %(programme)s, j.contact, j.verdict, j.sent, j.shown, %(asked)s,
           case when j.verdict <> 'equal' then %(asked)s::timestamptz end,
           (e.contact is not null)::integer
    from judged j left join entered e using (contact) order by j.contact
    on conflict (programme, contact) do update set
        verdict = excluded.verdict, sent = excluded.sent, shown = excluded.shown, read_at = excluded.read_at,
        since = case when excluded.verdict <> 'equal' then coalesce(v.since, excluded.since) end,
        rounds = case when excluded.verdict <> 'equal' then v.rounds + excluded.rounds else 0 end),
noted as (
    insert into finding (programme, contact, verdict, sent, shown, read_at, since, marked, run_id)
    select %(programme)s, j.contact, case j.verdict when 'equal' then 'healed' else j.verdict end, j.sent, j.shown,
           %(asked)s, coalesce(j.since, %(asked)s), e.contact is not null, %(run_id)s
    from judged j left join entered e using (contact)
    where e.contact is not null or j.verdict is distinct from coalesce(j.before, 'equal'))
select count(*) filter (where verdict = 'equal') as equal, count(*) filter (where verdict = 'drift') as drift,
       count(*) filter (where verdict = 'missing') as missing,
       count(*) filter (where verdict = 'equal' and before <> 'equal') as healed, (select count(*) from entered) as marked
from judged
"""

_STANDING = """
with last as (
    select started_at, run_id, ended_at, figures from verification_run
    where programme = %(programme)s order by id desc limit 1),
outstanding as materialized (
    select verdict, since, rounds from verification where programme = %(programme)s and verdict <> 'equal')
select clock_timestamp() as now, (select started_at from last) as last_run, (select run_id from last) as last_run_id,
       coalesce((select ended_at is not null from last), false) as last_run_ended,
       coalesce((select figures from last), '{}') as last_figures,
       o.drift, o.missing, o.will_not_heal, o.oldest, p.read_through_from, p.read_through_at, coalesce(p.round, 0) as round,
       case when p.round is null then 0.0 when p.round_started is null then 1.0
            else round(least(p.round_passed / greatest(p.round_size, 1)::numeric, 1), 4)::float end as round_share
from (select count(*) filter (where verdict = 'drift') as drift, count(*) filter (where verdict = 'missing') as missing,
             count(*) filter (where rounds > %(rounds)s) as will_not_heal, min(since) as oldest from outstanding) o
left join verification_progress p on p.programme = %(programme)s
"""
