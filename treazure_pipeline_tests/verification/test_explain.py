from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import process, work_of
from treazure_pipeline.cli import commands
from treazure_pipeline.verification.explain import Explanation, explain
from treazure_pipeline_tests.balance_sync.shop import account_of, fetch, merge
from treazure_pipeline_tests.verification.verification_shop import VerificationShop

STRANGER = "00000000-0000-0000-0000-00000000dead"
LONG = "Welcome gift " + "for a new member " * 6


def explained(verification_shop: VerificationShop, contact: str) -> Explanation:
    with verification_shop.connect() as connections:
        found = explain(connections.ledger, connections.settings.programmes[0], contact)
    assert found is not None
    return found


def verdict(verification_shop: VerificationShop, contact: str) -> str:
    return explained(verification_shop, contact).verdict


def tables(verification_shop: VerificationShop) -> dict[str, Any]:
    """Everything in the ledger's schema but the shared rate."""
    names = verification_shop.sql(
        "select tablename from pg_tables where schemaname = 'treazure_pipeline' and tablename !~ '^rate_'"
    )
    return {name: verification_shop.sql(f"select * from {name} t order by t::text") for (name,) in names}  # noqa: S608


def adjust(verification_shop: VerificationShop, contact: str, amount: str, description: str) -> None:
    with verification_shop.connect() as connections:
        payload = {
            "contactId": contact, "amount": Decimal(amount), "pointDefinitionId": 1, "description": description,
        }  # fmt: skip
        queue.add(connections.ledger, f"event-{uuid.uuid4()}", payload)
        process(work_of(connections, connections.settings.programmes, "adjusting"))
    verification_shop.sql("update observation set lags_until = asked")


@pytest.fixture
def call(verification_shop: VerificationShop, home: Path) -> Callable[..., Result]:
    """Run a command as the command line does."""

    def run(*arguments: str, **more: str) -> Result:
        environment = {**verification_shop.variables, "TREAZURE_PIPELINE_HOME": str(home), **more}
        return CliRunner().invoke(commands, arguments, env=environment)

    return run


def test_a_contact_with_every_kind_of_event_reads_right(new_verification_shop: Callable[..., VerificationShop]) -> None:
    verification_shop = new_verification_shop(members=20)
    contact = verification_shop.sandbox.contact_ids(1)[0]
    verification_shop.sandbox.set_points({contact: 100})
    first = verification_shop.sync()
    adjust(verification_shop, contact, "20", LONG)
    verification_shop.sandbox.know([contact], known=False)
    verification_shop.sandbox.set_points({contact: 150})
    refused = verification_shop.sync()
    assert refused.pushed.refused == 1
    verification_shop.sandbox.know([contact], known=True)
    verification_shop.sql("update pending set next_try = clock_timestamp()")
    verification_shop.send_pending()
    verification_shop.sandbox.set_fault(
        "bad_rows", raw_rows=[json.dumps({"accountNumber": contact, "balance": "many"})]
    )
    verification_shop.sandbox.play_hour(changes=1)
    verification_shop.sync()
    verification_shop.sandbox.set_points({contact: 150})
    verification_shop.sync()
    verification_shop.sandbox.set_engage_balances({contact: 1})
    verification_shop.verify()
    verification_shop.send_pending()
    verification_shop.verify()
    verification_shop.sql(
        "insert into plan (programme, digest, run_id, state, figures, reasons, approved_at, approved_by, expires_at) "
        "values (1, 'abc123', 'planning', 'approved', '{}', '{too much changed}', clock_timestamp(), 'Ann', "
        "clock_timestamp() + interval '1 day')"
    )
    verification_shop.sql(
        "insert into plan_lot select max(id), array[%s::uuid], array[150], array[160] from plan", contact
    )
    verification_shop.sql("insert into vanished values (1, %s, clock_timestamp())", contact)

    found = explained(verification_shop, contact)
    events = found.events
    assert [event.at for event in events] == sorted(event.at for event in events)
    told = [(event.kind, event.text) for event in events]
    expected = [
        ("observed", "export of the changes 2000-01-01 00:00:00 UTC to"),
        ("sent", "100 points sent in batch 1 with 19 others"),
        ("adjustment", "20 points given as adjustment 1, receipt VE"),
        ("adjustment_state", "adjustment 1 is queued: its description was cut to 100 characters"),
        ("adjustment_state", "adjustment 1 is sending"),
        ("observed", "asked for this account, says 120 points (before: 100)"),
        ("adjustment_state", "adjustment 1 is posted"),
        ("sent", "120 points sent in batch 2, timeStamp"),
        ("adjustment_state", "adjustment 1 is done"),
        ("observed", "150 points (before: 120)"),
        ("sent", "refused this row"),
        ("sent", "150 points sent in batch 4, timeStamp"),
        ("rejected", 'a row of an export was rejected, balance «"many"»: '),
        ("read_back", "Engage shows 1 points instead of 150; marked for sending again"),
        ("sent", "150 points sent in batch"),
        ("read_back", "Engage shows 150 points again; it differed since"),
        ("planned", "150 → 160 held in plan abc123: too much changed (approved)"),
        ("approved", "plan abc123 approved by Ann"),
        ("vanished", "150 points stay"),
    ]
    rest = iter(told)
    missing = [(kind, text) for kind, text in expected if not any(k == kind and text in t for k, t in rest)]
    assert missing == [], "\n".join(f"{k}: {t}" for k, t in told)
    assert events[0].run_id == first.id
    assert events[0].facts["window_from"].startswith("2000-01-01")
    given = next(event for event in events if event.kind == "adjustment")
    assert given.facts["description_cut"] is True
    accepted = [event for event in events if event.kind == "sent" and event.facts["state"] == "folded"]
    assert all(event.facts["transaction_id"] in event.text for event in accepted if not event.facts["refused"])
    assert {found.master, found.sent, found.shown} == {Decimal(150)}
    assert not found.pending
    assert found.verdict.startswith("Engage holds what Treazure has: 150 points, verified on ")
    assert "did not list it" in found.verdict


