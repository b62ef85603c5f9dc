"""The results of a balance sync: the same figures for Dagster's metadata and for the command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from treazure_pipeline import phrases

if TYPE_CHECKING:
    from treazure_pipeline.balance_sync.first_send import Sides
    from treazure_pipeline.balance_sync.push import PushFigures
    from treazure_pipeline.balance_sync.snapshot import Diff, Snapshot
    from treazure_pipeline.ledger.coverage import Window


@dataclass(frozen=True)
class Pushed:
    """A push as part of its run.

    Attributes:
        changed: Rows that the run's diff changed.
        carried_over: Rows that were pending before, or became so beside the run.
        window: The window of the run's export; None if only the push ran. So is `fetched`.
        why: The reason for most of Engage's refusals.
        plan: The digest of the plan that keeps rows back.
    """

    changed: int
    carried_over: int
    figures: PushFigures
    migrating: bool
    window: Window | None = None
    fetched: int | None = None
    why: str | None = None
    plan: str | None = None

    @property
    def sentence(self) -> str:
        """The run in one sentence: what was fetched, changed and sent, and what waits for what."""
        found = self.figures
        begin = "" if self.window is None else f"{phrases.span(self.window.start, self.window.end)}: "
        fetched = [] if self.fetched is None else [f"{self.fetched:,} fetched", f"{self.changed:,} changed"]
        if self.migrating:
            left = phrases.counted(found.pending, "waits", "wait")
            return f"{begin}{phrases.sentence([*fetched, 'nothing sent', left])}: the programme is migrating"
        sent = f"{found.sent:,} sent" + (f" in {phrases.counted(found.requests, 'request')}" if found.requests else "")
        told = begin + phrases.sentence([*fetched, sent])
        if waiting := found.refused + found.held:
            told += f", {phrases.counted(waiting, 'waits', 'wait')}" + (f": {self.why}" if self.why else "")
            told += f"; plan {self.plan} waits" if self.plan else ""
        if found.pending:
            told += f"; {found.pending:,} left for the next run"
        return told

    @property
    def adds_up(self) -> bool:
        """Whether changed + carried over = sent + refused + held + left pending (I6)."""
        found = self.figures
        return self.changed + self.carried_over == found.sent + found.refused + found.held + found.pending


@dataclass
class SyncReport:
    """What `run balance-sync --json` prints of one run. A step that was not reached is None."""

    snapshot: Snapshot | None = None
    diff: Diff | None = None
    pushed: Pushed | None = None
    sides: list[Sides] = field(default_factory=list)

    def figures(self, *, held: bool) -> dict[str, Any]:
        """Return window, counts, points and seconds; if the guards `held` the run back, also how many rows they held."""
        found: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        if self.snapshot is not None:
            window = self.snapshot.window
            found["window"] = {
                "from": window.start.isoformat(), "to": window.end.isoformat(), "full": window.is_full,
            }  # fmt: skip
            found |= {"fetched": self.snapshot.fetched, "rejected": self.snapshot.rejected}
            seconds["export"] = self.snapshot.seconds
        if self.diff is not None:
            merged = self.diff.figures
            found |= {
                name: getattr(merged, name)
                for name in ("fetched", "duplicate", "rejected", "superseded", "unchanged", "changed", "carried_over")
            }
            found |= {"points_before": str(merged.points_before), "points_after": str(merged.points_after)}
            seconds["diff"] = self.diff.seconds
        if self.pushed is not None:
            pushed = self.pushed.figures
            found |= {"changed": self.pushed.changed, "carried_over": self.pushed.carried_over}
            found |= {name: getattr(pushed, name) for name in ("sent", "refused", "held", "pending", "requests")}
            seconds |= pushed.seconds
        elif held and self.diff is not None:
            merged = self.diff.figures
            held_rows = merged.changed + merged.carried_over
            found |= {"sent": 0, "refused": 0, "held": held_rows, "pending": 0, "requests": 0}
        if self.sides:
            found["first_send"] = [side.shown() for side in self.sides]
        return found | {"seconds": {phase: round(value, 3) for phase, value in seconds.items()}}
