from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from treazure_pipeline.cli import sandbox as sandbox_command
from treazure_pipeline.connections import open_ledger
from treazure_pipeline.database import embedded
from treazure_pipeline.sandbox.client import Sandbox, running_sandbox
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests.cli.conftest import SYSTEMS, Run


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=10) as running:
        yield running


def settings(sandbox: Sandbox) -> dict[str, str]:
    return sandbox_command.settings(int(sandbox.base_url.rpartition(":")[2]))


def checks(run: Run, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = run("doctor", "--json", **environment)
    report = json.loads(result.stdout)
    assert (report["status"] == "ok") == (result.returncode == 0)
    return result.returncode, {check["check"]: check for check in report["checks"]}


def test_where_all_is_well_everything_is_tried_and_found_fine(
    run: Run, sandbox: Sandbox, database_url: str, empty_database_url: str
) -> None:
    databases = {
        "TREAZURE_PIPELINE_DATABASE_URL": database_url,
        "DAGSTER_POSTGRES_URL": empty_database_url,
    }

    code, found = checks(run, **settings(sandbox), **databases)

    assert code == 0
    assert {name: check["status"] for name, check in found.items()} == {
        "settings": "ok",
        "alerts": "note",
        "Treazure: login": "ok",
        "Treazure: export of points": "ok",
        "Engage: contacts": "ok",
        "Engage: point definitions": "ok",
        "database": "ok",
        "database: schema": "ok",
        "database: rights": "ok",
        "database: whose ledger": "ok",
        "Dagster: storage": "ok",
        "Dagster: daemon": "note",
        "Treazure: receipts": "note",
        "other writers: Treazure, points": "ok",
        "other writers: Engage, points": "ok",
    }
    assert found["Engage: contacts"]["detail"] == "10 contacts"
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from treazure_pipeline.owner").fetchone() == (0,)


def test_it_is_a_table_for_people(run: Run, sandbox: Sandbox) -> None:
    result = run("doctor", **settings(sandbox))

    assert result.returncode == 0
    assert "10 contacts" in result.stdout
    assert "embedded, stopped" in result.stdout


def test_it_starts_and_writes_nothing(run: Run, sandbox: Sandbox, home: Path) -> None:
    run("doctor", **settings(sandbox))

    assert not home.exists()


def test_missing_settings_are_named_and_the_database_is_looked_at_all_the_same(run: Run, home: Path) -> None:
    embedded.start(home)

    code, found = checks(run)

    assert code == 2
    assert all(name in found["settings"]["detail"] for name in SYSTEMS)
    assert found["database"]["status"] == "ok"
    assert "db upgrade" in found["database: schema"]["detail"]


def test_secrets_that_are_refused_are_found_at_both_systems_and_not_shown(run: Run, sandbox: Sandbox) -> None:
    wrong = {"TREAZURE_CLIENT_SECRET": "wrong-one", "ENGAGE_API_KEY": "wrong-two"}

    code, found = checks(run, **settings(sandbox) | wrong)

    assert code == 5
    assert found["Treazure: login"]["status"] == "failed"
    assert found["Engage: contacts"]["status"] == "failed"
    assert "wrong-" not in json.dumps(found)


def test_a_definition_that_engage_lacks_is_named_with_those_it_has(run: Run, sandbox: Sandbox) -> None:
    code, found = checks(run, **settings(sandbox) | {"ENGAGE_DEFINITION_ID": "77"})

    assert code == 5
    assert found["Engage: point definitions"]["status"] == "failed"
    assert "no point definition 77 (points)" in found["Engage: point definitions"]["detail"]


def test_a_ledger_of_other_systems_is_found_and_refused_before_there_is_a_run(
    run: Run, sandbox: Sandbox, database_url: str, empty_database_url: str
) -> None:
    databases = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "DAGSTER_POSTGRES_URL": empty_database_url}
    others = load_settings({**SYSTEMS, "TREAZURE_PIPELINE_DATABASE_URL": database_url})
    open_ledger(others, database_url).close()

    code, found = checks(run, **settings(sandbox), **databases)
    assert code == 5
    assert found["database: whose ledger"]["status"] == "failed"
    assert "treazure.invalid" in found["database: whose ledger"]["detail"]

    for job in ("balance-sync", "adjustments", "verify", "history", "migration"):
        refused = run("run", job, **settings(sandbox), **databases)
        assert refused.returncode == 2
        assert "db adopt" in refused.stderr
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select to_regclass('runs')").fetchone() == (None,)


def contract(run: Run, sandbox: Sandbox, *arguments: str) -> tuple[int, dict[str, dict[str, str]], str]:
    result = run("doctor", "--contract", "--json", *arguments, **settings(sandbox))
    (programme,) = json.loads(result.stdout)["programmes"]
    return result.returncode, {f"{line['system']}: {line['about']}": line for line in programme["lines"]}, result.stdout


def test_the_contract_is_as_assumed_where_the_systems_answer_so(run: Run, sandbox: Sandbox) -> None:
    code, lines, _ = contract(run, sandbox)
    assert code == 0
    assert {line["verdict"] for line in lines.values()} == {"as assumed", "not observed"}
    assert [about for about, line in lines.items() if line["verdict"] == "not observed"] == ["Engage: setting balances"]
    assert "accountNumber: GUID" in lines["Treazure: export: result"]["observed"]


def test_other_legal_answers_are_told_as_understood_with_what_came(run: Run, sandbox: Sandbox) -> None:
    sandbox.behave(
        href="links.hRef", export_not_ready=404, export_delivery=302, account_key="contactId", mutated_at=False,
        upper_case=True,
    )  # fmt: skip
    code, lines, _ = contract(run, sandbox)
    assert code == 0
    assert lines["Treazure: export: request"]["verdict"] == "otherwise, understood"
    assert "links: [{" in lines["Treazure: export: request"]["observed"]
    assert "contactId: GUID in upper case" in lines["Treazure: export: result"]["observed"]


def test_what_can_t_be_understood_fails_and_nothing_of_a_member_is_shown(run: Run, sandbox: Sandbox) -> None:
    contacts = sandbox.contact_ids(10)
    sandbox.set_fault("html", on=["account"], count=None)
    code, lines, printed = contract(run, sandbox)
    assert code == 5
    assert lines["Treazure: account"]["verdict"] == "not understood"
    assert "HTML" in lines["Treazure: account"]["observed"]
    assert not any(contact in printed.lower() for contact in contacts)


def test_a_test_contact_proves_adding_reading_receipt_and_description_and_keeps_its_points(
    run: Run, sandbox: Sandbox
) -> None:
    (contact,) = sandbox.contact_ids(1)
    before = sandbox.balances(limit=1)
    code, lines, _ = contract(run, sandbox, "--test-contact", contact)
    assert code == 0
    told = {about: lines[f"Treazure: {about}"]["verdict"] for about in
            ("adding a point", "reading after adding", "receipt", "description", "taking it back")}  # fmt: skip
    assert set(told.values()) == {"as assumed"}
    assert sandbox.balances(limit=1) == before


def test_a_receipt_that_is_cut_is_told(run: Run, sandbox: Sandbox) -> None:
    (contact,) = sandbox.contact_ids(1)
    sandbox.behave(history_receipt_length=20)
    code, lines, _ = contract(run, sandbox, "--test-contact", contact)
    assert (code, lines["Treazure: receipt"]["verdict"]) == (0, "otherwise, understood")
    assert "20 characters" in lines["Treazure: receipt"]["observed"]
