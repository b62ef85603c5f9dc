"""Guards, plans and approvals, as a retailer's operator meets them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from treazure_pipeline.balance_sync import definitions, guards, plans, readings
from treazure_pipeline.balance_sync import push as sending
from treazure_pipeline.balance_sync.guards import Judgment, tripped
from treazure_pipeline.balance_sync.plans import Plan, Shift
from treazure_pipeline.cli import commands
from treazure_pipeline.connections import Run
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import batches
from treazure_pipeline.settings import Guards
from treazure_pipeline_tests import materializations
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, run_of
from treazure_pipeline_tests.balance_sync.test_kills import QUICK_LEASES, killed_run
from treazure_pipeline_tests.orchestration.test_job import Execute, failure

MEMBERS = 1500
DIFF, PUSH = "balance_diff", "engage_balance_push"


@pytest.fixture
def loaded(new_shop: Callable[..., Shop]) -> Shop:
    """A shop large enough for guards on shares, in step."""
    shop = new_shop(members=MEMBERS, environ={"ENGAGE_BATCH_SIZE": "200"})
    shop.sync()
    shop.sandbox.forget()
    return shop


def to_zero(shop: Shop, begin: int, end: int) -> list[str]:
    contacts: list[str] = [
        row["contactId"] for row in shop.sandbox.balances(limit=MEMBERS) if Decimal(row["treazure"]) > 0
    ][begin:end]
    shop.sandbox.set_points(dict.fromkeys(contacts, 0))
    return contacts


def requests(shop: Shop) -> int:
    return int(shop.sandbox.report()["requests"].get("set_balances", 0))


def check(result: dg.ExecuteInProcessResult, name: str = "guards_hold") -> dg.AssetCheckEvaluation:
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == name]
    return found


def approve(shop: Shop, digest: str, **lifetime: float) -> Plan:
    with shop.connect() as connections:
        return plans.approve(
            connections.ledger, None, digest, by="Kim", lifetime=timedelta(**(lifetime or {"hours": 24}))
        )


def states(shop: Shop) -> list[str]:
    return [state for (state,) in shop.sql("select state from plan order by id")]


def digest_of(shop: Shop) -> str:
    ((digest,),) = shop.sql("select digest from plan where state = 'open'")
    return str(digest)


def test_a_mass_set_to_zero_is_stopped_however_often_the_schedule_fires(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    digests = set()
    for _ in range(3):
        result = execute(loaded)
        assert not result.success
        found = check(result)
        assert not found.passed
        assert found.blocking
        shown = materializations.figures(found)
        assert "set to zero" in shown["reasons"]
        assert shown["zeroed"] == 100
        assert float(shown["zeroed_share"]) == round(100 / MEMBERS, 4)
        assert "| 0" in shown["largest_changes"]
        assert not result.asset_materializations_for_node(PUSH)
        assert materializations.of(result, DIFF)["held_by_guards"] == 100
        sentence = (
            f"{100 / MEMBERS:.1%} of {MEMBERS:,} known contacts would be set to zero, the limit is 2.0% "
            f"(GUARD_MAX_ZEROED_SHARE); plan {shown['digest']} waits"
        )
        assert found.description == sentence
        failed = failure(result)
        assert failed.user_failure_data.description.startswith(sentence)
        assert failed.user_failure_data.metadata["error"].value == "GuardTrippedError"
        assert failed.error.cause is None, "no stack trace but the one line that raises it"
        digests.add(shown["digest"])
    assert len(digests) == 1
    assert states(loaded) == ["open"]
    assert execute.last_checks(loaded)["coverage_has_no_hole"] == "SUCCEEDED", "evaluated although the run failed"
    assert requests(loaded) == 0
    assert len(loaded.pending()) == 100


def test_what_is_held_back_is_red_until_it_is_approved(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    assert not execute(loaded).success
    assert not execute.check(loaded, PUSH, "nothing_is_held_back")
    approve(loaded, digest_of(loaded))
    assert execute.check(loaded, PUSH, "nothing_is_held_back")


def test_what_is_pending_is_judged_once_a_run(execute: Execute, loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Run] = []

    def judge(run: Run) -> Judgment:
        judged.append(run)
        return guards.judge(run)

    monkeypatch.setattr(definitions, "judge", judge)
    to_zero(loaded, 0, 5)
    assert execute(loaded).success
    assert len(judged) == 1


def test_an_approved_plan_passes_once(execute: Execute, loaded: Shop) -> None:
    contacts = to_zero(loaded, 0, 100)
    execute(loaded)
    plan = approve(loaded, digest_of(loaded)[:8])
    assert (plan.state, plan.approved_by) == ("approved", "Kim")
    result = execute(loaded)
    assert result.success
    assert check(result).passed
    assert materializations.of(result, PUSH)["sent"] == 100
    assert states(loaded) == ["used"]
    assert_in_step(loaded)
    loaded.sandbox.set_points(dict.fromkeys(contacts, 50))
    assert execute(loaded).success
    loaded.sandbox.set_points(dict.fromkeys(contacts, 0))
    again = execute(loaded)
    assert not again.success
    assert not check(again).passed


def test_approving_from_the_launchpad_is_kept_with_the_name(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)

    def launch(digest: str) -> dg.ExecuteInProcessResult:
        return (
            dg.Definitions.merge(_definitions(loaded))
            .resolve_job_def("approve_plan")
            .execute_in_process(
                instance=execute.instance,
                raise_on_error=False,
                run_config={"ops": {"approve": {"config": {"digest": digest, "approved_by": "Sam"}}}},
            )
        )

    assert not launch("0123456789abcdef").success
    assert launch(digest_of(loaded)).success
    assert loaded.sql("select state, approved_by, approved_at is not null from plan") == [("approved", "Sam", True)]
    assert execute(loaded).success
    assert_in_step(loaded)


def _definitions(shop: Shop) -> dg.Definitions:
    from treazure_pipeline.definitions import build_definitions  # noqa: PLC0415

    return build_definitions(shop.settings())


def test_what_moved_after_the_approval_is_judged_again(execute: Execute, loaded: Shop) -> None:
    approved = to_zero(loaded, 0, 100)
    execute(loaded)
    approve(loaded, digest_of(loaded))
    moved, others = approved[:3], to_zero(loaded, 0, 60)
    loaded.sandbox.set_points(dict.fromkeys(moved, 7))
    assert not set(others) & set(approved)
    result = execute(loaded)
    assert result.success
    shown = materializations.of(result, PUSH)
    assert (shown["sent"], shown["held"], shown["pending"]) == (97, 63, 0)
    assert shown["held_by_guards"] == 63
    assert not check(result, "nothing_is_held_back").passed
    assert check(result, "pending_adds_up").passed
    assert sorted(loaded.pending()) == sorted([*others, *moved])
    assert states(loaded) == ["used", "open"]
    approve(loaded, digest_of(loaded))
    assert execute(loaded).success
    assert loaded.pending() == {}
    assert_in_step(loaded)


def test_a_plan_approved_while_a_push_is_under_way_is_kept_for_the_next_one(
    execute: Execute, loaded: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)
    approve(loaded, digest_of(loaded))
    others = to_zero(loaded, 0, 60)
    fold = batches.fold

    def fold_and_approve(*arguments: Any, **keywords: Any) -> int:
        if states(loaded) == ["approved", "open"] and requests(loaded):
            approve(loaded, digest_of(loaded))
        return fold(*arguments, **keywords)

    monkeypatch.setattr(batches, "fold", fold_and_approve)
    assert materializations.of(execute(loaded), PUSH)["held"] == len(others)
    assert states(loaded) == ["used", "approved"]
    assert materializations.of(execute(loaded), PUSH)["sent"] == len(others)
    assert states(loaded) == ["used", "used"]
    assert_in_step(loaded)


def test_few_changes_after_an_approval_go_along(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)
    approve(loaded, digest_of(loaded))
    loaded.sandbox.play_hour(changes=20)
    result = execute(loaded)
    assert result.success
    assert materializations.of(result, PUSH)["held"] == 0
    assert_in_step(loaded)


def test_an_approval_ends_with_its_time(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)
    approve(loaded, digest_of(loaded), seconds=0.001)
    assert not execute(loaded).success
    assert states(loaded) == ["expired", "open"]
    assert requests(loaded) == 0


def test_a_plan_that_nothing_holds_back_any_more_is_given_up(execute: Execute, loaded: Shop) -> None:
    contacts = to_zero(loaded, 0, 100)
    execute(loaded)
    digest = digest_of(loaded)
    loaded.sandbox.set_points(dict.fromkeys(contacts[10:], 25))
    assert execute(loaded).success
    assert states(loaded) == ["replaced"]
    with pytest.raises(SettingsError, match="No plan"):
        approve(loaded, digest)
    assert_in_step(loaded)


def test_the_push_alone_is_guarded_too(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)
    result = execute(loaded, only=PUSH)
    assert not result.success
    assert failure(result).user_failure_data.metadata["error"].value == "GuardTrippedError"
    assert requests(loaded) == 0


def test_each_guard_has_its_setting(execute: Execute, loaded: Shop) -> None:
    contacts = to_zero(loaded, 0, 100)
    assert not execute(loaded).success
    assert execute(loaded, GUARD_MAX_ZEROED_SHARE="1").success
    loaded.sandbox.add_points(dict.fromkeys(contacts, 1))
    assert not execute(loaded, GUARD_MAX_CHANGED_SHARE="0.05").success
    assert execute(loaded).success
    loaded.sandbox.add_points({contacts[0]: 2_000})
    assert not execute(loaded, GUARD_MAX_SINGLE_CHANGE="1999").success
    assert not execute(loaded, GUARD_MAX_TOTAL_SHARE="0.0001").success
    assert execute(loaded).success
    assert_in_step(loaded)


def test_the_first_load_passes_whatever_it_holds_and_also_after_it_was_killed(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=MEMBERS, environ=QUICK_LEASES | {"ENGAGE_BATCH_SIZE": "200"})
    killed_run(shop, "between_batches", 3)
    shop.leases_end()
    assert shop.sync().pushed.held == 0
    assert_in_step(shop)
    assert shop.sql("select loaded_at is not null from programme") == [(True,)]


def test_a_small_programme_is_watched_for_its_largest_change_only(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=300)
    shop.sync()
    contacts = to_zero(shop, 0, 250)
    shop.sync()
    shop.sandbox.add_points({contacts[0]: 1_000_001})
    pushed = shop.sync().pushed
    assert (pushed.sent, pushed.held) == (0, 1)
    approve(shop, digest_of(shop))
    assert shop.sync().pushed.sent == 1
    assert_in_step(shop)


def test_a_balance_below_zero_holds_its_row_and_no_other(execute: Execute, loaded: Shop) -> None:
    below, other = loaded.sandbox.contact_ids(2)
    before = loaded.in_engage(below)
    loaded.sandbox.set_points({below: -5, other: 321})
    result = execute(loaded)
    assert result.success
    shown = materializations.of(result, PUSH)
    assert (shown["sent"], shown["held"], shown["held_below_zero"]) == (1, 1, 1)
    assert loaded.in_engage(below, other) == [before[0], "321"]
    assert not check(result, "nothing_is_held_back").passed
    approve(loaded, digest_of(loaded))
    assert materializations.of(execute(loaded), PUSH)["sent"] == 1
    assert loaded.in_engage(below) == ["-5"]
    loaded.sandbox.set_points({below: -6})
    assert materializations.of(execute(loaded), PUSH)["held"] == 1
    loaded.sandbox.set_points({below: 6})
    assert materializations.of(execute(loaded), PUSH)["sent"] == 1
    assert_in_step(loaded)


def test_an_approval_of_a_balance_below_zero_ends_with_its_time(execute: Execute, loaded: Shop) -> None:
    (below,) = loaded.sandbox.contact_ids(1)
    loaded.sandbox.set_points({below: -5})
    execute(loaded)
    approve(loaded, digest_of(loaded), seconds=0.001)
    assert materializations.of(execute(loaded), PUSH)["held"] == 1
    assert requests(loaded) == 0


def test_a_single_adjustment_passes_while_the_mass_is_held(execute: Execute, loaded: Shop) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)
    contact = loaded.sandbox.contact_ids(MEMBERS)[-1]
    loaded.sandbox.set_points({contact: 77})
    with loaded.connect() as connections:
        ledger, account = connections.ledger, account_of(connections)
        assert readings.record_account(ledger, account, contact, Decimal(77), ledger.now(), "adjustment")
        sending.push_contacts(run_of(connections, account, "adjustment"), [contact])
    assert loaded.in_engage(contact) == ["77"]
    assert len(loaded.pending()) == 100


def test_an_approved_push_that_is_killed_goes_on_in_the_next_run(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(members=MEMBERS, environ=QUICK_LEASES)
    shop.sync()
    to_zero(shop, 0, 100)
    shop.sync()
    approve(shop, digest_of(shop))
    killed_run(shop, "between_batches", 3)
    assert states(shop) == ["approved"]
    shop.leases_end()
    shop.sync()
    assert states(shop) == ["used"]
    assert_in_step(shop)


def test_a_guard_that_can_not_be_evaluated_counts_as_tripped() -> None:
    nothing = Shift(
        rows=10, known=2000, changed=1, zeroed=0, new=9, net=Decimal(50), total=Decimal(0), largest=Decimal(5),
        negative=0, approved=0, is_first_load=False,
    )  # fmt: skip
    assert "can't be computed" in tripped(nothing, Guards())[0]
    assert tripped(replace(nothing, is_first_load=True), Guards()) == []
    assert tripped(replace(nothing, total=Decimal(1000)), Guards()) == []


def test_shares_exactly_at_their_limit_pass() -> None:
    at_limit = Shift(
        rows=300, known=1000, changed=200, zeroed=20, new=0, net=Decimal(-200), total=Decimal(1000),
        largest=Decimal(1_000_000), negative=0, approved=0, is_first_load=False,
    )  # fmt: skip
    assert tripped(at_limit, Guards()) == []
    assert len(tripped(replace(at_limit, changed=201, zeroed=21, net=Decimal("-200.01")), Guards())) == 3


@pytest.fixture
def command(loaded: Shop, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for name, value in (loaded.variables | {"TREAZURE_PIPELINE_HOME": str(home)}).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(commands, arguments, catch_exceptions=False)

    return run


def everything(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    tables = shop.sql("select table_name from information_schema.tables where table_schema = 'treazure_pipeline'")
    return {name: sorted(shop.sql(f'select * from "{name}"'), key=repr) for (name,) in tables}  # noqa: S608


def test_plan_shows_what_a_push_would_change_and_writes_nothing(
    command: Callable[..., Any], loaded: Shop, tmp_path: Path
) -> None:
    loaded.sandbox.play_hour(changes=30)
    with loaded.connect() as connections:
        account = account_of(connections)
        run_id = uuid.uuid4().hex
        from treazure_pipeline_tests.balance_sync.shop import fetch, merge  # noqa: PLC0415

        fetch(connections, account, run_id=run_id)
        merge(connections, account, run_id)
    before = everything(loaded)
    result = command("plan", "--json")
    assert result.exit_code == 0
    (shown,) = json.loads(result.stdout.splitlines()[-1])["programmes"]
    pending = loaded.pending()
    assert shown["plan"] is None
    assert shown["rows"] == len(pending)
    assert sum(count for _, count in shown["histogram"]) == len(pending)
    listed = tmp_path / "plan.csv"
    assert command("plan", "--csv", str(listed)).exit_code == 0
    rows = [line.split(",") for line in listed.read_text().splitlines()[1:]]
    assert {row[1]: Decimal(row[3]) for row in rows} == pending
    assert everything(loaded) == before


def test_plan_shows_the_stored_plan_with_its_digest_and_approve_takes_it(
    command: Callable[..., Any], loaded: Shop, execute: Execute
) -> None:
    to_zero(loaded, 0, 100)
    execute(loaded)
    before = everything(loaded)
    shown = command("plan")
    assert digest_of(loaded) in shown.stdout
    assert "100" in shown.stdout
    assert "set to zero" in shown.stdout
    assert everything(loaded) == before
    status = json.loads(command("status", "--json").stdout.splitlines()[-1])["programmes"][0]
    assert status["plan"] == digest_of(loaded)
    missing = command("approve", "fedcba9876543210")
    assert missing.exit_code == 2
    assert states(loaded) == ["open"]
