"""The oracle: what must hold, judged only by what the vendors saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from treazure_pipeline.sandbox import Sandbox


@dataclass
class Violation(Exception):  # noqa: N818 - a finding, not a mishap
    """Something that must never be."""

    what: str
    seen: Any

    def __str__(self) -> str:
        return f"{self.what}: {self.seen}"


def safe(sandbox: Sandbox, limit: int) -> None:
    """Check what holds at every moment; `limit`: requests in any second to either system, 0: no limit."""
    report = sandbox.report()
    given = report["adjustments"]
    if given["more_than_once"]:
        raise Violation("an event was counted twice", given["examples"]["more_than_once"])
    for name in ("other_transactions", "altered"):
        if given[name]["count"]:
            raise Violation(f"Treazure was told what nobody gave ({name})", given[name])
    for problem in report["problems"]:
        seen = {name: report[name] for name in _FINDINGS if report[name]["count"]}
        raise Violation(problem, seen or given["examples"])
    for name in ("largest_in_one_second", "treazure_largest_in_one_second"):
        if limit and report[name] > limit:
            raise Violation("too many requests in a second", {name: report[name], "allowed": limit})


def settled(sandbox: Sandbox, limit: int) -> None:
    """Check what holds once troubles have ended, time has passed, and a person has decided what nobody else could."""
    safe(sandbox, limit)
    never = [event for event in sandbox.adjustment_report(every=True)["events"].values() if not event["booked"]]
    if never:
        raise Violation("events were never counted", never)
    found = sandbox.differences()
    if not found["equal"]:
        raise Violation("the systems differ", found)


_FINDINGS = (
    "overlaps", "repeated_in_one_request", "time_stamps_not_growing", "older_than_accepted", "stale_amounts",
    "foreign_amounts",
)  # fmt: skip
