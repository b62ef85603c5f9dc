"""Metrics from the ledger: the sync of each programme, what was read back, the limits, the alerts.

A scrape must not hurt the queue. A query may take two seconds, and is only repeated after twenty times as long as it took. If it takes too long,
there are no numbers, since old ones would look as if the sync stood still.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from treazure_pipeline.adjustments.inbox import Store
from treazure_pipeline.errors import DatabaseError
from treazure_pipeline.ledger import coverage

if TYPE_CHECKING:
    from psycopg.rows import TupleRow

_SHORTEST_PAUSE_SECONDS = 5.0
_PAUSE_GROWS = 20


@dataclass
class _Question:
    """A statement whose rows are a label and a number for each metric. `metrics`: name → help text."""

    statement: str
    label: LiteralString
    metrics: dict[str, str]
    rows: list[TupleRow]
    due: float = 0.0

    def families(self) -> Iterator[Metric]:
        for place, (name, meaning) in enumerate(self.metrics.items(), start=1):
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, meaning, labels=[self.label])
            for row in self.rows:
                if row[place] is not None:
                    family.add_metric([row[0]], float(row[place]))
            yield family


class Figures(Collector):
    """Gives Prometheus what `read` has found."""

    def __init__(self) -> None:
        self._questions = [_Question(statement, label, metrics, []) for statement, label, metrics in _QUESTIONS]

    def describe(self) -> list[Metric]:
        """Return no names in advance."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return what was last read."""
        for question in self._questions:
            yield from question.families()

    def forget(self) -> None:
        """Return nothing until it is read again, because the database can't be reached."""
        for question in self._questions:
            question.rows, question.due = [], 0.0

    async def read(self, store: Store) -> None:
        """Make the queries that are due. Never raises errors of the database."""
        for question in self._questions:
            began = time.monotonic()
            if began < question.due:
                continue
            try:
                question.rows = await store.figures(question.statement)
            except (DatabaseError, psycopg.Error):
                question.rows = []
            ended = time.monotonic()
            question.due = ended + max(_SHORTEST_PAUSE_SECONDS, _PAUSE_GROWS * (ended - began))


# The programme's beginning is a setting and not known here, so coverage counts as starting at its own first time.
_PROGRAMMES = f"""
select g.name, extract(epoch from (select upper(r) from unnest({coverage.TRUSTED}) r order by r limit 1)),
       (select greatest(count(*) - 1, 0) from unnest({coverage.TRUSTED}) r),
       (g.mode = 'migrating')::integer, g.points_total,
       coalesce((select k.contacts from known k where k.programme = g.id), 0),
       (select count(*) from rejection r where r.programme = g.id and r.resolved_at is null),
       (select count(*) from plan p where p.programme = g.id and p.state = 'open'),
       (select count(*) from verification v where v.programme = g.id and v.verdict = 'drift'),
       (select count(*) from verification v where v.programme = g.id and v.verdict = 'drift' and v.rounds >= 3),
       (select count(*) from verification v where v.programme = g.id and v.verdict = 'missing')
from programme g
"""

_PENDING = """
select g.name, count(u.contact), count(*) filter (where u.held), count(*) filter (where u.gone),
       count(*) filter (where u.reason is not null and not u.gone),
       coalesce(extract(epoch from clock_timestamp() - min(u.since) filter (where not u.held)), 0)
from programme g left join unsettled u on u.programme = g.id group by g.name
"""

# From the end of the index, slot by slot: what comes before a slot's newest version are those that vacuum hasn't removed.
_LIMITS = """
with recursive newest as (
    (select bucket, slot, requests, slots, set_at from rate_slot order by bucket desc, slot desc, turn desc limit 1)
    union all
    select r.* from newest n, lateral (
        select x.bucket, x.slot, x.requests, x.slots, x.set_at from rate_slot x
        where (x.bucket, x.slot) < (n.bucket, n.slot) order by x.bucket desc, x.slot desc, x.turn desc limit 1) r)
select split_part(bucket, ':', 1), sum(requests), (array_agg(slots order by set_at desc) filter (where slot = 0))[1]
from newest group by 1
"""

_ALERTS = "select key, firing::integer from alert"

_QUESTIONS: tuple[tuple[str, LiteralString, dict[str, str]], ...] = (
    (
        _PROGRAMMES,
        "programme",
        {
            "treazure_sync_covered_timestamp_seconds": "Treazure's changes up to this time are in the ledger without a gap.",
            "treazure_sync_holes": "Gaps in coverage: times that no export has covered.",
            "treazure_migrating": "1 while the programme is migrating and sends nothing.",
            "treazure_points": "Points outstanding: the sum of all balances known from Treazure.",
            "treazure_contacts": "Contacts whose balance Engage has accepted at least once.",
            "treazure_rejected_rows": "Rows of exports that can't be understood and have not been replaced by a good one.",
            "treazure_plans_waiting": "Plans that wait for a person because a guard has tripped.",
            "treazure_drift_contacts": "Contacts for which Engage showed a different balance from the one it accepted.",
            "treazure_drift_lasting_contacts": "Those among them that did not heal in three rounds.",
            "treazure_missing_contacts": "Contacts read back that Engage does not have.",
        },
    ),
    (
        _PENDING,
        "programme",
        {
            "treazure_pending_contacts": "Contacts whose balance Engage has not accepted yet.",
            "treazure_held_contacts": "Those among them that are held: waiting for the next try, below zero, or gone.",
            "treazure_gone_contacts": "Those among them that Engage has not known for 30 days.",
            "treazure_refused_contacts": "Those among them that Engage refused and that are still tried.",
            "treazure_pending_oldest_seconds": "How long the oldest one that is not held has waited.",
        },
    ),
    (
        _LIMITS,
        "system",
        {
            "treazure_requests_total": "Requests within the shared rate, from all processes.",
            "treazure_requests_per_second_limit": "Requests allowed per second, as set by the last process that sent.",
        },
    ),
    (_ALERTS, "alert", {"treazure_alert_firing": "1 while the pipeline's own alert with this key is firing."}),
)
