"""Other open tools on the same work: `python benchmarks/peers.py` measures them and writes docs/benchmarks-peers.md.

The pipeline, the plain script, dlt and drt-core fetch the same export from the same stub, find what changed and
post it. Then each is played the same faults, and after one more run without a fault what the stub was sent is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import databases
import fault_stub
import members
import peer_drt
import report
from processes import HERE, command, run, say, stub

TOOLS = {"pipeline": "pipeline", "plain": "plain script", "dlt": "dlt", "drt": "drt-core"}
FULL = ((10_000, 1_000_000), (50_000, 1_000_000), (200_000, 1_000_000), (50_000, 5_000_000))
QUICK = ((2_000, 20_000), (10_000, 20_000))
WANTED = 1.2
MEMBERS, CHANGED, AGAIN, ODD = 50_000, 20_000, 2_000, 10
UNLIMITED = {"ENGAGE_MAX_REQUESTS_PER_SECOND": "0"}
PATIENCE = 300


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/peers.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once; writes nothing but the output")
    parser.add_argument("--faults", action="store_true", help="only the faults; writes nothing but the output")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is measured; the median counts")
    chosen = parser.parse_args()
    sizes, repeat = (QUICK, 1) if chosen.quick else (FULL, chosen.repeat)
    with databases.running_server() as server, tempfile.TemporaryDirectory() as folder:
        if chosen.faults:
            print("\n".join(fault_table(played(server, Path(folder)))))
            return
        text = "\n".join(
            [
                *report.machine(repeat),
                "",
                *speed_table(measured(server, Path(folder), sizes, repeat)),
                "",
                *fault_table(played(server, Path(folder))),
            ]
        )
    print(text)
    if not chosen.quick:
        report.write_between(HERE.parent / "docs" / "benchmarks-peers.md", text)


@contextmanager
def state(tool: str, server: str, folder: Path, base: int) -> Iterator[str]:
    """What a tool starts from, for the block: a ledger, a file or a folder that knows the members 1 to `base`."""
    place = folder / "state"
    place.mkdir()
    try:
        if tool == "pipeline":
            with databases.cloned(server, base) as database:
                yield database
        elif tool == "plain":
            shutil.copy(folder / f"{base}.parquet", place / "state.parquet")
            yield str(place / "state.parquet")
        else:
            if tool == "drt":
                shutil.copytree(folder / f"{base}.drt", place, dirs_exist_ok=True)
            yield str(place)
    finally:
        shutil.rmtree(place)


def prepare(server: str, folder: Path, base: int) -> None:
    """Make what the tools start from."""
    say(f"a ledger, a file and a warehouse of {base:,} members are made")
    databases.fill(server, base)
    run("state", "", f"{folder}/{base}.parquet:{base}")
    (folder / f"{base}.drt").mkdir()
    peer_drt.prepare(folder / f"{base}.drt", base)


def measured(
    server: str, folder: Path, sizes: tuple[tuple[int, int], ...], repeat: int
) -> dict[tuple[int, int], dict[str, list[dict[str, Any]]]]:
    """Return every run of every tool by size."""
    runs: dict[tuple[int, int], dict[str, list[dict[str, Any]]]] = {}
    for base in sorted({base for _, base in sizes}):
        prepare(server, folder, base)
    for changes, base in sizes:
        of = runs[changes, base] = {tool: [] for tool in TOOLS}
        with stub(changes, base) as url:
            for _ in range(repeat):
                for tool in TOOLS:
                    with state(tool, server, folder, base) as given:
                        of[tool].append(run(tool, url, given, **UNLIMITED))
                    say(f"{tool} {changes:,} of {base:,}: {json.dumps(of[tool][-1])}")
    return runs


def speed_table(runs: dict[tuple[int, int], dict[str, list[dict[str, Any]]]]) -> list[str]:
    """Return seconds and how they compare, as Markdown."""
    others = list(TOOLS)[1:]
    columns = [
        "changed", "ledger", *(f"{name}, s" for name in TOOLS.values()),
        *(f"{TOOLS[tool]} ÷ pipeline" for tool in others), "fastest ÷ pipeline", "wanted",
        *(f"peak MB of {name}" for name in TOOLS.values()),
    ]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|" + "--:|" * len(columns)]
    for (changes, base), of in runs.items():
        seconds, peaks = (
            {tool: statistics.median(run[what] for run in of[tool]) for tool in TOOLS}
            for what in ("seconds", "peak_mb")
        )
        ratios = [seconds[tool] / seconds["pipeline"] for tool in others]
        values = [
            f"{changes:,}", f"{base:,}", *(f"{value:.2f}" for value in seconds.values()),
            *(f"{ratio:.2f}" for ratio in ratios), f"**{min(ratios):.2f}**",
            f"≥ {WANTED}, {'met' if min(ratios) >= WANTED else '**missed**'}",
            *(f"{peak:.0f}" for peak in peaks.values()),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(values)} |")
    return lines


def played(server: str, folder: Path) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Play each fault to each tool; return what was lost, doubled and stale."""
    prepare(server, folder, MEMBERS)
    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    for fault in fault_stub.FAULTS:
        found[fault] = {}
        for tool in TOOLS:
            with state(tool, server, folder, MEMBERS) as given:
                found[fault][tool] = play(fault, tool, given)
            say(f"{fault}, {tool}: lost, doubled, stale {found[fault][tool]}")
    return found


