from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from treazure_pipeline.balance_sync.windows import chosen_window, full_resync_is_due
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import RemoteError, SettingsError
from treazure_pipeline.ledger.coverage import LastFull, Window
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, run_of

SUNDAY = datetime(2026, 11, 22, 2, 37, tzinfo=UTC)
WEEKLY = "37 2 * * 0"
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def chosen(connections: Connections, **config: Any) -> Window:
    return chosen_window(run_of(connections, account_of(connections)), **config)


@pytest.mark.parametrize(
    ("cron", "now", "merged", "tried", "due"),
    [
        (WEEKLY, SUNDAY + MINUTE, SUNDAY - 7 * DAY, None, True),
        (WEEKLY, SUNDAY - MINUTE, SUNDAY - 7 * DAY + MINUTE, None, False),
        (WEEKLY, SUNDAY + 3 * DAY, SUNDAY - DAY, None, True),  # the hour was missed
        (WEEKLY, SUNDAY + 3 * DAY, SUNDAY + MINUTE, None, False),
        (WEEKLY, SUNDAY + 3 * DAY, None, None, True),
        (WEEKLY, SUNDAY + 3 * DAY, SUNDAY - DAY, SUNDAY + 3 * DAY - timedelta(hours=5), False),
        (WEEKLY, SUNDAY + 3 * DAY, SUNDAY - DAY, SUNDAY + 3 * DAY - timedelta(hours=7), True),
        (WEEKLY, SUNDAY + 3 * DAY, SUNDAY - DAY, SUNDAY + 9 * DAY, True),  # by a clock that was ahead
        ("0 3 1 * *", SUNDAY, SUNDAY - 20 * DAY, None, False),
        ("0 3 1 * *", SUNDAY, SUNDAY - 22 * DAY, None, True),
        ("off", SUNDAY + MINUTE, None, None, False),
    ],
)
def test_a_full_resync_is_due_when_none_was_merged_since_the_cron_named_it(
    cron: str, now: datetime, merged: datetime | None, tried: datetime | None, *, due: bool
) -> None:
    assert full_resync_is_due(cron, LastFull(now, merged, tried)) is due


def test_what_treazure_commits_days_late_arrives_with_the_weekly_resync(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.move_clock(-3 * 86400)
    shop.sandbox.play_hour(changes=20)
    shop.sandbox.move_clock(3 * 86400)
    with shop.connect() as connections:
        assert not chosen(connections).is_full
        assert not shop.sandbox.differences()["equal"]
        shop.time_passes(hours=8 * 24)
        assert chosen(connections).is_full
        assert not chosen(connections, window_from="2020-01-01").is_full
    with shop.connect(FULL_RESYNC_CRON="off") as connections:
        assert not chosen(connections).is_full
    shop.sync(full=True)
    assert_in_step(shop)
    with shop.connect() as connections:
        assert not chosen(connections).is_full


def test_a_full_resync_that_fails_lets_the_hourly_windows_go_on_for_six_hours(shop: Shop) -> None:
    shop.sync()
    shop.time_passes(hours=8 * 24)
    shop.sandbox.set_fault("truncated", count=None)
    with pytest.raises(RemoteError):
        shop.sync(full=True)
    shop.sandbox.clear_faults()
    with shop.connect() as connections:
        assert not chosen(connections).is_full
        shop.time_passes(hours=5)
        assert not chosen(connections).is_full
        shop.time_passes(hours=2)
        assert chosen(connections).is_full


@pytest.mark.parametrize("value", ["never", "61 2 * * *", "* * * *", "37 2 * * 0 0"])
def test_a_wrong_cron_is_a_mistake_in_the_settings(shop: Shop, value: str) -> None:
    with pytest.raises(SettingsError, match="FULL_RESYNC_CRON"):
        load_settings(shop.variables | {"FULL_RESYNC_CRON": value})
