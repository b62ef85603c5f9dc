"""Play stories: ``python -m treazure_pipeline_tests.adversary --seed N``, ``--stories N``, ``--minutes M``.

The server is that of TREAZURE_PIPELINE_TEST_DATABASE_URL, or one of its own.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa

from treazure_pipeline.database import embedded, schema
from treazure_pipeline_tests.adversary.mutants import PARTS
from treazure_pipeline_tests.adversary.story import KINDS, Player, fresh_seed, player


@contextmanager
def ledger() -> Iterator[str]:
    """An empty ledger, thrown away in the end."""
    home = Path(tempfile.mkdtemp(prefix="treazure-adversary-"))
    home.chmod(0o755)
    given = os.environ.get("TREAZURE_PIPELINE_TEST_DATABASE_URL")
    server = given or embedded.start(home / "home")
    name = f"adversary_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        if not given:
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        connection.execute(f'create database "{name}"')
    url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    try:
        schema.upgrade(url)
        yield url
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'drop database if exists "{name}" with (force)')
        if not given:
            embedded.stop(home / "home")
        shutil.rmtree(home, ignore_errors=True)


def main() -> int:
    """Play what the arguments say; the exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m treazure_pipeline_tests.adversary")
    parser.add_argument("--seed", type=int, help="one story, or the first one's seed")
    parser.add_argument("--stories", type=int, help="so many stories")
    parser.add_argument("--minutes", type=float, help="for so long")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of these kinds of trouble only")
    parser.add_argument("--without", choices=sorted(PARTS), help="take this part out of the product")
    parser.add_argument("--mutants", action="store_true", help="a table: stories until each missing part was found")
    parser.add_argument("--keep-on", action="store_true", help="go on after a violation")
    given = parser.parse_args()
    if unknown := set(given.kinds.split(",")) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    logging.disable(logging.CRITICAL)
    stories = given.stories or (10**9 if given.minutes else 200 if given.mutants else 1)
    end = time.perf_counter() + (given.minutes or 10**7) * 60
    first = fresh_seed() if given.seed is None else given.seed
    with ledger() as url, player(url) as playing:
        if given.mutants:
            sys.stdout.write("| taken out | stories until found |\n|---|---|\n")
            for part in PARTS:
                number, found = _until_found(playing, range(first, first + stories), given.kinds.split(","), part, end)
                what = found.splitlines()[0] if found else "not found"
                sys.stdout.write(f"| {part} | {number}: {what} |\n")
                sys.stdout.flush()
            return 0
        played = violations = 0
        began = time.perf_counter()
        for seed in range(first, first + stories):
            if time.perf_counter() > end:
                break
            played += 1
            found = playing.play(seed, given.kinds.split(","), given.without)
            if found:
                violations += 1
                sys.stdout.write(found + "\n")
                sys.stdout.flush()
                if not given.keep_on:
                    break
        took = time.perf_counter() - began
        sys.stdout.write(f"{played} stories from seed {first}, {violations} violations, {took:.0f} s\n")
    return 1 if violations else 0


def _until_found(playing: Player, seeds: range, kinds: list[str], part: str, end: float) -> tuple[int, str | None]:
    number = 0
    for seed in seeds:
        if time.perf_counter() > end:
            break
        number += 1
        if found := playing.play(seed, kinds, part):
            return number, found
    return number, None


if __name__ == "__main__":
    raise SystemExit(main())
