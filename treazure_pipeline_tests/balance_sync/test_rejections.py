from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from treazure_pipeline.balance_sync import rejections
from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline.cli import commands
from treazure_pipeline.ledger import figures, frames
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, run_of

A = "00000000-0000-4000-8000-00000000000a"
B = "00000000-0000-4000-8000-00000000000b"
BAD_A = f'{{"accountNumber": "{A}", "balance": "many"}}'
NAMELESS = '{"accountNumber": "nobody", "balance": 1}'
REAL_WAITS = {"TREAZURE_PIPELINE_RETRY_SCALE": "1"}
Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def call(shop: Shop, empty_database_url: str, home: Path) -> Call:
    """Run `rejections … --json`; its exit code and the one programme it printed, or all that it printed."""
    environment = {"DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home)}

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        given = {**shop.variables, **environment}
        result = CliRunner().invoke(commands, ["rejections", *arguments, "--json"], env=given)
        said = json.loads(result.stdout.splitlines()[-1])
        return result.exit_code, said["programmes"][0] if "programmes" in said else said

    return run


def reject(shop: Shop, *raw: str, full: bool = False) -> None:
    """Have the next export list such rows, and sync."""
    shop.sandbox.set_fault("bad_rows", raw_rows=list(raw))
    shop.sandbox.play_hour(changes=3)
    shop.sync(full=full)


def outstanding(shop: Shop) -> list[tuple[str, str | None]]:
    return shop.sql("select raw, contact::text from rejection where resolved_at is null order by raw")


def resolved(shop: Shop) -> dict[str, str]:
    return dict(shop.sql("select raw, resolved_by from rejection where resolved_at is not null"))


def test_a_later_good_row_of_the_contact_resolves_its_rejection_and_nobody_else_s(shop: Shop) -> None:
    shop.sandbox.set_points({A: 50})
    shop.sync()
    reject(shop, BAD_A, NAMELESS, BAD_A.replace(A, B))
    shop.sandbox.set_points({A: 51})
    shop.sync()
    assert resolved(shop) == {BAD_A: "export"}
    assert [raw for raw, _ in outstanding(shop)] == [BAD_A.replace(A, B), NAMELESS]
    assert shop.in_engage(A) == ["51"]


def test_a_contact_listed_well_and_badly_in_one_export_stays_rejected(shop: Shop) -> None:
    shop.sandbox.set_points({A: 50})
    reject(shop, BAD_A)
    assert shop.in_engage(A) == ["50"]
    assert outstanding(shop) == [(BAD_A, A)]


def test_an_account_read_after_its_row_was_rejected_resolves_it(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.set_points({A: 50})
    reject(shop, BAD_A)
    with shop.connect() as connections:
        account = account_of(connections)
        read_account(run_of(connections, account, "read"), A)
    assert resolved(shop) == {BAD_A: "account"}


def test_a_full_export_resolves_what_it_does_not_list_any_more(shop: Shop) -> None:
    reject(shop, BAD_A, NAMELESS)
    reject(shop, NAMELESS, full=True)
    assert resolved(shop) == {BAD_A: "full_export"}
    shop.sync()
    assert outstanding(shop) == [(NAMELESS, None)]
    shop.sync(full=True)
    assert outstanding(shop) == []


def test_a_rejection_that_comes_again_is_outstanding_again_since_then(shop: Shop) -> None:
    reject(shop, NAMELESS)
    shop.sync(full=True)
    assert outstanding(shop) == []
    reject(shop, NAMELESS)
    assert outstanding(shop) == [(NAMELESS, None)]
    assert shop.sql("select seen, since > first_seen, resolved_by from rejection") == [(2, True, None)]


def test_status_check_and_frame_count_what_is_outstanding_only(shop: Shop) -> None:
    reject(shop, BAD_A, NAMELESS)
    reject(shop, NAMELESS, full=True)
    with shop.connect() as connections:
        account = account_of(connections)
        assert figures.status(connections.ledger, account).rejected == 1
        assert list(frames.rejections(connections.ledger, account)["raw"]) == [NAMELESS]
        assert [group.rows for group in rejections.groups(connections.ledger, account)] == [1]


def test_rejections_are_listed_by_reason_with_counts_and_times(shop: Shop, call: Call) -> None:
    refused = sorted(shop.sandbox.contact_ids(200)[:3])
    shop.sandbox.know(refused, known=False)
    shop.environ.update(REAL_WAITS)
    reject(shop, BAD_A, BAD_A.replace(A, B), NAMELESS)
    code, said = call("list")
    assert (code, said["outstanding"], said["rows"]) == (0, 6, [])
    assert [(group["origin"], group["rows"]) for group in said["reasons"]] == [
        ("engage", 3),
        ("export", 2),
        ("export", 1),
    ]
    unknown, balance, contact = said["reasons"]
    assert "does not know" in unknown["reason"]
    assert balance["reason"].startswith("balance: ")
    assert contact["reason"].startswith("accountNumber: ")
    next_try = datetime.fromisoformat(unknown["next_try"]) - datetime.now(UTC)
    assert timedelta(minutes=50) < next_try < timedelta(minutes=56)
    assert said["since"] == min(group["since"] for group in said["reasons"])


def test_rejections_are_listed_one_by_one_of_a_contact_or_with_a_reason(shop: Shop, call: Call) -> None:
    shop.sandbox.know([shop.sandbox.contact_ids(1)[0]], known=False)
    reject(shop, BAD_A, NAMELESS)
    code, said = call("list", "--contact", A.upper())
    assert code == 0
    (row,) = said["rows"]
    assert (row["origin"], row["contact"], row["field"], row["value"], row["raw"]) == (
        "export",
        A,
        "balance",
        '"many"',
        BAD_A,
    )
    assert [row["origin"] for row in call("list", "--reason", "DOES NOT KNOW", "--rows")[1]["rows"]] == ["engage"]
    assert len(call("list", "--rows", "--limit", "2")[1]["rows"]) == 2
    shop.sync(full=True)
    assert [row["resolved_by"] for row in call("list", "--all", "--reason", "balance: ")[1]["rows"]] == ["full_export"]
    assert call("list", "--contact", A)[1]["outstanding"] == 0


def test_a_refused_row_tried_again_is_sent_by_the_next_run_also_when_it_was_gone(shop: Shop, call: Call) -> None:
    shop.environ.update(REAL_WAITS)
    one, other = sorted(shop.sandbox.contact_ids(200))[:2]
    shop.sandbox.know([one, other], known=False)
    shop.sync()
    shop.sql("update pending set gone = true, tries = 30")
    shop.sandbox.know([one, other], known=True)
    assert call("retry", "--contact", one)[1]["refused"] == 1
    assert shop.sql("select tries, refused_first is not null from pending where contact = %s", one) == [(30, True)]
    assert shop.sync().pushed.sent == 1
    assert list(shop.pending()) == [other]
    assert call("retry", "--reason", "does not know")[1]["refused"] == 1
    assert shop.sync().pushed.sent == 1
    assert_in_step(shop)


def test_a_rejected_row_tried_again_has_its_account_read_by_the_next_run(shop: Shop, call: Call) -> None:
    shop.sync()
    reject(shop, BAD_A, NAMELESS)
    shop.time_passes(hours=24)
    shop.sandbox.set_points({A: 50})
    shop.sandbox.set_fault("bad_rows", raw_rows=[BAD_A])  # Treazure's export lists it badly still
    code, said = call("retry", "--all")
    assert (code, said["to_read"], said["nameless"]) == (0, 1, 1)
    shop.sync()
    assert shop.in_engage(A) == ["50"]
    assert outstanding(shop) == [(NAMELESS, None)]


def test_what_to_try_again_has_to_be_chosen(call: Call) -> None:
    for arguments in ((), ("--all", "--contact", A), ("--contact", "someone")):
        code, said = call("retry", *arguments)
        assert (code, said["status"]) == (2, "failed")


def test_a_discarded_row_stays_discarded_when_it_comes_again(shop: Shop, call: Call) -> None:
    reject(shop, NAMELESS)
    ((digest,),) = shop.sql("select digest from rejection")
    code, said = call("discard", digest[:8].upper(), "--reason", "a test account of the till")
    assert (code, said["discarded"]) == (0, 1)
    reject(shop, NAMELESS)
    assert outstanding(shop) == []
    assert shop.sql("select seen, resolved_by, note from rejection") == [(2, "person", "a test account of the till")]
    assert call("discard", digest, "--reason", "again")[0] == 2
    assert call("discard", digest[:3], "--reason", "too short")[0] == 2


def test_the_lists_are_readable_for_people(shop: Shop, empty_database_url: str, home: Path) -> None:
    shop.sandbox.know([shop.sandbox.contact_ids(1)[0]], known=False)
    reject(shop, NAMELESS)
    given = {**shop.variables, "DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home)}
    for arguments in (["list"], ["list", "--rows"]):
        said = CliRunner().invoke(commands, ["rejections", *arguments], env=given)
        assert said.exit_code == 0
        assert "points: 2 outstanding, the oldest since 20" in said.stdout
        assert "accountNumber" in said.stdout
