from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from treazure_pipeline.adjustments import queue
from treazure_pipeline.cli import commands
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once

Call = Callable[..., tuple[int, dict[str, Any]]]
DATA = Path(__file__).parent / "data"


@pytest.fixture
def environment(adjustment_shop: AdjustmentShop, empty_database_url: str, home: Path) -> dict[str, str]:
    return {
        **adjustment_shop.variables,
        "DAGSTER_POSTGRES_URL": empty_database_url,
        "TREAZURE_PIPELINE_HOME": str(home),
    }


@pytest.fixture
def call(environment: dict[str, str]) -> Call:
    """Run `adjustments …  --json` as the command line does; its exit code and what it printed."""

    def run(*arguments: str, **more: str) -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(commands, ["adjustments", *arguments, "--json"], env={**environment, **more})
        return result.exit_code, json.loads(result.stdout.splitlines()[-1])

    return run


def test_an_adjustment_by_hand_is_shown_first_and_added_with_yes(adjustment_shop: AdjustmentShop, call: Call) -> None:
    contact = adjustment_shop.contacts(1)[0]
    arguments = ("add", "--contact", contact, "--amount", "-0.25", "--description", "Corrected by hand")
    code, shown = call(*arguments)
    assert (code, shown["dry_run"], shown["checked"], shown["added"], shown["points"]) == (0, True, 1, 0, "-0.25")
    assert adjustment_shop.states() == []
    code, added = call(*arguments, "--yes")
    assert (code, added["added"]) == (0, 1)
    adjustment_shop.sandbox.set_points({contact: 10})
    assert adjustment_shop.process().done == 1
    assert adjustment_shop.movements(contact) == ["Corrected by hand"]
    assert adjustment_shop.in_engage(contact) == ["9.75"]


def test_a_reference_is_added_once_however_often_the_command_is_repeated(
    adjustment_shop: AdjustmentShop, call: Call, tmp_path: Path
) -> None:
    contacts = adjustment_shop.contacts(3)
    file = tmp_path / "points.csv"
    file.write_text("contact,amount,description\n" + "".join(f"{contact},0.1,thanks\n" for contact in contacts))
    for added in (3, 0, 0):
        code, said = call("add", "--csv", str(file), "--reference", "summer", "--yes")
        assert (code, said["added"], said["points"]) == (0, added, "0.3")
    code, said = call("add", "--csv", str(file), "--reference", "autumn", "--yes")
    assert (code, said["added"]) == (0, 3)
    assert adjustment_shop.process().done == 6


