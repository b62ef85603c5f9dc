"""Measure the whole job; `make bench` runs this and writes docs/benchmarks.md and its plot.

Each measurement is a process of its own against a stub of both systems and, where it needs one, a fresh clone of a
filled ledger. What counts are ratios within one run: this machine against itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import databases
import report
from processes import HERE, run, say, seen, stub

RATE = 45


@dataclass(frozen=True)
class Plan:
    """The sizes: all `changes` of all `bases`, and `small` changes of a `middle` and the largest base."""

    changes: tuple[int, ...]
    bases: tuple[int, ...]
    small: int
    middle: int
    repeat: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Every (changes, base) that the pipeline is measured at, one of them a ledger in which all has changed."""
        grid = [(changes, base) for base in self.bases for changes in self.changes]
        most = self.changes[-1]
        return sorted(
            {*grid, (most, most), (self.small, self.middle), (self.small, self.bases[-1]), (0, self.bases[-1])}
        )


FULL = Plan((10_000, 100_000, 1_000_000), (1_000_000, 5_000_000), 50_000, 500_000, repeat=3)
TARGETS = replace(FULL, changes=FULL.changes[-1:], bases=FULL.bases[-1:])
QUICK = Plan((1_000, 10_000), (10_000, 100_000), 5_000, 50_000, repeat=1)


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="small sizes, once; writes nothing but the output")
    sizes.add_argument("--targets", action="store_true", help="only the sizes that the targets are about")
    parser.add_argument("--repeat", type=int, help="how often each is measured; the median counts")
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else TARGETS if chosen.targets else FULL
    plan = replace(plan, repeat=chosen.repeat or plan.repeat)
    runs = measured(plan)
    results = report.Results(runs, plan.changes[-1], plan.bases[-1], plan.small, plan.middle, RATE)
    print(results.markdown())
    if not chosen.quick:
        results.write(HERE.parent / "docs")


def measured(plan: Plan) -> list[dict[str, Any]]:
    """Return every run of every measurement."""
    runs: list[dict[str, Any]] = []
    with databases.running_server() as server, tempfile.TemporaryDirectory() as folder:
        bases = {base for _, base in plan.pairs}
        for base in sorted(bases):
            say(f"a ledger of {base:,} members is made")
            databases.fill(server, base)
            run("state", "", f"{folder}/{base}.parquet:{base}")
        for changes, base in plan.pairs:
            with stub(changes, base) as url:
                for _ in range(plan.repeat):
                    for kind, rate in kinds(plan, changes, base):
                        runs.append(once(kind, url, server, folder, changes, base, rate))
                        say(json.dumps(runs[-1]))
    return runs


def kinds(plan: Plan, changes: int, base: int) -> Iterator[tuple[str, int]]:
    """What is measured at one size, each with its limit of requests a second (0: none)."""
    yield "pipeline", 0
    if changes:
        yield "floor", 0
        yield "plain", 0
    else:
        yield "job", 0
    if (changes, base) == (plan.changes[-1], plan.bases[-1]):
        yield "pipeline", RATE


def once(kind: str, url: str, server: str, folder: str, changes: int, base: int, rate: int) -> dict[str, Any]:
    """Measure once."""
    what = {"kind": kind, "changes": changes, "base": base, "rate": rate}
    if kind == "floor":
        return what | run(kind, url, str(changes))
    if kind == "plain":
        return what | run(kind, url, f"{folder}/{base}.parquet")
    environment = {
        "ENGAGE_MAX_REQUESTS_PER_SECOND": str(rate),
        "DAGSTER_HOME": folder,
        "DAGSTER_POSTGRES_URL": databases.sibling(server, "dagster"),
    }
    (Path(folder) / "dagster.yaml").write_bytes((HERE.parent / "dagster.yaml").read_bytes())
    with databases.cloned(server, base) as database:
        scans, sent, used = databases.sequential_scans(database), seen(url), databases.cpu_seconds(server)
        figures = run(kind, url, database, **environment)
        figures["cpu"] += databases.cpu_seconds(server) - used
        figures["scans"] = databases.sequential_scans(database) - scans
    after = seen(url)
    return what | figures | {"requests": after["requests"] - sent["requests"], "waited": after["waited"]}


if __name__ == "__main__":
    main()
