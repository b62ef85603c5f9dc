"""Logs fetched from Treazure over HTTP, imported by Engage: both agree, now and when time has passed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.point_migration.files import FilesReport
from treazure_pipeline.sandbox import Sandbox, running_sandbox
from treazure_pipeline_tests.point_migration.small_treazure import found, migrate
from treazure_pipeline_tests.sandbox.caller import Caller

DAY = 86_400
LIFE = 250 * DAY


@pytest.fixture(scope="module")
def _running() -> Iterator[Sandbox]:
    with running_sandbox(members=0) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_running: Sandbox) -> Sandbox:
    """Sixty members with half a year of shop life behind them, whose points expire."""
    _running.reset(members=60, behavior={"apply_delay": 0, "points_expire_after": LIFE})
    for _ in range(6):
        _running.play_hour(share=0.4)
        _running.move_clock(30 * DAY)
    return _running


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    caller = Caller(sandbox.base_url)
    yield caller
    caller.http.close()


def migrated(sandbox: Sandbox, caller: Caller, folder: Path, **options: Any) -> FilesReport:
    balances = {row["contactId"]: Decimal(row["treazure"]) for row in sandbox.balances(limit=1000) if row["treazure"]}
    logs = {contact: msgspec.convert(caller.history(contact), list[Movement]) for contact in balances}
    cut_off = datetime.fromisoformat(sandbox.state()["treazure_now"])
    report = migrate(folder, logs, balances, cut_off=cut_off, rows_per_file=100, **options)
    for file in report.files:
        answer = sandbox.import_points(folder / file.name)
        assert (answer["imported"], answer["refused"], answer["expired_rows"]) == (file.rows, 0, 0)
        assert Decimal(answer["amount"]) == file.amount
    return report


def test_balances_are_equal_after_the_import_and_stay_so_as_points_expire(
    sandbox: Sandbox, caller: Caller, tmp_path: Path
) -> None:
    report = migrated(sandbox, caller, tmp_path)
    assert report.findings.is_empty()
    totals = []
    for _ in range(6):
        differences = sandbox.differences()
        assert differences["equal"], differences["examples"]
        totals.append(Decimal(differences["engage_total"]))
        sandbox.move_clock(50 * DAY)
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1] >= 0


def test_points_used_after_the_migration_are_not_taken_again_when_they_would_have_expired(
    sandbox: Sandbox, caller: Caller, tmp_path: Path
) -> None:
    migrated(sandbox, caller, tmp_path)
    sandbox.behave(points_expire_after=0, time_stamps="not_looked_at")
    sandbox.play_hour(share=0.8)
    assert not sandbox.differences()["equal"]
    caller.push_everything()
    for _ in range(6):
        assert sandbox.differences()["equal"]
        sandbox.move_clock(50 * DAY)


@pytest.mark.parametrize("key_type", ["MemberNumber", "ExternalId"])
def test_contacts_are_found_by_the_retailers_keys(
    sandbox: Sandbox, caller: Caller, tmp_path: Path, key_type: str
) -> None:
    migrated(sandbox, caller, tmp_path, keys=sandbox.keys(key_type), key_type=key_type)
    assert sandbox.differences()["equal"]
    assert sandbox.state()["contacts"] == 60


def test_finer_points_than_engage_keeps_end_in_the_same_rounded_balances(
    sandbox: Sandbox, caller: Caller, tmp_path: Path
) -> None:
    sandbox.behave(digits=0)
    contacts = sandbox.contact_ids()
    for amount in ("0.4", "0.333333", "1.5", "0.000001"):
        sandbox.add_points(dict.fromkeys(contacts, amount))
        sandbox.move_clock(DAY)
    report = migrated(sandbox, caller, tmp_path, decimals=0)
    assert report.figures.rounding != 0
    for _ in range(6):
        assert sandbox.differences()["equal"]
        sandbox.move_clock(50 * DAY)


def test_truncated_logs_end_in_equal_balances_with_every_contact_listed(
    sandbox: Sandbox, caller: Caller, tmp_path: Path
) -> None:
    sandbox.behave(history_missing_first=1)
    report = migrated(sandbox, caller, tmp_path)
    assert sandbox.differences()["equal"]
    assert 0 < len(found(report, "beginning_missing")) <= 60


def test_importing_the_same_file_twice_shows_as_doubled_points(
    sandbox: Sandbox, caller: Caller, tmp_path: Path
) -> None:
    report = migrated(sandbox, caller, tmp_path)
    once = Decimal(sandbox.differences()["engage_total"])
    sandbox.import_points(tmp_path / report.files[0].name)
    assert not sandbox.differences()["equal"]
    assert Decimal(sandbox.differences()["engage_total"]) == once + report.files[0].amount


def test_one_row_too_many_is_what_engage_refuses(sandbox: Sandbox, tmp_path: Path) -> None:
    one = sandbox.contact_ids()[0]
    sandbox.set_points({one: 1})
    (file,) = migrate(tmp_path, {one: []}, {one: Decimal(1)}, mode="balance").files
    header, row, _ = (tmp_path / file.name).read_bytes().split(b"\n")
    with pytest.raises(httpx.HTTPStatusError):
        sandbox.import_points(b"\n".join([header, *[row] * 20_001, b""]))
