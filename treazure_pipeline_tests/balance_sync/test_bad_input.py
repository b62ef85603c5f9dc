from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from treazure_pipeline.errors import InvalidAnswerError, RemoteError, TransientError
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step

A = "00000000-0000-4000-8000-00000000000a"
REJECTED = [
    ('{"balance": 1}', "accountNumber", None),
    ('{"accountNumber": null, "balance": 1}', "accountNumber", None),
    ('{"accountNumber": "not-a-guid", "balance": 1}', "accountNumber", None),
    ('{"accountNumber": 17, "balance": 1}', "accountNumber", None),
    (f'{{"accountNumber": "{A}"}}', "balance", A),
    (f'{{"accountNumber": "{A}", "balance": null}}', "balance", A),
    (f'{{"accountNumber": "{A}", "balance": "1,5"}}', "balance", A),
    (f'{{"accountNumber": "{A}", "balance": NaN}}', "balance", A),
    (f'{{"accountNumber": "{A}", "balance": Infinity}}', "balance", A),
    (f'{{"accountNumber": "{A}", "balance": -Infinity}}', "balance", A),
    (f'{{"accountNumber": "{A}", "balance": 1e400}}', "balance", A),
    (f'{{"accountNumber": "{A.upper()}", "balance": true}}', "balance", A),
    (
        f'{{"accountNumber": "{A}", "balance": 1, "loyaltyPointDefinitionId": "another"}}',
        "loyaltyPointDefinitionId",
        A,
    ),
    ("null", "row", None),
    ("12", "row", None),
    ('"text"', "row", None),
    ("[1, 2]", "row", None),
]


def test_bad_rows_are_kept_with_row_field_value_and_reason_and_the_good_ones_sync(shop: Shop) -> None:
    shop.sandbox.set_fault("bad_rows", raw_rows=[raw for raw, _, _ in REJECTED])
    run = shop.sync()
    assert run.snapshot.rejected == run.diff.figures.rejected == len(REJECTED)
    assert run.pushed.sent == 200
    kept = {
        raw: (field, contact) for raw, field, contact in shop.sql("select raw, field, contact::text from rejection")
    }
    assert kept == {raw: (field, contact) for raw, field, contact in REJECTED}
    assert all(reason for (reason,) in shop.sql("select reason from rejection"))
    assert shop.sql("select value from rejection where raw like '%%NaN%%'") == [("NaN",)]
    assert A not in shop.known_master()
    assert_in_step(shop)


def test_the_sandbox_s_own_bad_rows_are_rejected_and_the_good_ones_sync(shop: Shop) -> None:
    shop.sandbox.set_fault("bad_rows")
    run = shop.sync(GUARD_MAX_REJECTED_SHARE="0.2")
    assert run.snapshot.rejected > 10
    assert run.pushed.sent == 200
    assert_in_step(shop)


def test_a_row_rejected_again_is_counted_and_not_kept_twice(shop: Shop) -> None:
    for _ in range(3):
        shop.sandbox.set_fault("bad_rows", raw_rows=['{"accountNumber": "x", "balance": 1}'])
        shop.sandbox.play_hour(changes=5)
        shop.sync()
    assert shop.sql("select seen, field, value from rejection") == [(3, "accountNumber", '"x"')]
    assert_in_step(shop)


def test_a_known_contact_whose_row_is_bad_keeps_its_balance_and_has_not_vanished(shop: Shop) -> None:
    shop.sandbox.set_points({A: 50})
    shop.sync()
    shop.sandbox.set_fault("bad_rows", raw_rows=[f'{{"accountNumber": "{A}", "balance": "many"}}'])
    shop.sync(full=True)
    assert shop.sql("select contact from vanished") == []
    assert shop.in_engage(A) == ["50"]
    assert_in_step(shop)


def test_rows_full_of_odd_characters_are_kept(shop: Shop) -> None:
    shop.sandbox.set_fault(
        "bad_rows", raw_rows=['{"accountNumber": "\\u0000\\ud800\t", "balance": 1}'.replace("\t", "\\t"), '"\\\\N"']
    )
    run = shop.sync()
    assert run.snapshot.rejected == len(shop.sql("select raw from rejection")) == 2
    assert_in_step(shop)


@pytest.mark.parametrize("mutated_at", [True, False])
def test_of_a_contact_listed_twice_the_later_mutation_counts(new_shop: Callable[..., Shop], mutated_at: bool) -> None:  # noqa: FBT001
    shop = new_shop(behavior={"mutated_at": mutated_at})
    shop.sandbox.set_fault("duplicates", share=0.5)
    run = shop.sync()
    assert run.diff.figures.duplicate == 100
    assert run.pushed.sent == 200
    assert_in_step(shop)


