from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop
from treazure_pipeline_tests.point_migration.victim import CONCURRENCY, PART, killed

MEMBERS = 90


@pytest.fixture
def migration_shop(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    return new_migration_shop(members=MEMBERS, environ={"ENGAGE_BATCH_SIZE": "20"})


def histories(migration_shop: MigrationShop) -> int:
    return int(migration_shop.shop.sandbox.report()["requests"].get("history", 0))


def finish(migration_shop: MigrationShop, by: str = "files") -> None:
    """Do what is left, and see that both systems agree."""
    migration_shop.prepare()
    migration_shop.shards()
    migration_shop.deliver(by=by)
    if by == "files":
        migration_shop.import_files()
    migration_shop.shop.sandbox.apply_queue()
    assert migration_shop.audit().equal == MEMBERS
    assert_in_step(migration_shop.shop)


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        (("call", "begin", 1), "live"),
        (("return", "begin", 1), "migrating"),
        (("call", "add_to_roster", 1), "migrating"),
        (("return", "add_to_roster", 1), "migrating"),
        (("call", "add_to_roster", 2), "migrating"),
        (("call", "complete_roster", 1), "migrating"),
    ],
)
def test_killed_while_it_prepares_the_next_run_goes_on_with_the_same_cut_off(
    migration_shop: MigrationShop, place: tuple[str, str, int], mode: str
) -> None:
    assert killed(migration_shop.shop.variables, "prepare", place)
    cut_offs = migration_shop.shop.sql("select cut_off from migration")
    assert len(cut_offs) == (mode == "migrating")
    assert not cut_offs or migration_shop.mode() == mode
    roster = migration_shop.prepare()
    assert roster.figures["contacts"] == MEMBERS
    assert (roster.migration.cut_off,) in cut_offs or not cut_offs
    finish(migration_shop)


@pytest.mark.parametrize(
    "place",
    [
        ("return", "TreazureClient.history", 5),
        ("call", "add_part", 2),
        ("return", "add_part", 2),
    ],
)
def test_killed_while_it_fetches_no_contact_is_missed_and_only_those_in_flight_are_fetched_again(
    migration_shop: MigrationShop, place: tuple[str, str, int]
) -> None:
    migration_shop.prepare()
    ((contacts,),) = migration_shop.shop.sql("select contacts from migration_shard where shard = 0")
    assert killed(migration_shop.shop.variables, "fetch", place)
    ((kept,),) = migration_shop.shop.sql("select coalesce(sum(contacts), 0)::integer from migration_log")
    before = histories(migration_shop)
    fetched = migration_shop.fetch(0)
    assert histories(migration_shop) - before == contacts - kept == fetched.contacts
    assert before - kept <= PART + 5 * CONCURRENCY
    finish(migration_shop)


@pytest.mark.parametrize("place", [("call", "_Files._write", 1), ("return", "_sums", 1)])
def test_killed_while_it_writes_the_next_run_writes_the_same_bytes(
    migration_shop: MigrationShop, place: tuple[str, str, int]
) -> None:
    migration_shop.prepare()
    migration_shop.fetch(0)
    assert killed(migration_shop.shop.variables, "write", place)
    assert migration_shop.shop.sql("select 1 from migration_file") == []
    migration_shop.write(0)
    ((digest,),) = migration_shop.shop.sql("select sha256 from migration_file where shard = 0")
    migration_shop.write(0)
    assert migration_shop.shop.sql("select sha256 from migration_file where shard = 0") == [(digest,)]
    finish(migration_shop)


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        ("call", "Place.rename", 2),
        ("return", "Place.rename", 1),
    ],
)
def test_killed_while_it_delivers_each_file_arrives_once_even_if_the_importer_takes_it_at_once(
    migration_shop: MigrationShop, place: tuple[str, str, int], *, taken: bool
) -> None:
    migration_shop.prepare()
    migration_shop.shards()
    assert killed(migration_shop.shop.variables, "files", place)
    if taken:
        migration_shop.import_files()
    migration_shop.deliver()
    assert migration_shop.deliver()["sent"] == 0
    migration_shop.import_files()
    assert migration_shop.audit().equal == MEMBERS
    assert_in_step(migration_shop.shop)


@pytest.mark.parametrize(
    "place",
    [
        ("return", "claim_request", 2),
        ("return", "EngageClient.add_points", 2),
        ("call", "answer_request", 2),
        ("return", "answer_request", 3),
    ],
)
def test_killed_while_it_adds_by_api_no_row_is_added_twice_and_none_is_missed(
    migration_shop: MigrationShop, place: tuple[str, str, int]
) -> None:
    migration_shop.prepare()
    migration_shop.shards()
    assert killed(migration_shop.shop.variables, "api", place)
    migration_shop.deliver(by="api")
    migration_shop.shop.sandbox.apply_queue()
    assert migration_shop.audit().equal == MEMBERS
    assert_in_step(migration_shop.shop)


@pytest.mark.parametrize(
    "place",
    [
        ("return", "EngageClient.point_accounts", 80),
        ("return", "record_read_back", 1),
        ("call", "close", 1),
        ("call", "end", 1),
    ],
)
def test_killed_in_the_audit_the_next_run_goes_on_and_nothing_was_half_closed(
    migration_shop: MigrationShop, place: tuple[str, str, int]
) -> None:
    migration_shop.prepare()
    migration_shop.shards()
    migration_shop.deliver()
    migration_shop.import_files()
    assert killed(migration_shop.shop.variables, "audit", place)
    assert migration_shop.mode() == "migrating"
    assert migration_shop.shop.sql("select 1 from ledger") == []
    ((read,),) = migration_shop.shop.sql("select count(read_at) from migration_contact")
    before = migration_shop.shop.sandbox.report()["requests"]["read_accounts"]
    assert migration_shop.audit().equal == MEMBERS
    assert migration_shop.shop.sandbox.report()["requests"]["read_accounts"] - before == MEMBERS - read + 50
    assert migration_shop.mode() == "live"
    assert migration_shop.shop.sync().pushed.sent == 0
    assert_in_step(migration_shop.shop)
