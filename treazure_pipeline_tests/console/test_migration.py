from __future__ import annotations

import html
import re
from collections.abc import Callable

from treazure_pipeline_tests.console.conftest import Browser
from treazure_pipeline_tests.point_migration.migration_shop import SHARDS, MigrationShop


def shown(browser: Browser) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", browser.get("/migration").text)).split())


def test_a_migration_is_followed_from_its_roster_to_its_end(
    as_role: Callable[[str], Browser], migration_shop: MigrationShop
) -> None:
    browser = as_role("viewer")
    assert "The ledger has no programme yet" in shown(browser)

    migration_shop.prepare()
    (contacts,) = migration_shop.shop.sql("select count(*) from migration_contact")[0]
    ready = shown(browser)
    assert "being fetched and written. Next: fetch the logs and write the files" in ready
    assert f"Contacts {contacts:,}" in ready
    assert f"Shards written 0 of {SHARDS}" in ready

    migration_shop.shards()
    migration_shop.deliver()
    assert "is delivered. Next: have Engage import the files" in shown(browser)
    migration_shop.import_files()
    migration_shop.audit()
    closed = shown(browser)
    assert "is closed. There is nothing left to do" in closed
    assert f"Shards written {SHARDS} of {SHARDS}" in closed
    assert closed.count("By shard") == 1