def test_a_row_with_the_later_mutation_counts_wherever_it_stands(shop: Shop) -> None:
    rows = [
        f'{{"accountNumber": "{A}", "balance": 3, "mutatedAt": "2026-01-01T12:00:00Z"}}',
        f'{{"accountNumber": "{A.upper()}", "balance": 1, "mutatedAt": "2026-01-01T11:59:59.999Z"}}',
        f'{{"accountNumber": "{A}", "balance": 2, "mutatedAt": "2026-01-01T13:59:00+02:00"}}',
    ]
    shop.sandbox.set_fault("bad_rows", raw_rows=rows)
    run = shop.sync()
    assert run.diff.figures.duplicate == 2
    assert {name: str(value) for name, value in shop.known_master().items()}[A] == "3"


def test_upper_case_guids_are_the_same_contacts(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.behave(upper_case=True)
    shop.sandbox.play_hour(changes=20)
    run = shop.sync(full=True)
    assert run.snapshot.fetched == 200
    assert run.pushed.sent <= 20
    assert len(shop.known_master()) == 200
    assert_in_step(shop)


@pytest.mark.parametrize(
    ("fault", "parameters", "error"),
    [
        ("not_array", {}, InvalidAnswerError),
        ("html", {}, InvalidAnswerError),
        ("empty", {}, TransientError),
        ("truncated", {"clean": True}, InvalidAnswerError),
        ("truncated", {"clean": False}, TransientError),
        ("server_error", {"on": ["export_result"]}, TransientError),
        ("server_error", {"on": ["export_request"], "status": 500}, TransientError),
        ("lost_after", {"on": ["export_request"]}, TransientError),
        ("html", {"on": ["export_request"]}, InvalidAnswerError),
        ("html", {"on": ["token"]}, RemoteError),
        ("export_expired", {}, RemoteError),
        ("export_never_ready", {}, TransientError),
        ("token_expired", {"on": ["export_result"]}, RemoteError),
        ("server_error", {"on": ["export_request"], "status": 400}, RemoteError),
        ("server_error", {"on": ["export_result"], "status": 403}, RemoteError),
    ],
)
def test_an_export_that_cannot_be_had_fails_clearly_and_changes_nothing(
    shop: Shop, fault: str, parameters: dict[str, Any], error: type[RemoteError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treazure_pipeline.clients.exports.SHORTEST_PATIENCE_SECONDS", 0.3)
    shop.sync()
    shop.sandbox.play_hour(changes=20)
    before = shop.dump()
    shop.sandbox.set_fault(fault, count=None, **parameters)
    with pytest.raises(error) as raised:
        shop.sync()
    assert raised.value.system == "treazure"
    assert str(raised.value).startswith("Treazure, ")
    assert shop.dump() == before
    shop.sandbox.clear_faults()
    shop.sync()
    assert_in_step(shop)


def test_a_first_export_that_is_truncated_changes_nothing(shop: Shop) -> None:
    shop.sandbox.set_fault("truncated", count=None)
    with pytest.raises(InvalidAnswerError):
        shop.sync()
    assert shop.known_master() == {}
    assert shop.sql("select covered::text from programme") == [("{}",)]
    shop.sandbox.clear_faults()
    shop.sync()
    assert_in_step(shop)


@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        ("truncated", {"clean": False}),
        ("export_expired", {}),
        ("token_expired", {"on": ["export_result"]}),
        ("token_expired", {"on": ["export_request"]}),
        ("server_error", {"on": ["treazure"]}),
        ("rate_limited", {"on": ["export_result", "export_request"], "seconds": 0}),
        ("lost_before", {"on": ["treazure"]}),
        ("lost_after", {"on": ["treazure"]}),
        ("export_never_ready", {"count": 3}),
    ],
)
def test_an_export_that_fails_once_is_asked_for_again(shop: Shop, fault: str, parameters: dict[str, Any]) -> None:
    shop.sandbox.set_fault(fault, **parameters)
    shop.sync()
    assert shop.sandbox.report()["faults"][fault] >= 1
    assert_in_step(shop)


def test_an_href_to_another_host_is_refused_and_changes_nothing(shop: Shop) -> None:
    shop.sandbox.set_fault("foreign_link")
    before = shop.dump()
    with pytest.raises(InvalidAnswerError, match="host"):
        shop.sync()
    assert {name: rows for name, rows in shop.dump().items() if name != "programme"} == {
        name: rows for name, rows in before.items() if name != "programme"
    }
    assert "export_result" not in shop.sandbox.report()["requests"]


def test_wrong_credentials_are_named_before_anything_changes(shop: Shop) -> None:
    with pytest.raises(RemoteError, match="TREAZURE_CLIENT_SECRET"):
        shop.sync(TREAZURE_CLIENT_SECRET="wrong-one")
    assert shop.known_master() == {}


def test_a_row_of_another_programme_changes_nothing(shop: Shop) -> None:
    shop.sandbox.set_points({A: 5})
    row = f'"accountNumber": "{A}", "balance": 9, "mutatedAt": "2099-01-01T00:00:00Z"'
    shop.sandbox.set_fault("bad_rows", raw_rows=[f'{{{row}, "loyaltyPointDefinitionId": "ANOTHER"}}'])
    run = shop.sync()
    assert run.snapshot.rejected == 1
    assert shop.in_engage(A) == ["5"]
    assert_in_step(shop)
