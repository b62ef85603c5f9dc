from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from treazure_pipeline.errors import BusyError
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, assert_well_behaved

TWO = """
- {name: gold, loyalty_id: GOLD, definition_id: 1}
- {name: silver, loyalty_id: SILVER, definition_id: 2}
"""


@pytest.fixture
def two_programmes(new_shop: Callable[..., Shop], tmp_path: Path) -> Shop:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(TWO)
    return new_shop(
        members=300,
        programmes={"GOLD": 1, "SILVER": 2},
        environ={"TREAZURE_PIPELINE_PROGRAMMES": str(listed), "ENGAGE_MAX_REQUESTS_PER_SECOND": "8"},
    )


def test_a_second_sync_of_a_programme_is_busy_and_changes_nothing(shop: Shop) -> None:
    with shop.connect() as first:
        account = account_of(first)
        first.ledger.hold(account)
        before = shop.dump()
        with pytest.raises(BusyError, match="points"):
            shop.sync()
        assert first.ledger.is_running(account)
        assert shop.dump() == before
    shop.sync()
    assert_in_step(shop)


def test_a_run_may_take_its_own_lock_again(shop: Shop) -> None:
    with shop.connect() as connections:
        account = account_of(connections)
        connections.ledger.hold(account)
        connections.ledger.hold(account)
        connections.ledger.release(account)
        assert not connections.ledger.is_running(account)


def test_of_many_syncs_started_at_once_one_runs_at_a_time(shop: Shop) -> None:
    def attempt(_: int) -> bool:
        try:
            shop.sync()
        except BusyError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(attempt, range(4)))
    assert any(outcomes)
    assert_in_step(shop)


def test_the_lock_of_a_killed_process_is_free_at_once(shop: Shop) -> None:
    script = (
        "import os, signal\n"
        "from treazure_pipeline.connections import Connections\n"
        "from treazure_pipeline.settings import load_settings\n"
        "from treazure_pipeline_tests.balance_sync.shop import account_of\n"
        "connections = Connections(load_settings())\n"
        "connections.ledger.hold(account_of(connections))\n"
        "print('held', flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **shop.variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(BusyError):
            shop.sync()
        holder.kill()
    shop.sync()
    assert_in_step(shop)


def test_two_programmes_sync_at_once_within_one_shared_rate(two_programmes: Shop) -> None:
    shop = two_programmes
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda number: shop.sync(programme=number, ENGAGE_BATCH_SIZE="20"), (0, 1)))
    assert [run.pushed.sent for run in runs] == [300, 300]
    assert shop.sandbox.report()["largest_in_one_second"] <= 8
    assert_in_step(shop, "GOLD")
    assert_in_step(shop, "SILVER")


def test_a_change_in_one_programme_leaves_the_other_alone(two_programmes: Shop) -> None:
    shop = two_programmes
    for number in (0, 1):
        shop.sync(programme=number)
    contact = shop.sandbox.contact_ids(1)[0]
    silver = shop.sandbox.balances([contact], loyalty_id="SILVER")[0]["engage"]
    shop.sandbox.add_points({contact: 5}, "GOLD")
    assert shop.sync(programme=1).pushed.sent == 0
    assert shop.sync(programme=0).pushed.sent == 1
    assert shop.sandbox.balances([contact], loyalty_id="SILVER")[0]["engage"] == silver
    assert_in_step(shop, "GOLD")
    assert_in_step(shop, "SILVER")


def test_one_programme_is_not_kept_waiting_by_the_lock_of_another(two_programmes: Shop) -> None:
    with two_programmes.connect() as holder:
        holder.ledger.hold(account_of(holder, 0))
        assert two_programmes.sync(programme=1).pushed.sent == 300
    assert_well_behaved(two_programmes)
