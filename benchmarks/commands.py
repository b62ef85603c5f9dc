"""Measure what a command takes from its start to its end: `python benchmarks/commands.py` prints a table.

Whole processes against a sandbox, in a home of their own that a first sync has filled, taking turns; beside them the
interpreter alone and `import dagster`, below which no `run` can get. Wall time is that of the machine as it is;
processor seconds say more where other work shares it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from treazure_pipeline.cli.sandbox import settings
from treazure_pipeline.database import embedded
from treazure_pipeline.sandbox import sandbox_process

_OURS = [sys.executable, "-c", "from treazure_pipeline.cli import main; main()"]
COMMANDS = {
    "the interpreter alone": ([sys.executable, "-c", "pass"], None),
    "`import dagster`": ([sys.executable, "-c", "import dagster"], None),
    "`--help`": ([*_OURS, "--help"], 0.25),
    "`status`": ([*_OURS, "status"], 0.6),
    "`run balance-sync`, nothing changed": ([*_OURS, "run", "balance-sync"], 2.5),
}


def main() -> None:
    """Measure by the arguments given."""
    parser = argparse.ArgumentParser(prog="benchmarks/commands.py", description=__doc__)
    parser.add_argument("--members", type=int, default=5_000)
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="treazure-commands-", dir="/tmp"))
    home.chmod(0o755)
    try:
        with sandbox_process("--members", str(chosen.members)) as box:
            given = settings(int(box.base_url.rsplit(":", 1)[1])) | {"TREAZURE_PIPELINE_HOME": str(home / "home")}
            environment = os.environ | given
            taken([*_OURS, "run", "balance-sync"], environment)
            runs = [
                {name: taken(command, environment) for name, (command, _) in COMMANDS.items()}
                for _ in range(chosen.repeat)
            ]
    finally:
        embedded.stop(home / "home")
        shutil.rmtree(home)
    print(f"Medians of {chosen.repeat} runs; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n")
    print("| | wanted, s | wall, s | processor, s |\n|---|--:|--:|--:|")
    for name, (_, wanted) in COMMANDS.items():
        wall, processor = (statistics.median(run[name][place] for run in runs) for place in (0, 1))
        print(f"| {name} | {wanted or ''} | {wall:.2f} | {processor:.2f} |")


def taken(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; return its wall seconds, and the processor seconds of its process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