def test_good_rows_are_added_bad_ones_named_and_once_they_are_fixed_nothing_is_added_twice(
    adjustment_shop: AdjustmentShop, call: Call, tmp_path: Path
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    bad = ["many", "1_000", "\uff11\uff10", "1e3", "NaN", "1 000", "1000,1"]
    lines = [f"{contact},5,1,fine", *(f"{contact},{amount},1,bad" for amount in bad), "nobody,5,1,", f"{contact},5,7,",
             f"{contact},5,²,", contact, f"{contact},2,,fine too"]  # fmt: skip
    file = tmp_path / "points.csv"
    file.write_text("\n".join(["\ufeffcontact,amount,definition_id,description", *lines]), encoding="utf-8")
    code, said = call("add", "--csv", str(file))
    assert (code, said["added"]) == (2, 0)
    code, said = call("add", "--csv", str(file), "--yes")
    assert (code, said["status"], said["checked"], said["added"], said["points"]) == (2, "failed", 13, 2, "7")
    assert [problem.split(":")[0] for problem in said["problems"]] == [f"line {number}" for number in range(3, 14)]
    assert "quote the value that holds a comma" in said["problems"][6]
    lines[1] = f"{contact},1000,1,corrected"
    file.write_text("\n".join(["contact,amount,definition_id,description", *lines]), encoding="utf-8")
    code, said = call("add", "--csv", str(file), "--yes", "--reference", said["reference"])
    assert (code, said["added"], said["points"]) == (2, 1, "1007")
    assert adjustment_shop.process().done == 3


def test_a_decimal_comma_is_not_a_thousandth_and_odd_digits_are_no_numbers(call: Call) -> None:
    code, said = call("add", "--csv", str(DATA / "adjustments-decimal-comma.csv"), "--yes")
    assert (code, said["checked"], said["added"], said["points"]) == (2, 4, 1, "5")
    assert [problem.split(":")[0] for problem in said["problems"]] == ["line 2", "line 4", "line 5"]


@pytest.mark.parametrize("content", [b"contact|amount\n", b"", b"a,b\n1,2\n", b"contact,amount,desription\n"])
def test_a_file_that_is_no_such_csv_is_a_clear_message(call: Call, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "points.csv"
    file.write_bytes(content)
    code, said = call("add", "--csv", str(file), "--yes")
    assert code == 2
    assert "points.csv" in said["error"]


def test_adding_without_contact_or_amount_says_what_is_missing(adjustment_shop: AdjustmentShop, call: Call) -> None:
    assert call("add", "--amount", "5")[0] == 2
    code, said = call("add", "--contact", adjustment_shop.contacts(1)[0], "--yes")
    assert code == 2
    assert "amount" in said["problems"][0]
    assert adjustment_shop.states() == []


def test_the_list_shows_states_reasons_and_exact_amounts(adjustment_shop: AdjustmentShop, call: Call) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.give(contact, "123456789.000001")
    adjustment_shop.give(contact, 0)
    adjustment_shop.process()
    code, said = call("list")
    assert code == 0
    assert {state: count for state, count in said["states"].items() if count} == {"done": 1, "rejected": 1}
    rejected, done = said["adjustments"]
    assert (rejected["state"], rejected["reason"]) == ("rejected", "amount (0) changes nothing.")
    assert (done["contact"], done["amount"], done["state"]) == (contact, "123456789.000001", "done")
    assert done["receipt"].startswith("VE")
    assert [row["state"] for row in call("list", "--state", "done")[1]["adjustments"]] == ["done"]
    assert [row["state"] for row in call("list", "--limit", "1")[1]["adjustments"]] == ["rejected"]


def test_the_list_can_be_read_at_80_columns_and_begins_with_what_waits_for_a_person(
    adjustment_shop: AdjustmentShop, environment: dict[str, str]
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.give(contact, "1234567.5", description="A gift with a reason " + "that takes a while to tell " * 3)
    adjustment_shop.give(contact, 0)
    adjustment_shop.process()
    shown = CliRunner().invoke(commands, ["adjustments", "list"], env={**environment, "COLUMNS": "80"})
    lines = shown.stdout.splitlines()
    assert shown.exit_code == 0, shown.output
    assert lines[0] == "1 rejected wait for a person. Of all: 1 done, 1 rejected."
    assert "2  rejected" in lines
    assert "1  done  +1,234,567.50 points" in lines
    assert f"  contact: {contact}" in lines
    assert "  reason: amount (0) changes nothing." in lines
    assert max(map(len, lines)) <= 80


def test_retry_and_discard_change_what_is_in_a_state_for_it_and_tell_of_the_rest(
    adjustment_shop: AdjustmentShop, call: Call
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    done, rejected = adjustment_shop.give(contact, 5), adjustment_shop.give(contact, 5, definition_id=9)
    adjustment_shop.process()
    assert call("retry", str(done), str(rejected), "999") == (
        0,
        {"status": "ok", "changed": [rejected], "unchanged": [done, 999]},
    )
    adjustment_shop.process()
    code, said = call("discard", str(rejected), str(done), "--reason", "no such definition")
    assert (code, said["changed"], said["unchanged"]) == (0, [rejected], [done])
    assert adjustment_shop.state(rejected) == ("discarded", "no such definition")
    assert_each_once(adjustment_shop, never=1)


def test_an_uncertain_adjustment_is_settled_by_saying_that_it_stands_in_treazure(
    adjustment_shop: AdjustmentShop, call: Call
) -> None:
    number = adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    adjustment_shop.sql("update adjustment set state = 'uncertain' where id = %s", number)
    assert call("list", "--state", "uncertain")[1]["adjustments"][0]["id"] == number
    assert call("discard", str(number), "--posted", "--reason", "seen in the history")[1]["changed"] == [number]
    adjustment_shop.process()
    assert adjustment_shop.state(number)[0] == "done"
    assert adjustment_shop.booked() == 1
    adjustment_shop.sync()
    assert_each_once(adjustment_shop)


def test_dead_letters_are_listed_with_their_reason_until_a_person_has_dealt_with_them(
    adjustment_shop: AdjustmentShop, call: Call
) -> None:
    assert adjustment_shop.deliver('"no object"').is_success
    code, said = call("list")
    [letter] = said["dead_letters"]
    assert (code, letter["reason"]) == (0, "The payload is not an object.")
    assert letter["characters"] > 0
    assert call("discard", str(letter["id"]), "--dead-letters", "--posted", "--reason", "x")[0] == 2
    for changed in ([letter["id"]], []):
        code, said = call("discard", str(letter["id"]), "--dead-letters", "--reason", "given by hand")
        assert (code, said["changed"]) == (0, changed)
    assert call("list")[1]["dead_letters"] == []
    with adjustment_shop.connect() as connections:
        assert queue.figures(connections.ledger).dead_letters == 0
    [(reason, body)] = adjustment_shop.sql("select settled_reason, body from dead_letter")
    assert reason == "given by hand"
    assert "no object" in body
    ((person, what),) = adjustment_shop.sql("select decided_by, what from decision")
    assert (person, what) == (getpass.getuser(), "discarded")


def test_a_dead_letter_that_this_version_understands_is_read_again(adjustment_shop: AdjustmentShop, call: Call) -> None:
    (contact,) = adjustment_shop.contacts(1)
    adjustment_shop.deliver('"no object"')
    event = {"eventType": "loyalty.addPoints", "payload": {"contactId": contact, "amount": 5, "pointDefinitionId": 1}}
    assert call("retry", "1", "--dead-letters", "--reason", "the upgrade")[1]["unchanged"] == [1]
    adjustment_shop.sql("update dead_letter set body = %s", json.dumps(event))
    assert call("retry", "1", "--dead-letters", "--reason", "the upgrade")[1]["changed"] == [1]
    adjustment_shop.process()
    assert adjustment_shop.states() == ["done"]
    assert adjustment_shop.sql("select what, why from decision") == [("read again", "the upgrade")]


def test_run_adjustments_prints_its_figures_and_its_exit_code(
    adjustment_shop: AdjustmentShop, environment: dict[str, str]
) -> None:
    def run(**more: str) -> tuple[int, dict[str, Any]]:
        ended = processes.command("run", "adjustments", "--json", environment={**os.environ, **environment, **more})
        return ended.returncode, json.loads(ended.stdout.splitlines()[-1])

    one, other = adjustment_shop.contacts(2)
    adjustment_shop.give(one, "0.1")
    adjustment_shop.give(other, "0.2")
    adjustment_shop.give(other, 0)
    code, failed = run(TREAZURE_CLIENT_SECRET="wrong-secret")
    assert (code, failed["status"], failed["posted"], failed["rejected"]) == (5, "failed", 0, 1)
    assert "credentials" in failed["error"]
    assert "wrong-secret" not in json.dumps(failed)
    adjustment_shop.later()
    code, done = run()
    assert (code, done["status"]) == (0, "ok")
    assert (done["posted"], done["done"], done["points"]) == (2, 2, "0.3")
    assert_each_once(adjustment_shop, never=1)
