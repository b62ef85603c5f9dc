from __future__ import annotations

from treazure_pipeline_tests.migration.move import Move
from treazure_pipeline_tests.sync.shop import assert_in_step


def test_a_programme_moves_into_engage_and_the_first_sync_sends_nothing(move: Move) -> None:
    found = move.by_api()
    assert found.contacts == found.equal == 200
    assert found.balance == found.imported == found.in_engage
    assert move.mode() == "live"
    assert_in_step(move.shop)
    run = move.shop.sync()
    assert run.pushed.sent == 0
