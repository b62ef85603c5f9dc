from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline.point_migration.audit import Audited
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop
from treazure_pipeline_tests.sandbox.caller import Caller


@pytest.mark.parametrize("way", [MigrationShop.by_files, MigrationShop.by_api])
def test_a_programme_moves_into_engage_and_the_first_sync_sends_nothing(
    migration_shop: MigrationShop, way: Callable[[MigrationShop], Audited]
) -> None:
    migration_shop.shop.sandbox.play_hour(changes=60)
    found = way(migration_shop)
    assert (found.contacts, found.equal, found.differing, found.pending) == (200, 200, 0, 0)
    assert found.balance == found.imported == found.in_engage
    assert migration_shop.mode() == "live"
    run = migration_shop.shop.sync()
    assert (run.diff.figures.changed, run.pushed.sent) == (0, 0)
    assert_in_step(migration_shop.shop)


def test_members_with_the_most_hostile_texts_move_whole(migration_shop: MigrationShop) -> None:
    caller = Caller(migration_shop.shop.sandbox.base_url)
    texts = ["Member's \"gift\"; thanks", "=HYPERLINK(1)", "+46", "-5;-5", "@SUM(A1)", "\t=1", "two\r\nlines", "\u2028",
             "\x00", "''", ";;;;;;;;;;;", "\ufeff=1", "Köp 東京 مرحبا 👩‍👩‍👧"]  # fmt: skip
    for contact, text in zip(migration_shop.shop.sandbox.contact_ids(), texts, strict=False):
        context = {"comment": text, "receiptNr": f'"{text[:9]}'}
        assert caller.transact(contact, loads="7.25", context=context).status_code == 200
    caller.http.close()
    found = migration_shop.by_files()
    assert (found.contacts, found.equal, found.differing) == (200, 200, 0)
    assert found.balance == found.imported == found.in_engage
    assert_in_step(migration_shop.shop)


def test_balances_alone_move_with_one_row_a_contact(new_migration_shop: Callable[..., MigrationShop]) -> None:
    migration_shop = new_migration_shop(environ={"MIGRATION_MODE": "balance"})
    migration_shop.prepare()
    assert sum(written.rows for written in migration_shop.shards()) <= 200
    migration_shop.deliver()
    migration_shop.import_files()
    assert migration_shop.audit().equal == 200
    assert "history" not in migration_shop.shop.sandbox.report()["requests"]
    assert_in_step(migration_shop.shop)


def test_balances_with_more_digits_than_engage_keeps_move_rounded_and_nothing_needless_is_sent(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(environ={"PROGRAMME_DECIMALS": "0"}, behavior={"digits": 0})
    contacts = migration_shop.shop.sandbox.contact_ids(limit=3)
    migration_shop.shop.sandbox.set_points(dict(zip(contacts, ["10.5", "0.4", "7.25"], strict=True)))
    found = migration_shop.by_files()
    assert (found.differing, found.pending) == (0, 0)
    assert migration_shop.shop.in_engage(*contacts) == ["11", None, "7"]
    assert migration_shop.shop.sql(
        "select sent from ledger where contact = any (%s::uuid[]) order by sent", contacts
    ) == [(each,) for each in sorted(migration_shop.shop.known_master()[contact] for contact in contacts)]
    assert migration_shop.shop.sync().pushed.sent == 0
