from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest

from treazure_pipeline.sandbox import Sandbox, running_sandbox, sandbox_process
from treazure_pipeline_tests.sandbox.caller import Caller, row

pytestmark = pytest.mark.slow


def life(sandbox: Sandbox, seed: int) -> list[object]:
    sandbox.reset(members=300, seed=seed, unknown_share=0.1)
    played = [sandbox.play_hour(share=0.1, joins=2) for _ in range(3)]
    return [played, sandbox.balances()]


def test_the_same_seed_gives_the_same_life_and_another_seed_another(sandbox: Sandbox) -> None:
    first = life(sandbox, 1)
    assert life(sandbox, 1) == first
    assert life(sandbox, 2) != first


def test_an_hour_of_shop_life_changes_just_the_members_asked_for(sandbox: Sandbox) -> None:
    before = {side["contactId"]: side["treazure"] for side in sandbox.balances()}
    played = sandbox.play_hour(changes=7, joins=3)
    assert sum(played["LOYALTY"].values()) == 10
    after = {side["contactId"]: side["treazure"] for side in sandbox.balances()}
    assert len(after) == 53
    assert sum(before.get(contact) != points for contact, points in after.items()) == 10
    assert all(not points.startswith("-") for points in after.values())


def test_differences_tell_what_is_not_yet_in_engage(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.reset(members=2500, unknown_share=0.2, behavior={"apply_delay": 0})
    before = sandbox.differences(limit=5)
    assert not before["equal"]
    assert len(before["examples"]) == 5
    assert before["compared"] + before["unknown_to_engage"] == 2500
    assert 300 < before["unknown_to_engage"] < 700
    caller.push_everything()
    after = sandbox.differences()
    assert after["equal"]
    assert after["examples"] == []
    assert after["treazure_total"] == after["engage_total"] != "0"
    assert sandbox.report()["rows"]["refused"] == after["unknown_to_engage"]


def test_engage_can_start_in_step(sandbox: Sandbox) -> None:
    sandbox.reset(members=100, in_step=True, unknown_share=0.1)
    assert sandbox.differences()["equal"]
    assert sandbox.differences()["missing_in_engage"] == 0


def test_new_members_get_an_account_and_are_known_to_engage(sandbox: Sandbox, caller: Caller) -> None:
    guid = "0A000000-0000-0000-0000-000000000001"
    caller.set_balances([row(guid, 1)])
    sandbox.add_points({guid: "1.5"})
    sandbox.add_points({guid: "1.5"})
    assert sandbox.balances([guid]) == [{"contactId": guid.lower(), "treazure": "3", "engage": None, "known": True}]
    caller.set_balances([row(guid, 3)])
    assert sandbox.balances([guid.lower()])[0]["engage"] == "3"


@pytest.mark.parametrize("amount", ["NaN", "many", "1e30"])
def test_points_that_are_no_points_are_refused(sandbox: Sandbox, amount: str) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        sandbox.set_points({sandbox.contact_ids(1)[0]: amount})
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        sandbox.set_points({"no-guid": 1})


def test_scripts_that_spell_behavior_as_the_first_versions_did_go_on_working(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.reset(members=1, behaviour={"latency": 0.001})
    assert caller.http.get("/sandbox/behaviour").json()["latency"] == 0.001
    assert caller.http.patch("/sandbox/behaviour", json={"latency": 0}).json()["latency"] == 0
    assert caller.http.get("/sandbox/behavior").json()["latency"] == 0


def test_everything_is_documented(caller: Caller) -> None:
    paths = caller.http.get("/openapi.json").json()["paths"]
    for path in (
        "/identity/connect/token",
        "/api/v1.0/LoyaltyVault/Balances/Get",
        "/api/v2/point-accounts/balances",
        "/api/v3/point-accounts/balances",
        "/sandbox/faults",
        "/sandbox/report",
    ):
        assert path in paths
    described = [operation.get("description") for path in paths.values() for operation in path.values()]
    assert all(described)
    assert caller.http.get("/docs").status_code == 200


def test_two_hundred_thousand_members_in_a_separate_process_sync_fully() -> None:
    switches = ("--set", "apply_delay=0", "--set", "max_requests_per_second=0")
    with sandbox_process("--members", "200000", *switches) as sandbox:
        caller = Caller(sandbox.base_url)
        caller.push_everything()
        assert sandbox.differences()["equal"]
        sandbox.play_hour(changes=5000)
        assert sandbox.differences()["differing"] == 5000
        assert sandbox.report()["problems"] == []
        caller.http.close()


def test_the_command_line_sets_programmes_faults_and_switches() -> None:
    arguments = (
        *("--programme", "A=3", "--programme", "B=4", "--members", "10", "--seed", "5"),
        *(
            "--fault",
            "slow:seconds=0.5,on=engage+token,count=always",
            "--set",
            "digits=1",
            "--set",
            "poison=a+b",
        ),
    )
    with sandbox_process(*arguments) as sandbox:
        state = sandbox.state()
        assert [entry["definitionId"] for entry in state["programmes"]] == [3, 4]
        assert (state["members"], state["seed"]) == (10, 5)
        (fault,) = sandbox.faults()["active"]
        assert (fault["name"], fault["seconds"], fault["on"]) == ("slow", 0.5, ["engage", "token"])
        assert "count" not in fault
        switches = sandbox.behave()
        assert (switches["digits"], switches["poison"]) == (1, ["a", "b"])


@pytest.mark.parametrize("wrong", [("--fault", "meteorite"), ("--set", "gravity=2"), ("--programme", "A")])
def test_a_wrong_command_line_is_a_usage_error(wrong: tuple[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "treazure_pipeline.sandbox", "--port", "0", *wrong],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_one_clear_message(sandbox: Sandbox) -> None:
    port = sandbox.base_url.rpartition(":")[2]
    ended = subprocess.run(
        [sys.executable, "-m", "treazure_pipeline.sandbox", "--port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 5
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_sandboxes_run_at_the_same_time() -> None:
    with running_sandbox(members=3) as one, running_sandbox(members=4) as other:
        assert one.base_url != other.base_url
        assert [one.state()["members"], other.state()["members"]] == [3, 4]
        json.dumps([one.report(), other.report()])
