from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.move import Move
from treazure_pipeline_tests.point_migration.victim import CONCURRENCY, PART, killed

MEMBERS = 90


@pytest.fixture
def move(new_move: Callable[..., Move]) -> Move:
    return new_move(members=MEMBERS, environ={"ENGAGE_BATCH_SIZE": "20"})


def histories(move: Move) -> int:
    return int(move.shop.sandbox.report()["requests"].get("history", 0))


def finish(move: Move, by: str = "files") -> None:
    """Do what is left, and see that both systems agree."""
    move.prepare()
    move.shards()
    move.deliver(by=by)
    if by == "files":
        move.import_files()
    move.shop.sandbox.apply_queue()
    assert move.audit().equal == MEMBERS
    assert_in_step(move.shop)


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
    move: Move, place: tuple[str, str, int], mode: str
) -> None:
    assert killed(move.shop.variables, "prepare", place)
    cut_offs = move.shop.sql("select cut_off from migration")
    assert len(cut_offs) == (mode == "migrating")
    assert not cut_offs or move.mode() == mode
    roster = move.prepare()
    assert roster.figures["contacts"] == MEMBERS
    assert (roster.migration.cut_off,) in cut_offs or not cut_offs
    finish(move)


@pytest.mark.parametrize(
    "place",
    [
        ("return", "TreazureClient.history", 5),
        ("call", "add_part", 2),
        ("return", "add_part", 2),
    ],
)
def test_killed_while_it_fetches_no_contact_is_missed_and_only_those_in_flight_are_fetched_again(
    move: Move, place: tuple[str, str, int]
) -> None:
    move.prepare()
    ((contacts,),) = move.shop.sql("select contacts from migration_shard where shard = 0")
    assert killed(move.shop.variables, "fetch", place)
    ((kept,),) = move.shop.sql("select coalesce(sum(contacts), 0)::integer from migration_log")
    before = histories(move)
    fetched = move.fetch(0)
    assert histories(move) - before == contacts - kept == fetched.contacts
    assert before - kept <= PART + 5 * CONCURRENCY
    finish(move)


@pytest.mark.parametrize("place", [("call", "_Files._write", 1), ("return", "_sums", 1)])
def test_killed_while_it_writes_the_next_run_writes_the_same_bytes(move: Move, place: tuple[str, str, int]) -> None:
    move.prepare()
    move.fetch(0)
    assert killed(move.shop.variables, "write", place)
    assert move.shop.sql("select 1 from migration_file") == []
    move.write(0)
    ((digest,),) = move.shop.sql("select sha256 from migration_file where shard = 0")
    move.write(0)
    assert move.shop.sql("select sha256 from migration_file where shard = 0") == [(digest,)]
    finish(move)


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        ("call", "Place.rename", 2),
        ("return", "Place.rename", 1),
    ],
)
def test_killed_while_it_delivers_each_file_arrives_once_even_if_the_importer_takes_it_at_once(
    move: Move, place: tuple[str, str, int], *, taken: bool
) -> None:
    move.prepare()
    move.shards()
    assert killed(move.shop.variables, "files", place)
    if taken:
        move.import_files()
    move.deliver()
    assert move.deliver()["sent"] == 0
    move.import_files()
    assert move.audit().equal == MEMBERS
    assert_in_step(move.shop)


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
    move: Move, place: tuple[str, str, int]
) -> None:
    move.prepare()
    move.shards()
    assert killed(move.shop.variables, "api", place)
    move.deliver(by="api")
    move.shop.sandbox.apply_queue()
    assert move.audit().equal == MEMBERS
    assert_in_step(move.shop)


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
    move: Move, place: tuple[str, str, int]
) -> None:
    move.prepare()
    move.shards()
    move.deliver()
    move.import_files()
    assert killed(move.shop.variables, "audit", place)
    assert move.mode() == "migrating"
    assert move.shop.sql("select 1 from ledger") == []
    ((read,),) = move.shop.sql("select count(read_at) from migration_contact")
    before = move.shop.sandbox.report()["requests"]["read_accounts"]
    assert move.audit().equal == MEMBERS
    assert move.shop.sandbox.report()["requests"]["read_accounts"] - before == MEMBERS - read + 50
    assert move.mode() == "live"
    assert move.shop.sync().pushed.sent == 0
    assert_in_step(move.shop)
