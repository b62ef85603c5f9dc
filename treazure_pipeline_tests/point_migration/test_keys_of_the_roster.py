from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline.point_migration.target import DeliveryError
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop


def mapping(folder: Path, keys: dict[str, str]) -> Path:
    file = folder / "keys.csv"
    file.write_text("contact;key\n" + "".join(f"{contact};{key}\n" for contact, key in keys.items()))
    return file


@pytest.fixture
def migration_shop(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    return new_migration_shop(members=60, environ={"MIGRATION_KEY_TYPE": "MemberNumber"})


def test_contacts_named_by_their_member_number_end_in_step(migration_shop: MigrationShop, tmp_path: Path) -> None:
    assert (
        migration_shop.prepare(mapping=mapping(tmp_path, migration_shop.shop.sandbox.keys("MemberNumber"))).figures[
            "without_key"
        ]
        == 0
    )
    migration_shop.shards()
    migration_shop.deliver()
    assert all(answer["contacts_created"] == 0 for answer in migration_shop.import_files())
    assert migration_shop.audit().equal == 60
    assert_in_step(migration_shop.shop)


def test_a_contact_without_a_key_is_in_no_file_is_listed_and_comes_by_the_sync(
    migration_shop: MigrationShop, tmp_path: Path
) -> None:
    keys = migration_shop.shop.sandbox.keys("MemberNumber")
    (rich, *_) = [row["contactId"] for row in migration_shop.shop.sandbox.balances() if float(row["treazure"]) > 0]
    del keys[rich]
    keys["00000000-0000-0000-0000-00000000ffff"] = "M-1"
    migration_shop.prepare(mapping=mapping(tmp_path, keys))
    migration_shop.shards()
    migration_shop.deliver()
    migration_shop.import_files()
    kinds = dict(migration_shop.shop.sql("select kind, count(*) from migration_finding group by 1"))
    assert kinds["key_missing"] == 1
    assert kinds["key_line"] == 1
    found = migration_shop.audit()
    assert (found.differing, found.pending) == (0, 1)
    assert list(migration_shop.shop.pending()) == [rich]
    assert migration_shop.shop.sync().pushed.sent == 1
    assert_in_step(migration_shop.shop)


def test_a_key_for_two_contacts_is_given_to_neither(migration_shop: MigrationShop, tmp_path: Path) -> None:
    keys = migration_shop.shop.sandbox.keys("MemberNumber")
    one, other = list(keys)[:2]
    keys[other] = keys[one]
    assert migration_shop.prepare(mapping=mapping(tmp_path, keys)).figures["without_key"] == 2
    assert migration_shop.shop.sql("select count(*) from migration_finding where kind = 'key_line'") == [(2,)]


def test_a_better_mapping_replaces_the_first_one(migration_shop: MigrationShop, tmp_path: Path) -> None:
    keys = migration_shop.shop.sandbox.keys("MemberNumber")
    assert migration_shop.prepare(mapping=mapping(tmp_path, dict(list(keys.items())[:10]))).figures["without_key"] == 50
    migration_shop.shards()
    assert migration_shop.prepare(mapping=mapping(tmp_path, keys)).figures["without_key"] == 0
    with pytest.raises(MigrationError, match="3 of 3 shards have no files yet"):
        migration_shop.deliver()
    migration_shop.shards()
    assert migration_shop.deliver()["sent"] == 3


def test_what_can_be_checked_is_checked_before_the_programme_is_switched(
    migration_shop: MigrationShop, tmp_path: Path
) -> None:
    empty = mapping(tmp_path, {})
    with pytest.raises(SettingsError, match="needs a mapping file"):
        migration_shop.prepare()
    with pytest.raises(SettingsError, match="a mapping file is not used"):
        migration_shop.prepare(mapping=tmp_path, MIGRATION_KEY_TYPE="ContactId")
    for wrong, reason in ((tmp_path / "nowhere.csv", "can't be read"), (tmp_path, "can't be read"), (empty, "no line")):
        with pytest.raises(SettingsError, match=reason):
            migration_shop.prepare(mapping=wrong)
        assert migration_shop.mode() == "live"
    right = mapping(tmp_path, migration_shop.shop.sandbox.keys("MemberNumber"))
    with pytest.raises(DeliveryError):
        migration_shop.prepare(mapping=right, MIGRATION_DELIVERY_URL="sftp://nobody@127.0.0.1:1/in")
    assert migration_shop.mode() == "live"
