from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline.point_migration.audit import Audited
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.move import Move
from treazure_pipeline_tests.sandbox.caller import Caller


@pytest.mark.parametrize("way", [Move.by_files, Move.by_api])
def test_a_programme_moves_into_engage_and_the_first_sync_sends_nothing(
    move: Move, way: Callable[[Move], Audited]
) -> None:
    move.shop.sandbox.play_hour(changes=60)
    found = way(move)
    assert (found.contacts, found.equal, found.differing, found.pending) == (200, 200, 0, 0)
    assert found.balance == found.imported == found.in_engage
    assert move.mode() == "live"
    run = move.shop.sync()
    assert (run.diff.figures.changed, run.pushed.sent) == (0, 0)
    assert_in_step(move.shop)


def test_members_with_the_most_hostile_texts_move_whole(move: Move) -> None:
    caller = Caller(move.shop.sandbox.base_url)
    texts = ["Member's \"gift\"; thanks", "=HYPERLINK(1)", "+46", "-5;-5", "@SUM(A1)", "\t=1", "two\r\nlines", "\u2028",
             "\x00", "''", ";;;;;;;;;;;", "\ufeff=1", "Köp 東京 مرحبا 👩‍👩‍👧"]  # fmt: skip
    for contact, text in zip(move.shop.sandbox.contact_ids(), texts, strict=False):
        context = {"comment": text, "receiptNr": f'"{text[:9]}'}
        assert caller.transact(contact, loads="7.25", context=context).status_code == 200
    caller.http.close()
    found = move.by_files()
    assert (found.contacts, found.equal, found.differing) == (200, 200, 0)
    assert found.balance == found.imported == found.in_engage
    assert_in_step(move.shop)


def test_balances_alone_move_with_one_row_a_contact(new_move: Callable[..., Move]) -> None:
    move = new_move(environ={"MIGRATION_MODE": "balance"})
    move.prepare()
    assert sum(written.rows for written in move.shards()) <= 200
    move.deliver()
    move.import_files()
    assert move.audit().equal == 200
    assert "history" not in move.shop.sandbox.report()["requests"]
    assert_in_step(move.shop)


def test_balances_with_more_digits_than_engage_keeps_move_rounded_and_nothing_needless_is_sent(
    new_move: Callable[..., Move],
) -> None:
    move = new_move(environ={"PROGRAMME_DECIMALS": "0"}, behaviour={"digits": 0})
    contacts = move.shop.sandbox.contact_ids(limit=3)
    move.shop.sandbox.set_points(dict(zip(contacts, ["10.5", "0.4", "7.25"], strict=True)))
    found = move.by_files()
    assert (found.differing, found.pending) == (0, 0)
    assert move.shop.in_engage(*contacts) == ["11", None, "7"]
    assert move.shop.sql("select sent from ledger where contact = any (%s::uuid[]) order by sent", contacts) == [
        (each,) for each in sorted(move.shop.known_master()[contact] for contact in contacts)
    ]
    assert move.shop.sync().pushed.sent == 0
