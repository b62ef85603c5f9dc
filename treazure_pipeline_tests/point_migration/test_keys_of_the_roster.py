from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline.point_migration.target import DeliveryError
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.move import Move


def mapping(folder: Path, keys: dict[str, str]) -> Path:
    file = folder / "keys.csv"
    file.write_text("contact;key\n" + "".join(f"{contact};{key}\n" for contact, key in keys.items()))
    return file


@pytest.fixture
def move(new_move: Callable[..., Move]) -> Move:
    return new_move(members=60, environ={"MIGRATION_KEY_TYPE": "MemberNumber"})


def test_contacts_named_by_their_member_number_end_in_step(move: Move, tmp_path: Path) -> None:
    assert move.prepare(mapping=mapping(tmp_path, move.shop.sandbox.keys("MemberNumber"))).figures["without_key"] == 0
    move.shards()
    move.deliver()
    assert all(answer["contacts_created"] == 0 for answer in move.import_files())
    assert move.audit().equal == 60
    assert_in_step(move.shop)


def test_a_contact_without_a_key_is_in_no_file_is_listed_and_comes_by_the_sync(move: Move, tmp_path: Path) -> None:
    keys = move.shop.sandbox.keys("MemberNumber")
    (rich, *_) = [row["contactId"] for row in move.shop.sandbox.balances() if float(row["treazure"]) > 0]
    del keys[rich]
    keys["00000000-0000-0000-0000-00000000ffff"] = "M-1"
    move.prepare(mapping=mapping(tmp_path, keys))
    move.shards()
    move.deliver()
    move.import_files()
    kinds = dict(move.shop.sql("select kind, count(*) from migration_finding group by 1"))
    assert kinds["key_missing"] == 1
    assert kinds["key_line"] == 1
    found = move.audit()
    assert (found.differing, found.pending) == (0, 1)
    assert list(move.shop.pending()) == [rich]
    assert move.shop.sync().pushed.sent == 1
    assert_in_step(move.shop)


def test_a_key_for_two_contacts_is_given_to_neither(move: Move, tmp_path: Path) -> None:
    keys = move.shop.sandbox.keys("MemberNumber")
    one, other = list(keys)[:2]
    keys[other] = keys[one]
    assert move.prepare(mapping=mapping(tmp_path, keys)).figures["without_key"] == 2
    assert move.shop.sql("select count(*) from migration_finding where kind = 'key_line'") == [(2,)]


def test_a_better_mapping_replaces_the_first_one(move: Move, tmp_path: Path) -> None:
    keys = move.shop.sandbox.keys("MemberNumber")
    assert move.prepare(mapping=mapping(tmp_path, dict(list(keys.items())[:10]))).figures["without_key"] == 50
    move.shards()
    assert move.prepare(mapping=mapping(tmp_path, keys)).figures["without_key"] == 0
    with pytest.raises(MigrationError, match="3 of 3 shards have no files yet"):
        move.deliver()
    move.shards()
    assert move.deliver()["sent"] == 3


def test_what_can_be_checked_is_checked_before_the_programme_is_switched(move: Move, tmp_path: Path) -> None:
    empty = mapping(tmp_path, {})
    with pytest.raises(SettingsError, match="needs a mapping file"):
        move.prepare()
    with pytest.raises(SettingsError, match="no mapping file has any use"):
        move.prepare(mapping=tmp_path, MIGRATION_KEY_TYPE="ContactId")
    for wrong, reason in ((tmp_path / "nowhere.csv", "can't be read"), (tmp_path, "can't be read"), (empty, "no line")):
        with pytest.raises(SettingsError, match=reason):
            move.prepare(mapping=wrong)
        assert move.mode() == "live"
    right = mapping(tmp_path, move.shop.sandbox.keys("MemberNumber"))
    with pytest.raises(DeliveryError):
        move.prepare(mapping=right, MIGRATION_DELIVERY_URL="sftp://nobody@127.0.0.1:1/in")
    assert move.mode() == "live"
