"""A version that is one behind goes on beside a newer schema, as long as that has taken nothing away."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from treazure_pipeline.adjustments.inbox import Store
from treazure_pipeline.database import schema
from treazure_pipeline.errors import SchemaOutdatedError
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once


def newer(url: str, compatible_since: str) -> None:
    with psycopg.connect(roles.administrators(url)) as connection:
        connection.execute("set search_path to treazure_pipeline")
        connection.execute("alter table adjustment add column of_a_newer_version text")
        connection.execute("update alembic_version set version_num = '9999'")
        connection.execute("update compatibility set compatible_since = %s", (compatible_since,))


async def checked(url: str) -> None:
    store = Store(url)
    async with store.opened():
        await store.check()


def test_an_older_receiver_and_an_older_run_work_beside_a_schema_that_was_expanded(
    adjustment_shop: AdjustmentShop, database_url: str
) -> None:
    newer(database_url, compatible_since=schema.head())
    asyncio.run(checked(database_url))
    adjustment_shop.give(adjustment_shop.contacts(1)[0], "3")
    adjustment_shop.finish()
    adjustment_shop.sync()
    assert_each_once(adjustment_shop)
    assert schema.upgrade(database_url) == ("9999", "9999")


def test_a_schema_that_took_something_away_is_named_as_newer(database_url: str) -> None:
    newer(database_url, compatible_since="9999")
    for attempt in (schema.check, schema.upgrade, lambda url: asyncio.run(checked(url))):
        with pytest.raises(SchemaOutdatedError, match=r"at revision 9999, which is newer than this version"):
            attempt(database_url)
