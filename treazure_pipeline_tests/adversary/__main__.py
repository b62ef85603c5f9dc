"""Play stories: ``python -m treazure_pipeline_tests.adversary --seed N``, ``--stories N``, ``--minutes M``.

The server is that of TREAZURE_PIPELINE_TEST_DATABASE_URL (a superuser's), or one of its own.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from treazure_pipeline.database import embedded
from treazure_pipeline_tests.adversary.mutants import PARTS
from treazure_pipeline_tests.adversary.player import player
from treazure_pipeline_tests.adversary.story import KINDS


@contextmanager
def server() -> Iterator[str]:
    """A server that keeps nothing: that of the environment, or one for the block."""
    if given := os.environ.get("TREAZURE_PIPELINE_TEST_DATABASE_URL"):
        yield given
        return
    home = Path(tempfile.mkdtemp(prefix="treazure-adversary-"))
    home.chmod(0o755)
    url = embedded.start(home / "home")
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(f"alter system set {setting} = off")
            connection.execute("select pg_reload_conf()")
        yield url
    finally:
        embedded.stop(home / "home")
        shutil.rmtree(home, ignore_errors=True)


_TOLD_EVERY = 100


@dataclass(frozen=True)
class _Task:
    """The seeds of one process."""

    server: str
    first: int
    count: int
    every: int
    end: float
    kinds: Sequence[str]
    part: str | None
    keep_on: bool


def _play(task: _Task, found: Any) -> None:
    """Play a process's seeds and put what was found, seed by seed."""
    logging.disable(logging.CRITICAL)
    with player(task.server) as playing:
        for seed in range(task.first, task.first + task.count, task.every):
            if time.time() > task.end:
                break
            what = playing.play(seed, task.kinds, task.part, watchful=task.count == 1)
            found.put((seed, what))
            if what and not task.keep_on:
                break
    found.put(None)


def _all(tasks: Sequence[_Task]) -> Iterator[tuple[int, str | None]]:
    """Play tasks side by side; give each seed with what was found, as they come."""
    found: Any = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=_play, args=(task, found)) for task in tasks]
    for process in processes:
        process.start()
    left = len(processes)
    try:
        while left:
            one = found.get(timeout=600)
            if one is None:
                left -= 1
            else:
                yield one
    finally:
        for process in processes:
            process.terminate()
            process.join()


def main() -> int:
    """Play what the arguments say; the exit code is 1 where something was found (with `--mutants`: was not)."""
    parser = argparse.ArgumentParser(prog="python -m treazure_pipeline_tests.adversary")
    parser.add_argument("--seed", type=int, help="one story, or the first one's seed")
    parser.add_argument("--stories", type=int, help="so many stories")
    parser.add_argument("--minutes", type=float, help="for so long")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of these kinds of trouble only")
    parser.add_argument("--without", choices=sorted(PARTS), help="take this part out of the product")
    parser.add_argument("--mutants", action="store_true", help="a table: stories until each missing part was found")
    parser.add_argument("--keep-on", action="store_true", help="go on after a violation")
    parser.add_argument("--processes", type=int, default=1, help="so many side by side")
    given = parser.parse_args()
    if unknown := set(given.kinds.split(",")) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    count = given.stories or (10**7 if given.minutes else 200 if given.mutants else 1)
    end = time.time() + (given.minutes or 10**5) * 60
    first = uuid.uuid4().int % 10**9 if given.seed is None else given.seed
    with server() as url:
        if given.mutants:
            return _mutants(url, first, count, given)
        tasks = [
            _Task(
                url, first + at, count - at, given.processes, end, given.kinds.split(","), given.without, given.keep_on
            )
            for at in range(min(given.processes, count))
        ]
        return _report(tasks, first)


def _report(tasks: Sequence[_Task], first: int) -> int:
    played = violations = 0
    began = time.perf_counter()

    def tell() -> None:
        took = time.perf_counter() - began
        sys.stdout.write(f"{played} stories from seed {first}, {violations} violations, {took:.0f} s\n")
        sys.stdout.flush()

    for _, what in _all(tasks):
        played += 1
        if what:
            violations += 1
            sys.stdout.write(what + "\n")
            sys.stdout.flush()
            if not tasks[0].keep_on:
                break
        if played % _TOLD_EVERY == 0:
            tell()
    tell()
    return 1 if violations else 0


def _mutants(url: str, first: int, count: int, given: argparse.Namespace) -> int:
    missed = 0
    sys.stdout.write("| without | kinds played | stories until found | found as |\n|---|---|---|---|\n")
    for name, part in PARTS.items():
        kinds = part.kinds or given.kinds.split(",")
        task = _Task(url, first, count, 1, time.time() + 10**6, kinds, name, keep_on=False)
        played, what = 0, None
        for _, found in _all([task]):
            played, what = played + 1, found
        told = what.splitlines()[0].partition(": ")[2].partition(":")[0] if what else "**not found**"
        missed += what is None
        sys.stdout.write(f"| {name} | {', '.join(part.kinds or ['all'])} | {played} | {told} |\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
