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
from treazure_pipeline_tests.point_migration.move import Move


def windows(move: Move) -> list[tuple[str, str]]:
    return [tuple(row) for row in move.shop.sql("select kind, state from migration_window order by id")]


def during(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, happening: Callable[[], Any]) -> None:
    """Have something happen each time a function of the ledger has done its work."""
    original = getattr(module, name)

    def then(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        happening()
        return result

    monkeypatch.setattr(module, name, then)


def test_a_second_preparation_keeps_the_cut_off_and_the_roster(move: Move) -> None:
    first = move.prepare()
    move.shop.sandbox.play_hour(changes=50)
    second = move.prepare()
    assert second.migration == first.migration
    assert second.figures == first.figures
    assert windows(move) == [("all", "done"), ("moved", "done")]


def test_clocks_apart_are_noticed_before_the_programme_is_in_migration(move: Move) -> None:
    move.shop.sandbox.behave(treazure_clock=3600)
    with pytest.raises(ClocksApartError):
        move.prepare()
    assert move.mode() == "live"


def test_an_export_that_is_cut_short_is_asked_for_again_in_halves(move: Move) -> None:
    move.shop.sandbox.set_fault("truncated", on=["export_result"], count=3)
    roster = move.prepare()
    assert roster.figures["contacts"] == 200
    assert windows(move).count(("all", "split")) == 3
    assert windows(move).count(("all", "done")) == 4
    move.shards()
    move.deliver()
    move.import_files()
    assert move.audit().equal == 200
    assert_in_step(move.shop)


def test_an_export_that_never_works_ends_the_run_and_the_next_one_goes_on(move: Move) -> None:
    move.shop.sandbox.set_fault("truncated", on=["export_result"], count=None)
    with pytest.raises(InvalidAnswerError):
        move.prepare()
    assert move.mode() == "migrating"
    assert move.migration().state == "roster"
    with pytest.raises(MigrationError, match="roster is not complete"):
        move.fetch(0)
    move.shop.sandbox.clear_faults()
    assert move.prepare().figures["contacts"] == 200


def test_without_a_connection_no_migration_begins_and_no_window_is_split(move: Move) -> None:
    with pytest.raises(TransientError, match="no connection"):
        move.prepare(TREAZURE_BASE_URL="http://127.0.0.1:9")
    assert move.mode() == "live"
    move.shop.sandbox.set_fault("server_error", on=["export_request"], after=1, count=None)
    with pytest.raises(TransientError, match="503"):
        move.prepare()
    move.shop.sandbox.clear_faults()
    begun = windows(move)
    with pytest.raises(TransientError, match="no connection"):
        move.prepare(TREAZURE_BASE_URL="http://127.0.0.1:9")
    assert windows(move) == begun
    assert move.prepare().figures["contacts"] == 200


def test_an_export_of_rubbish_makes_no_roster_and_the_next_run_goes_on(new_move: Callable[..., Move]) -> None:
    move = new_move(members=60)
    move.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'] * 20)
    with pytest.raises(UntrustedExportError, match="20 of the export's 80 rows"):
        move.prepare()
    assert move.shop.sql("select count(*) from migration_contact") == [(0,)]
    assert move.prepare().figures["contacts"] == 60


def test_a_row_that_cannot_be_read_is_listed_and_the_others_are_migrated(move: Move) -> None:
    move.shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'])
    assert move.prepare().figures["rejected"] == 1
    assert move.shop.sql("select kind, field from migration_finding") == [("unreadable_row", "accountNumber")]
    move.shards()


def test_movements_after_the_cut_off_are_left_to_the_sync_whenever_they_happen(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = move.shop.sandbox
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
    roster = move.prepare()
    assert roster.figures["moved"] >= 4
    sandbox.add_points(dict.fromkeys(contacts[3:6], -1))
    move.shards()
    sandbox.add_points(dict.fromkeys(contacts[5:7], 2))
    at_the_cut_off = dict(move.shop.sql("select contact::text, balance from migration_contact where balance <> 0"))
    assert at_the_cut_off == {contact: balance for contact, balance in before.items() if balance}
    move.deliver()
    move.import_files()
    found = move.audit()
    assert (found.differing, found.in_engage) == (0, sum(before.values()))
    assert move.shop.sync().pushed.sent == 8
    assert_in_step(move.shop)


def test_balances_alone_are_those_at_the_cut_off_too(
    new_move: Callable[..., Move], monkeypatch: pytest.MonkeyPatch
) -> None:
    move = new_move(environ={"MIGRATION_MODE": "balance"})
    contacts = move.shop.sandbox.contact_ids(limit=5)
    before = {row["contactId"]: Decimal(row["treazure"] or 0) for row in move.shop.sandbox.balances()}
    during(monkeypatch, backfill, "begin", lambda: move.shop.sandbox.add_points(dict.fromkeys(contacts, 4)))
    move.prepare()
    move.shards()
    assert move.shop.sandbox.report()["requests"]["history"] == 5
    move.deliver()
    move.import_files()
    assert move.audit().in_engage == sum(before.values())
    assert move.shop.sync().pushed.sent == 5
    assert_in_step(move.shop)


def test_settings_that_changed_after_the_beginning_are_refused_by_name(move: Move) -> None:
    move.prepare()
    with pytest.raises(MigrationError, match="began with mode log, key type ContactId, 3 shards and 2 decimals"):
        move.prepare(MIGRATION_MODE="balance")