def test_the_verdict_says_in_one_sentence_how_it_stands(new_verification_shop: Callable[..., VerificationShop]) -> None:
    verification_shop = new_verification_shop(members=20)
    contact = verification_shop.sandbox.contact_ids(1)[0]
    verification_shop.sandbox.set_points({contact: 100})
    with verification_shop.connect() as connections:
        account = account_of(connections)
        fetch(connections, account)
        merge(connections, account)
    assert ": nothing → 100 points; the next push sends it." in verdict(verification_shop, contact)
    verification_shop.send_pending()
    assert "has not been read back since." in verdict(
        verification_shop, contact
    ) or "it has not been read back yet" in verdict(verification_shop, contact)
    verification_shop.verify()
    assert verdict(verification_shop, contact).startswith("Engage holds what Treazure has: 100 points, verified on")
    verification_shop.sandbox.set_points({contact: 135})
    verification_shop.sandbox.know([contact], known=False)
    verification_shop.sync()
    assert (
        "100 points → 135 points, Engage refused it once: Engage does not know this contact; next try after"
        in verdict(verification_shop, contact)
    )
    verification_shop.sql("update pending set gone = true")
    assert verdict(verification_shop, contact).startswith(
        "Gone: Engage does not know this contact, for 30 days; 135 points are no longer sent"
    )
    verification_shop.sql(
        "update pending set gone = false, reason = null, next_try = null, refused_last = null, master = -5"
    )
    assert "100 points → -5 points, a negative balance that needs approval." in verdict(verification_shop, contact)
    verification_shop.sql("update pending set master = 135")
    verification_shop.sql("update programme set mode = 'migrating'")
    assert "the programme is migrating, so nothing is sent" in verdict(verification_shop, contact)
    verification_shop.sql("update programme set mode = 'live'")
    verification_shop.sandbox.know([contact], known=True)
    verification_shop.send_pending()
    assert "which is what Treazure has; it has not been read back since." in verdict(verification_shop, contact)
    verification_shop.sandbox.set_engage_balances({contact: None})
    verification_shop.verify()
    assert verdict(verification_shop, contact).startswith(
        "To be sent again: 135 points, since Engage showed no account on"
    )
    verification_shop.send_pending()
    assert "has not been read back since; before that it showed no account, on" in verdict(verification_shop, contact)
    verification_shop.sql("update batch set state = 'sending' where id = (select max(id) from batch)")
    assert "135 points → 135 points, in request" in verdict(verification_shop, contact)


