"""A ledger with a bit of everything in it, and a reader who sees it through the reporting views alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest
import sqlalchemy as sa

from treazure_pipeline.connections import Run
from treazure_pipeline.database import schema
from treazure_pipeline.points_history.refresh import refresh
from treazure_pipeline.verification.read_back import verify
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.adjustments.desk import Desk, _desk_sandbox, new_desk
from treazure_pipeline_tests.balance_sync.shop import account_of

__all__ = ["_desk_sandbox", "new_desk"]

WRITTEN = "Sorry, Ottilie Brandt"
"""What people wrote about a member; no view shows any of it."""
BAD = f'{{"accountNumber": "00000000-0000-4000-8000-00000000000b", "balance": "{WRITTEN}"}}'
AT_ONCE = {"ENGAGE_VERIFY_GRACE_SECONDS": "0"}


@dataclass(frozen=True)
class Reader:
    """The role that `db grant-reader` was run for."""

    desk: Desk

    @property
    def url(self) -> str:
        return sa.make_url(self.desk.database_url).set(username=roles.READER).render_as_string(hide_password=False)

    def ask(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a statement gives the reader, whose client has a time zone of its own."""
        options = "-c search_path=treazure_reporting -c timezone=Asia/Kathmandu"
        with psycopg.connect(self.url, options=options) as connection:
            return connection.execute(statement, values or None).fetchall()

    def row(self, statement: LiteralString, *values: object) -> tuple[Any, ...]:
        (row,) = self.ask(statement, *values)
        return row


@pytest.fixture
def reader(new_desk: Callable[..., Desk]) -> Reader:
    """The reader of a new ledger, in which nothing has happened yet."""
    desk = new_desk(members=60, environ=AT_ONCE)
    schema.grant_reader(sa.make_url(desk.database_url).set(username=roles.OWNER).render_as_string(False), roles.READER)
    return Reader(desk)


@pytest.fixture
def lived(reader: Reader) -> Reader:
    """Syncs, adjustments, a refused one, bad rows, refusals, readings from Engage, drift, the points history."""
    desk = reader.desk
    contacts = desk.contacts(60)
    desk.sync()
    desk.sandbox.know(contacts[:1], known=False)
    desk.sandbox.set_fault("bad_rows", raw_rows=[BAD])
    desk.sandbox.add_points({contacts[0]: 5, contacts[1]: 40, contacts[2]: "12.5"})
    desk.sandbox.play_hour(changes=12)
    desk.sync()
    desk.give(contacts[3], 100, description=WRITTEN)
    desk.deliver(f'{{"contactId": "{contacts[4]}", "pointDefinitionId": 1, "amount": "{WRITTEN}"}}')
    desk.finish()
    with desk.connect() as connections:
        desk.sandbox.set_engage_balances({contacts[1]: 1})
        verify(Run.of(connections, connections.settings.programmes[0], uuid.uuid4().hex))
        refresh(
            connections.ledger, connections.treazure, account_of(connections), everybody=True, concurrency=2,
            most_seconds=600,
        )  # fmt: skip
    return reader
