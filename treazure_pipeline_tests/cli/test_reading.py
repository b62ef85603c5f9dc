"""Commands that read the ledger, or decide on what is in it, need its address and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from treazure_pipeline_tests.cli.conftest import SYSTEMS, Run
from treazure_pipeline_tests.reporting.conftest import Reader, _adjustment_sandbox, lived, new_adjustment_shop, reader

__all__ = ["_adjustment_sandbox", "lived", "new_adjustment_shop", "reader"]


def printed(run: Run, *arguments: str, **environment: str) -> dict[str, Any]:
    result = run(*arguments, "--json", **environment)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_the_database_s_address_is_enough_to_read(lived: Reader, run: Run) -> None:
    refused, _, _, given = lived.adjustment_shop.contacts(4)
    only = {"TREAZURE_PIPELINE_DATABASE_URL": lived.adjustment_shop.database_url}
    lived.adjustment_shop.sql("update pending set next_try = clock_timestamp() where tries > 0")

    (status,) = printed(run, "status", **only)["programmes"]
    (plan,) = printed(run, "plan", **only)["programmes"]
    (explained,) = printed(run, "explain", given, **only)["programmes"]
    (rejected,) = printed(run, "rejections", "list", "--rows", **only)["programmes"]
    adjustments = printed(run, "adjustments", "list", **only)["adjustments"]

    assert (status["programme"], status["pending"], status["holes"]) == ("points", 2, 0)
    assert plan["rows"] == 1  # the refused one; the drifting one is sent again as it is
    assert (explained["programme"], "adjustment" in str(explained["events"])) == ("points", True)
    assert {row["contact"] for row in rejected["rows"]} == {refused, "00000000-0000-4000-8000-00000000000b"}
    assert [row["state"] for row in adjustments] == ["rejected", "done"]


def test_the_database_s_address_is_enough_to_decide(lived: Reader, run: Run) -> None:
    refused, _, _, given = lived.adjustment_shop.contacts(4)
    only = {"TREAZURE_PIPELINE_DATABASE_URL": lived.adjustment_shop.database_url}
    (rejected,) = printed(run, "rejections", "list", "--rows", **only)["programmes"]
    (digest,) = (row["digest"] for row in rejected["rows"] if row["digest"])
    (number,) = (
        row["id"] for row in printed(run, "adjustments", "list", **only)["adjustments"] if row["state"] == "rejected"
    )

    assert printed(run, "rejections", "retry", "--all", **only)["programmes"][0]["refused"] == 1
    assert printed(run, "rejections", "discard", digest, "--reason", "an old till", **only)["discarded"] == 1
    added = printed(run, "adjustments", "add", "--contact", given, "--amount", "5", "--yes", **only)
    assert added["added"] == 1
    assert printed(run, "adjustments", "discard", str(number), "--reason", "a mistake", **only)["changed"] == [number]
    assert printed(run, "contact", "erase", refused, "--by", "Sam", "--why", "asked", **only)["status"] == "ok"
    unknown = run("approve", "0123456789ab", **only)
    assert (unknown.returncode, "ENGAGE_API_KEY" in unknown.stderr) == (2, False)


def test_a_ledger_is_adopted_by_the_new_addresses_of_its_systems(lived: Reader, run: Run) -> None:
    moved = {name: SYSTEMS[name] for name in ("TREAZURE_BASE_URL", "ENGAGE_BASE_URL")}
    moved["TREAZURE_PIPELINE_DATABASE_URL"] = lived.adjustment_shop.database_url

    assert printed(run, "db", "adopt", **moved)["before"] == "loopback and loopback"
    assert printed(run, "status", **moved)["status"] == "ok"


def test_status_begins_with_what_waits_and_fits_80_columns(lived: Reader, run: Run) -> None:
    shown = run("status", TREAZURE_PIPELINE_DATABASE_URL=lived.adjustment_shop.database_url, COLUMNS="80")

    lines = shown.stdout.splitlines()
    assert lines[0].startswith("points: 2 balances wait to be sent, ")
    assert max(map(len, lines[1:])) <= 80
    assert "adjustments: 1 rejected, for a person to look at" in lines


def test_reading_with_another_name_for_the_programme_does_not_rename_it(lived: Reader, run: Run) -> None:
    (status,) = printed(
        run, "status", TREAZURE_PIPELINE_DATABASE_URL=lived.adjustment_shop.database_url, PROGRAMME_NAME="other",
        TREAZURE_LOYALTY_ID=lived.adjustment_shop.settings().programmes[0].loyalty_id,
    )["programmes"]  # fmt: skip

    assert status["pending"] == 2
    assert lived.adjustment_shop.sql("select name from programme") == [("points",)]


def test_a_ledger_of_other_systems_is_not_read(lived: Reader, run: Run) -> None:
    addresses = {name: SYSTEMS[name] for name in ("TREAZURE_BASE_URL", "ENGAGE_BASE_URL")}

    refused = run("status", TREAZURE_PIPELINE_DATABASE_URL=lived.adjustment_shop.database_url, **addresses)

    assert refused.returncode == 2
    assert "belongs to loopback and loopback" in refused.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "The ledger has no programme yet."),
        ({"TREAZURE_LOYALTY_ID": "LOYALTY", "ENGAGE_DEFINITION_ID": "many"}, "ENGAGE_DEFINITION_ID ('many')"),
        ({"TREAZURE_PIPELINE_DATABASE_URL": "mysql://nowhere/"}, "TREAZURE_PIPELINE_DATABASE_URL"),
    ],
)
def test_what_reading_needs_and_lacks_is_named_alone(
    run: Run, database_url: str, variables: dict[str, str], said: str
) -> None:
    result = run("status", **{"TREAZURE_PIPELINE_DATABASE_URL": database_url} | variables)

    assert result.returncode == 2
    assert said in result.stderr
    assert "ENGAGE_API_KEY" not in result.stderr


def test_what_sends_or_asks_still_names_all_that_it_needs(run: Run, database_url: str) -> None:
    result = run("run", "balance-sync", TREAZURE_PIPELINE_DATABASE_URL=database_url)

    assert result.returncode == 2
    assert "TREAZURE_CLIENT_SECRET is missing" in result.stderr
    assert "ENGAGE_API_KEY is missing" in result.stderr