def play(fault: str, tool: str, given: str) -> tuple[int, int, int]:
    """Run a tool twice, with the fault and an hour later without; return what was lost, doubled and stale."""
    odd = frozenset(members.contact(number) for number in range(CHANGED - ODD, CHANGED))
    world = fault_stub.World(middle=CHANGED // members.ROWS_PER_REQUEST // 2, fault=fault, odd=odd)
    with fault_stub.serving(world) as url, tempfile.TemporaryFile("w+") as log:
        world.change(range(1, CHANGED + 1), Decimal("1000.5"))
        once(tool, url, given, world, log)
        world.calm()
        if tool == "pipeline":
            databases.an_hour_later(given)
        world.change(range(1, CHANGED + 1, CHANGED // AGAIN), Decimal("2000.5"))
        if not once(tool, url, given, world, log):
            log.seek(0)
            raise SystemExit(f"{tool} failed after {fault}, in a run without a fault:\n{log.read()}")
    return world.lost(), world.doubled, world.stale


def once(tool: str, url: str, given: str, world: fault_stub.World, log: IO[str]) -> bool:
    """Run a tool; kill it where the fault says so. Return whether it ended well."""
    environment = os.environ | UNLIMITED | {"TREAZURE_PIPELINE_RETRY_SCALE": "0.01"}
    process = subprocess.Popen(
        command("sync" if tool == "pipeline" else tool, url, given),
        env=environment, cwd=HERE.parent, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    ends = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < ends:
        if world.fault == fault_stub.KILLED and world.struck.is_set():
            break
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    after = Path(f"{given}.after")
    if after.exists():
        after.rename(given)
    return process.returncode == 0


def fault_table(found: dict[str, dict[str, tuple[int, int, int]]]) -> list[str]:
    """Return what was lost, doubled and stale, as Markdown."""
    return [
        (
            f"{CHANGED:,} of {MEMBERS:,} changed, and {AGAIN:,} of these once more before the second run. "
            "Lost / doubled / stale:"
        ),
        "",
        f"| fault in the first run | {' | '.join(TOOLS.values())} |",
        "|---|" + "--:|" * len(TOOLS),
        *(
            f"| {fault} | {' | '.join(' / '.join(f'{count:,}' for count in counts) for counts in by.values())} |"
            for fault, by in found.items()
        ),
    ]


if __name__ == "__main__":
    main()
