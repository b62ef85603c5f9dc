"""Show what a sync's time goes into: `python benchmarks/costs.py` draws docs/benchmarks-costs.svg with py-spy.

py-spy looks at every thread of the pipeline's process a hundred times a second, those included that wait for
PostgreSQL or for an answer. A sample counts for the function of ours that it is in, or that called what all use to get
at the database. Threads without work and imports are left out. `_Push._claim` is mostly
threads that wait for their turn.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

import databases
from processes import HERE, command, stub

RATE = 100
SHOWN = 8
WITHOUT_WORK = ("threading.py", "concurrent/futures/thread.py", "queue.py")
PLUMBING = ("database/", "ledger/rows", "ledger/store", "connections", "tracing")
OURS = re.compile(r"(?P<function>\S+) \(treazure_pipeline/(?P<module>\S+)\.py:\d+\)")


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/costs.py", description=__doc__)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--base", type=int, default=5_000_000)
    parser.add_argument("--print", action="store_true", help="draw nothing")
    chosen = parser.parse_args()
    with databases.running_server() as server, stub(chosen.changes, chosen.base) as url:
        databases.fill(server, chosen.base)
        with databases.cloned(server, chosen.base) as database:
            costs = sampled(url, database)
    for name, seconds in costs.most_common(SHOWN):
        print(f"{seconds:6.2f} s  {name}")
    if not chosen.print:
        draw(costs, f"{chosen.changes:,} changed of {chosen.base:,}", HERE.parent / "docs" / "benchmarks-costs.svg")


def sampled(url: str, database: str) -> Counter[str]:
    """Run the pipeline under py-spy; return the seconds of all threads by function."""
    with tempfile.NamedTemporaryFile("r", suffix=".raw") as stacks:
        spy = [f"{sysconfig.get_path('scripts')}/py-spy", "record", "--idle", "--rate", str(RATE), "--format", "raw"]
        subprocess.run(
            [*spy, "--output", stacks.name, "--", *command("pipeline", url, database)],
            env=os.environ | {"ENGAGE_MAX_REQUESTS_PER_SECOND": "0"}, cwd=HERE.parent, check=True, capture_output=True,
        )  # fmt: skip
        return counted(Path(stacks.name).read_text(encoding="utf-8").splitlines())


def counted(stacks: list[str]) -> Counter[str]:
    """Return the seconds by function from py-spy's lines, each a stack and how often it was seen."""
    costs: Counter[str] = Counter()
    for line in stacks:
        stack, times = line.rsplit(" ", 1)
        frames = stack.split(";")
        ours = [
            found for frame in frames if (found := OURS.fullmatch(frame)) and not found["module"].startswith(PLUMBING)
        ]
        if ours and ours[-1]["function"] != "<module>" and not any(f"({file}" in frames[-1] for file in WITHOUT_WORK):
            costs[f"{ours[-1]['module'].replace('/', '.')}.{ours[-1]['function']}"] += int(times) / RATE
    return costs


def draw(costs: Counter[str], title: str, path: Path) -> None:
    """Draw the largest as bars."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    from matplotlib import pyplot as plt

    largest = costs.most_common(SHOWN)[::-1]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    bars = axes.barh([name for name, _ in largest], [seconds for _, seconds in largest], color="#4c78a8")
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_xlabel("seconds, all threads, waits for PostgreSQL and Engage included")
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
