from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from treazure_pipeline_tests.balance_sync.shop import Shop
from treazure_pipeline_tests.points_history.conftest import assert_is_treazures, read_logs
from treazure_pipeline_tests.points_history.dying_refresh import POINTS, killed
from treazure_pipeline_tests.points_history.test_export import exported, read_back

READING = [point for point in POINTS if point not in {"in_the_middle_of_a_file", "between_two_files"}]


@pytest.mark.parametrize("point", READING)
def test_after_a_kill_no_contact_is_lost_and_no_log_is_half(new_shop: Callable[..., Shop], point: str) -> None:
    shop = new_shop(members=30)
    shop.sync()
    read_logs(shop)
    shop.sandbox.play_hour(changes=12)
    # Not only new movements: the rows that are there are wrong, and have to be replaced.
    shop.sql("update points_history set amount = amount + 1")
    shop.sync()
    killed(shop.variables, point, 1 if "noted" in point else 5)
    whole = shop.sql("select bool_and(rows = (select count(*) from points_history h where h.contact = r.contact)) "
                     "from points_history_read r")  # fmt: skip
    assert whole == [(True,)]
    done = read_logs(shop)
    assert (done.everybody, done.failed, done.left) == (False, 0, 0)
    read_logs(shop, everybody=True)
    assert_is_treazures(shop)
    assert shop.sql("select sum(rows) from points_history_month") == shop.sql("select count(*) from points_history")


def test_a_kill_in_the_first_run_of_all_loses_nobody(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=30)
    shop.sync()
    killed(shop.variables, "after_a_log_was_stored", 10)
    done = read_logs(shop)
    assert done.due < 30
    assert done.left == 0
    assert_is_treazures(shop)


@pytest.mark.parametrize("point", ["in_the_middle_of_a_file", "between_two_files"])
def test_a_kill_in_an_export_leaves_only_whole_files_and_the_next_one_finishes(
    new_shop: Callable[..., Shop], tmp_path: Path, point: str
) -> None:
    shop = new_shop(members=30)
    shop.sandbox.play_hour(changes=12)
    shop.sync(full=True)
    killed(shop.variables, point, 1, str(tmp_path))
    whole = read_back(tmp_path).num_rows
    assert whole < shop.sql("select count(*) from points_history")[0][0]
    exported(shop, tmp_path)
    assert read_back(tmp_path).num_rows == shop.sql("select count(*) from points_history")[0][0]
    assert [file.name for file in tmp_path.rglob("*") if file.is_file() and file.name != "points.parquet"] == []
