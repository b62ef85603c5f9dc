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
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, _adjustment_sandbox, new_adjustment_shop
from treazure_pipeline_tests.balance_sync.shop import account_of

__all__ = ["_adjustment_sandbox", "new_adjustment_shop"]

WRITTEN = "Sorry, Ottilie Brandt"
"""What people wrote about a member; no view shows any of it."""
BAD = f'{{"accountNumber": "00000000-0000-4000-8000-00000000000b", "balance": "{WRITTEN}"}}'
AT_ONCE = {"ENGAGE_VERIFY_GRACE_SECONDS": "0"}


@dataclass(frozen=True)
class Reader:
    """The role that `db grant-reader` was run for."""

    adjustment_shop: AdjustmentShop

    @property
    def url(self) -> str:
        return (
            sa.make_url(self.adjustment_shop.database_url)
            .set(username=roles.READER)
            .render_as_string(hide_password=False)
        )

    def ask(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a statement gives the reader, whose client has a time zone of its own."""
        options = "-c search_path=treazure_reporting -c timezone=Asia/Kathmandu"
        with psycopg.connect(self.url, options=options) as connection:
            return connection.execute(statement, values or None).fetchall()

    def row(self, statement: LiteralString, *values: object) -> tuple[Any, ...]:
        (row,) = self.ask(statement, *values)
        return row


@pytest.fixture
def reader(new_adjustment_shop: Callable[..., AdjustmentShop]) -> Reader:
    """The reader of a new ledger, in which nothing has happened yet."""
    adjustment_shop = new_adjustment_shop(members=60, environ=AT_ONCE)
    schema.grant_reader(
        sa.make_url(adjustment_shop.database_url).set(username=roles.OWNER).render_as_string(False), roles.READER
    )
    return Reader(adjustment_shop)


@pytest.fixture
def lived(reader: Reader) -> Reader:
    """Syncs, adjustments, a refused one, bad rows, refusals, readings from Engage, drift, the points history."""
    adjustment_shop = reader.adjustment_shop
    contacts = adjustment_shop.contacts(60)
    adjustment_shop.sync()
    adjustment_shop.sandbox.know(contacts[:1], known=False)
    adjustment_shop.sandbox.set_fault("bad_rows", raw_rows=[BAD])
    adjustment_shop.sandbox.add_points({contacts[0]: 5, contacts[1]: 40, contacts[2]: "12.5"})
    adjustment_shop.sandbox.play_hour(changes=12)
    adjustment_shop.sync()
    adjustment_shop.give(contacts[3], 100, description=WRITTEN)
    adjustment_shop.deliver(f'{{"contactId": "{contacts[4]}", "pointDefinitionId": 1, "amount": "{WRITTEN}"}}')
    adjustment_shop.finish()
    with adjustment_shop.connect() as connections:
        adjustment_shop.sandbox.set_engage_balances({contacts[1]: 1})
        verify(Run.of(connections, connections.settings.programmes[0], uuid.uuid4().hex))
        refresh(
            connections.ledger, connections.treazure, account_of(connections), everybody=True, concurrency=2,
            most_seconds=600,
        )  # fmt: skip
    # The waits are cut short here; on a slow machine the refused row would be due by now.
    adjustment_shop.sql("update pending set next_try = now() + interval '1 hour' where next_try is not null")
    return reader
