"""The oracle: what must hold, judged only by what the vendors saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from treazure_pipeline.sandbox import Sandbox

MOST_REQUESTS = 200
"""What Engage takes in a second, and what the product is set to."""


@dataclass
class Violation(Exception):  # noqa: N818 - a finding, not a mishap
    """Something that must never be."""

    what: str
    seen: Any

    def __str__(self) -> str:
        return f"{self.what}: {self.seen}"


def safe(sandbox: Sandbox) -> None:
    """Check what holds at every moment."""
    given = sandbox.adjustment_report()
    if given["more_than_once"]:
        raise Violation("an event was counted twice", given["examples"]["more_than_once"])
    for name in ("other_transactions", "altered"):
        if given[name]["count"]:
            raise Violation(f"Treazure was told what nobody gave ({name})", given[name])
    report = sandbox.report()
    for problem in report["problems"]:
        seen = {name: report[name] for name in _FINDINGS if report[name]["count"]}
        raise Violation(problem, seen or given["examples"])
    if report["largest_in_one_second"] > MOST_REQUESTS:
        raise Violation("too many requests in a second", report["largest_in_one_second"])


def settled(sandbox: Sandbox, undecidable: set[str]) -> None:
    """Check what holds once faults have ended and time has passed; of `undecidable` events only safety is asked."""
    safe(sandbox)
    events = sandbox.adjustment_report(every=True)["events"]
    never = [event for event, booked in events.items() if not booked and event not in undecidable]
    if never:
        raise Violation("events were never counted", never)
    found = sandbox.differences()
    if not found["equal"]:
        raise Violation("the systems differ", found)


_FINDINGS = (
    "overlaps", "repeated_in_one_request", "time_stamps_not_growing", "older_than_accepted", "stale_amounts",
    "foreign_amounts",
)  # fmt: skip