def test_a_contact_whose_only_row_was_rejected_says_why(verification_shop: VerificationShop) -> None:
    verification_shop.sandbox.play_hour(changes=5)
    verification_shop.sandbox.set_fault(
        "bad_rows", raw_rows=[json.dumps({"accountNumber": STRANGER, "balance": "many"})]
    )
    verification_shop.sync()
    assert verdict(verification_shop, STRANGER).startswith(
        "No balance from Treazure is known: its rows in exports were rejected"
    )


def test_the_command_takes_any_case_and_prints_the_timeline(
    verification_shop: VerificationShop, call: Callable[..., Result]
) -> None:
    verification_shop.verify()
    contact = verification_shop.sandbox.contact_ids(1)[0]
    before = tables(verification_shop)
    result = call("explain", contact.upper(), DAGSTER_WEBSERVER_URL="http://dagster.example/", COLUMNS="80")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Engage holds what Treazure has: ")
    assert lines[1] == f"{contact} in programme points; all times are UTC."
    assert [line.split()[2] for line in lines[2:] if line.startswith("20")] == ["observed", "sent", "read"]
    assert max(len(line) for line in lines[2:]) <= 80
    assert "http://dagster.example/runs/" in result.stdout
    assert tables(verification_shop) == before


def test_the_json_holds_every_event_with_its_facts(
    verification_shop: VerificationShop, call: Callable[..., Result]
) -> None:
    contact = verification_shop.sandbox.contact_ids(1)[0]
    found = json.loads(call("explain", contact, "--json").stdout.splitlines()[-1])
    (programme,) = found["programmes"]
    assert (found["status"], found["contact"], programme["programme"]) == ("ok", contact, "points")
    assert programme["verdict"].endswith(".")
    assert programme["master"] == programme["sent"]
    assert Decimal(programme["sent"]) == Decimal(verification_shop.in_engage(contact)[0] or "")
    assert [event["kind"] for event in programme["events"]] == ["observed", "sent"]
    for event in programme["events"]:
        assert event.keys() == {"at", "kind", "text", "run_id", "run_url", "facts"}
        assert event["run_url"] is None
    assert programme["events"][1]["facts"]["transaction_id"]


@pytest.mark.parametrize(("contact", "says"), [(STRANGER, "Nothing is known"), ("member 12", "must be a GUID")])
def test_a_contact_that_nobody_knows_is_a_clear_message(call: Callable[..., Result], contact: str, says: str) -> None:
    result = call("explain", contact, "--json")
    assert result.exit_code == 2
    assert says in json.loads(result.stdout)["error"]
    assert contact in result.stderr


def test_explaining_writes_nothing_not_even_a_programme_that_is_new(
    new_verification_shop: Callable[..., VerificationShop], home: Path
) -> None:
    verification_shop = new_verification_shop(members=5)
    environment = {**verification_shop.variables, "TREAZURE_PIPELINE_HOME": str(home)}
    result = CliRunner().invoke(commands, ["explain", verification_shop.sandbox.contact_ids(1)[0]], env=environment)
    assert result.exit_code == 2
    assert verification_shop.sql("select count(*) from programme") == [(0,)]


def test_the_command_runs_the_verification_and_status_shows_how_it_stands(
    verification_shop: VerificationShop, call: Callable[..., Result], empty_database_url: str
) -> None:
    verification_shop.drift_by_hand(3)
    result = call("run", "verify", "--json", DAGSTER_POSTGRES_URL=empty_database_url)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["status"], found["programme"], found["read"], found["drift"], found["marked"]) == (
        "ok", "points", 80, 3, 3,
    )  # fmt: skip
    assert found["outstanding_drift"] == 3
    assert found["seconds"]["verify"] > 0
    shown = json.loads(call("status", "--json").stdout.splitlines()[-1])["programmes"][0]["verification"]
    assert (shown["drift"], shown["missing"], shown["will_not_heal"], shown["last_run_id"]) == (
        3,
        0,
        0,
        found["run_id"],
    )
    assert "Engage shows another balance" in call("status").stdout
