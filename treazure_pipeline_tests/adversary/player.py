"""Plays stories, one after the other, on one sandbox, two receivers and one ledger."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import psycopg
from psycopg import sql

from treazure_pipeline.balance_sync import merge
from treazure_pipeline.database import schema
from treazure_pipeline.sandbox import running_sandbox
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.adjustments.adjustment_shop import running_receiver
from treazure_pipeline_tests.adversary.clocks import MOVABLE, SERVER
from treazure_pipeline_tests.adversary.mutants import without
from treazure_pipeline_tests.adversary.oracle import Violation
from treazure_pipeline_tests.adversary.stage import Stage
from treazure_pipeline_tests.adversary.story import Story

_SLICE_ROWS = 7


class Player:
    """Plays the stories of seeds."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def play(self, seed: int, kinds: Sequence[str], part: str | None = None, *, watchful: bool = False) -> str | None:
        """Play one story; return what went wrong, ready to be read, or None."""
        story = Story(self._stage, seed, kinds, watchful)
        try:
            with without(part), mock.patch.object(merge, "SLICE_ROWS", _SLICE_ROWS):
                story.play()
        except Violation as found:
            what = str(found)
        except Exception as error:  # noqa: BLE001 - whatever it is, it should not be
            what = f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}"
        else:
            return None
        self._stage.end_all()
        told = "\n  ".join(story.steps)
        again = f"python -m treazure_pipeline_tests.adversary --seed {seed} --kinds {','.join(kinds)}"
        return f"seed {seed}: {what}\n  {told}\nagain: {again}"


@contextmanager
def player(server_url: str) -> Iterator[Player]:
    """A player with a ledger of its own on a server, whose superuser the URL names."""
    name = f"adversary_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            url = roles.url(server_url, name, roles.RUNTIME)
            with psycopg.connect(roles.administrators(url), autocommit=True) as connection:
                connection.execute(MOVABLE)
                roles.make(server_url, database=name, dagster=name)
                schema.upgrade(roles.url(server_url, name, roles.OWNER))
                connection.execute(SERVER)
            with ExitStack() as stack:
                sandbox = stack.enter_context(running_sandbox(members=0))
                receivers = tuple(stack.enter_context(running_receiver(url)) for _ in range(2))
                stage = Stage(sandbox, url, receivers=receivers)
                stack.callback(stage.close)
                stack.enter_context(stage.clocks.running())
                yield Player(stage)
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
