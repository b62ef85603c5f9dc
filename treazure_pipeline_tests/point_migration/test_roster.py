from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from treazure_pipeline.errors import ClocksApartError, InvalidAnswerError, TransientError, UntrustedExportError
from treazure_pipeline.point_migration import backfill, roster_store
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop


def windows(migration_shop: MigrationShop) -> list[tuple[str, str]]:
    return [tuple(row) for row in migration_shop.shop.sql("select kind, state from migration_window order by id")]


def during(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, happening: Callable[[], Any]) -> None:
    """Have something happen each time a function of the ledger has done its work."""
    original = getattr(module, name)

    def then(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        happening()
        return result

    monkeypatch.setattr(module, name, then)


def test_a_second_preparation_keeps_the_cut_off_and_the_roster(migration_shop: MigrationShop) -> None:
    first = migration_shop.prepare()
    migration_shop.shop.sandbox.play_hour(changes=50)
    second = migration_shop.prepare()
    assert second.migration == first.migration
    assert second.figures == first.figures
    assert windows(migration_shop) == [("all", "done"), ("moved", "done")]


def test_clocks_apart_are_noticed_before_the_programme_is_in_migration(migration_shop: MigrationShop) -> None:
    migration_shop.shop.sandbox.behave(treazure_clock=3600)
    with pytest.raises(ClocksApartError):
        migration_shop.prepare()
    assert migration_shop.mode() == "live"


def test_an_export_that_is_cut_short_is_asked_for_again_in_halves(migration_shop: MigrationShop) -> None:
    migration_shop.shop.sandbox.set_fault("truncated", on=["export_result"], count=3)
    roster = migration_shop.prepare()
    assert roster.figures["contacts"] == 200
    assert windows(migration_shop).count(("all", "split")) == 3
    assert windows(migration_shop).count(("all", "done")) == 4
    migration_shop.shards()
    migration_shop.deliver()
    migration_shop.import_files()
    assert migration_shop.audit().equal == 200
    assert_in_step(migration_shop.shop)


def test_an_export_that_never_works_ends_the_run_and_the_next_one_goes_on(migration_shop: MigrationShop) -> None:
    migration_shop.shop.sandbox.set_fault("truncated", on=["export_result"], count=None)
    with pytest.raises(InvalidAnswerError):
        migration_shop.prepare()
    assert migration_shop.mode() == "migrating"
    assert migration_shop.migration().state == "roster"
    with pytest.raises(MigrationError, match="roster is not complete"):
        migration_shop.fetch(0)
    migration_shop.shop.sandbox.clear_faults()
    assert migration_shop.prepare().figures["contacts"] == 200


def test_without_a_connection_no_migration_begins_and_no_window_is_split(migration_shop: MigrationShop) -> None:
    with pytest.raises(TransientError, match="no connection"):
        migration_shop.prepare(TREAZURE_BASE_URL="http://127.0.0.1:9")
    assert migration_shop.mode() == "live"
    migration_shop.shop.sandbox.set_fault("server_error", on=["export_request"], after=1, count=None)
    with pytest.raises(TransientError, match="503"):
        migration_shop.prepare()
    migration_shop.shop.sandbox.clear_faults()
    begun = windows(migration_shop)
    with pytest.raises(TransientError, match="no connection"):
        migration_shop.prepare(TREAZURE_BASE_URL="http://127.0.0.1:9")
    assert windows(migration_shop) == begun
    assert migration_shop.prepare().figures["contacts"] == 200


def test_an_export_of_rubbish_makes_no_roster_and_the_next_run_goes_on(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(members=60)
    migration_shop.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'] * 20)
    with pytest.raises(UntrustedExportError, match="20 of the export's 80 rows"):
        migration_shop.prepare()
    assert migration_shop.shop.sql("select count(*) from migration_contact") == [(0,)]
    assert migration_shop.prepare().figures["contacts"] == 60


def test_a_row_that_cannot_be_read_is_listed_and_the_others_are_migrated(migration_shop: MigrationShop) -> None:
    migration_shop.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'])
    assert migration_shop.prepare().figures["rejected"] == 1
    assert migration_shop.shop.sql("select kind, field from migration_finding") == [("unreadable_row", "accountNumber")]
    migration_shop.shards()


def test_movements_after_the_cut_off_are_left_to_the_sync_whenever_they_happen(
    migration_shop: MigrationShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = migration_shop.shop.sandbox
    contacts = sandbox.contact_ids(limit=8)
    before = {row["contactId"]: Decimal(row["treazure"] or 0) for row in sandbox.balances()}
    happenings: Iterator[Callable[[], None]] = iter(
        [
            lambda: sandbox.add_points(dict.fromkeys(contacts[:2], "10.5")),  # before the export is asked for
            lambda: sandbox.add_points(dict.fromkeys(contacts[1:4], 7)),
            lambda: sandbox.add_points({"00000000-0000-0000-0000-0000000000aa": 33}),  # joined meanwhile
        ]
    )

    def happen() -> None:
        next(happenings, lambda: None)()

    during(monkeypatch, backfill, "begin", happen)
    during(monkeypatch, roster_store, "add_to_roster", happen)
    roster = migration_shop.prepare()
    assert roster.figures["moved"] >= 4
    sandbox.add_points(dict.fromkeys(contacts[3:6], -1))
    migration_shop.shards()
    sandbox.add_points(dict.fromkeys(contacts[5:7], 2))
    at_the_cut_off = dict(
        migration_shop.shop.sql("select contact::text, balance from migration_contact where balance <> 0")
    )
    assert at_the_cut_off == {contact: balance for contact, balance in before.items() if balance}
    migration_shop.deliver()
    migration_shop.import_files()
    found = migration_shop.audit()
    assert (found.differing, found.in_engage) == (0, sum(before.values()))
    assert migration_shop.shop.sync().pushed.sent == 8
    assert_in_step(migration_shop.shop)


def test_balances_alone_are_those_at_the_cut_off_too(
    new_migration_shop: Callable[..., MigrationShop], monkeypatch: pytest.MonkeyPatch
) -> None:
    migration_shop = new_migration_shop(environ={"MIGRATION_MODE": "balance"})
    contacts = migration_shop.shop.sandbox.contact_ids(limit=5)
    before = {row["contactId"]: Decimal(row["treazure"] or 0) for row in migration_shop.shop.sandbox.balances()}
    during(monkeypatch, backfill, "begin", lambda: migration_shop.shop.sandbox.add_points(dict.fromkeys(contacts, 4)))
    migration_shop.prepare()
    migration_shop.shards()
    assert migration_shop.shop.sandbox.report()["requests"]["history"] == 5
    migration_shop.deliver()
    migration_shop.import_files()
    assert migration_shop.audit().in_engage == sum(before.values())
    assert migration_shop.shop.sync().pushed.sent == 5
    assert_in_step(migration_shop.shop)


def test_settings_that_changed_after_the_beginning_are_refused_by_name(migration_shop: MigrationShop) -> None:
    migration_shop.prepare()
    with pytest.raises(MigrationError, match="began with mode log, key type ContactId, 3 shards and 2 decimals"):
        migration_shop.prepare(MIGRATION_MODE="balance")
