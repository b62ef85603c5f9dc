"""Every measurement is a process of its own, and so is the stub of both systems that it runs against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent


def run(kind: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run measure.py in a process of its own and return what it printed last."""
    done = subprocess.run(
        command(kind, *arguments),
        env=os.environ | environment, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def command(kind: str, *arguments: str) -> list[str]:
    """Return the command line of one measurement."""
    return [sys.executable, str(HERE / "measure.py"), kind, *arguments]


@contextmanager
def stub(changes: int, base: int) -> Iterator[str]:
    """Start the stub of both systems; yield its URL."""
    line = [sys.executable, str(HERE / "stub.py"), str(changes), str(base)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


def seen(url: str) -> dict[str, Any]:
    """Return what the stub saw: `requests` that set balances, and seconds `waited` between the export and the first."""
    counts: dict[str, Any] = httpx.get(f"{url}/sent").json()
    return counts


def say(line: str) -> None:
    """Tell how far things are."""
    print(line, file=sys.stderr, flush=True)
