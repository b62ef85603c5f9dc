"""Engage's import of points from files, and points that expire on both sides."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline.sandbox.imports import HEADER
from treazure_pipeline_tests.sandbox.caller import Caller

STRANGER = "00000000-0000-0000-0000-00000000dead"
DAY = 86_400


def line(key: str, amount: str = "10", **fields: str) -> str:
    row = {
        "Key": key,
        "KeyType": "ContactId",
        "PointDefinitionId": "1",
        "Amount": amount,
        "TransactionType": "Purchase",
        "TransactionDate": "2023-01-01T08:14:00.829Z",
    } | fields
    return ";".join(row.get(name, "") for name in HEADER.split(";"))


def file(*lines: str) -> bytes:
    return "\n".join([HEADER, *lines, ""]).encode()


def held(sandbox: Sandbox, contact: str) -> str | None:
    text: str | None = sandbox.balances([contact])[0]["engage"]
    return text


def in_days(sandbox: Sandbox, days: int) -> str:
    text: str = sandbox.move_clock(days * DAY)["engage_now"]
    sandbox.move_clock(-days * DAY)
    return text


def test_points_of_a_file_are_added_and_the_same_file_twice_doubles_them(
    sandbox: Sandbox, contacts: list[str], tmp_path: Path
) -> None:
    body = file(line(contacts[0], "100.25"), line(contacts[0], "-0.25"), line(contacts[1].upper(), "7"))
    answer = sandbox.import_points(body)
    assert (answer["rows"], answer["imported"], answer["refused"], answer["amount"]) == (3, 3, 0, "107.00")
    assert (held(sandbox, contacts[0]), held(sandbox, contacts[1])) == ("100", "7")
    (tmp_path / "again.csv").write_bytes(body)
    sandbox.import_points(tmp_path / "again.csv")
    assert (held(sandbox, contacts[0]), held(sandbox, contacts[1])) == ("200", "14")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (file(*[line(STRANGER)] * 20_001), "20001 rows"),
        (HEADER.replace("Key;KeyType", "KeyType;Key").encode(), "The header is"),
        (HEADER.replace(";", ",").encode(), "not separated by semicolons"),
        (b"\xef\xbb\xbf" + file(), "The header is"),
        (file().replace(b"Key", "Kéy".encode("latin-1")), "not UTF-8"),
        (file(line(STRANGER, KeyType="Email")), "The first KeyType is 'Email'"),
        (file(line(STRANGER), line(STRANGER, Description='"quoted"')), 'Line 3 holds the reserved character "'),
        (file(line(STRANGER, Source="Member's")), "Line 2 holds the reserved character '"),
        (file(line(STRANGER, Key="M;1")), "Line 2 has 13 fields instead of 12"),
        (file(line(STRANGER, Description="two\nlines")), "Line 2 has 10 fields instead of 12"),
    ],
)
def test_a_file_that_breaks_a_rule_about_files_is_refused_as_a_whole(sandbox: Sandbox, body: bytes, says: str) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        sandbox.import_points(body)
    assert refused.value.response.status_code == 422
    assert says in refused.value.response.json()["detail"]


def test_whatever_lies_in_the_folder_is_imported_and_then_deleted(
    sandbox: Sandbox, contacts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "a-note-without-an-ending").write_bytes(file(line(contacts[0], "3")))
    (tmp_path / "b.csv").write_bytes(file(line(contacts[0], "4")))
    assert [answer["imported"] for answer in sandbox.import_folder(tmp_path)] == [1, 1]
    assert held(sandbox, contacts[0]) == "7"
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(httpx.HTTPStatusError):
        sandbox.import_folder(tmp_path)


def test_a_file_of_20_000_rows_and_one_of_none_are_taken(sandbox: Sandbox, contacts: list[str]) -> None:
    assert sandbox.import_points(file(*[line(contacts[0], "1")] * 20_000))["imported"] == 20_000
    assert held(sandbox, contacts[0]) == "20000"
    assert sandbox.import_points(file())["rows"] == 0


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Key", {"Key": ""}),
        ("Key", {"Key": STRANGER}),
        ("PointDefinitionId", {"PointDefinitionId": "9"}),
        ("Amount", {"Amount": "1,5"}),
        ("Amount", {"Amount": "1e3"}),
        ("Amount", {"Amount": ""}),
        ("TransactionType", {"TransactionType": "Redeem"}),
        ("TransactionDate", {"TransactionDate": "2023-01-01 08:14:00"}),
        ("TransactionDate", {"TransactionDate": "2023-13-01T08:14:00.000Z"}),
        ("ValidTo", {"ValidTo": "soon"}),
        ("ValidTo", {"ValidTo": "2030-01-01T00:00:00.000Z", "ExpireAfterMonthsInactive": "12"}),
    ],
)
def test_a_wrong_row_is_refused_alone_and_says_where(
    sandbox: Sandbox, contacts: list[str], name: str, fields: dict[str, str]
) -> None:
    answer = sandbox.import_points(file(line(contacts[0]), line(contacts[1], **fields), line(contacts[2])))
    (error,) = answer["errors"]
    assert (answer["imported"], answer["refused"], error["row"], error["field"]) == (2, 1, 3, name)
    assert [held(sandbox, contact) for contact in contacts[:3]] == ["10", None, "10"]


def test_an_unknown_member_number_makes_a_contact_where_an_unknown_contact_id_is_an_error(
    sandbox: Sandbox, contacts: list[str]
) -> None:
    key = sandbox.keys("MemberNumber")[contacts[3]]
    body = file(line(key, KeyType="MemberNumber"), *[line("no-such-member", KeyType="MemberNumber")] * 2)
    answer = sandbox.import_points(body)
    assert (answer["imported"], answer["contacts_created"], answer["key_type"]) == (3, 1, "MemberNumber")
    assert held(sandbox, contacts[3]) == "10"
    assert sandbox.state()["contacts"] == 51
    assert sandbox.import_points(body)["contacts_created"] == 0
    external = sandbox.keys("ExternalId")[contacts[4]]
    assert sandbox.import_points(file(line(external, KeyType="ExternalId")))["contacts_created"] == 0
    assert held(sandbox, contacts[4]) == "10"


def test_the_first_key_type_counts_for_every_row(sandbox: Sandbox, contacts: list[str]) -> None:
    body = file(line(contacts[0]), line(sandbox.keys("MemberNumber")[contacts[1]], KeyType="MemberNumber"))
    (error,) = sandbox.import_points(body)["errors"]
    assert (error["row"], error["field"]) == (3, "Key")


def test_imported_points_expire_on_their_day_and_those_that_have_expired_do_not_count(
    sandbox: Sandbox, contacts: list[str]
) -> None:
    body = file(
        line(contacts[0], "100"),
        line(contacts[0], "30", ValidTo=in_days(sandbox, 2)),
        line(contacts[0], "-5"),
        line(contacts[0], "999", ValidTo="2023-02-01T00:00:00.000Z"),
    )
    assert sandbox.import_points(body)["expired_rows"] == 1
    assert held(sandbox, contacts[0]) == "125"
    sandbox.move_clock(3 * DAY)
    assert held(sandbox, contacts[0]) == "95"


def test_a_lower_total_uses_up_the_points_that_expire_first(
    sandbox: Sandbox, caller: Caller, contacts: list[str]
) -> None:
    sandbox.import_points(file(line(contacts[0], "100"), line(contacts[0], "30", ValidTo=in_days(sandbox, 2))))
    row = {"contactId": contacts[0], "amount": 110, "definitionId": 1, "timeStamp": in_days(sandbox, 0)}
    assert caller.engage("POST", "/api/v2/point-accounts/balances", [row]).status_code == 202
    sandbox.move_clock(3 * DAY)
    assert held(sandbox, contacts[0]) == "100"


def test_points_added_by_the_api_expire_too(sandbox: Sandbox, caller: Caller, contacts: list[str]) -> None:
    row = {
        "contactId": contacts[0],
        "amount": 40,
        "definitionId": 1,
        "timeStamp": "2023-01-01T08:14:00.829Z",
        "source": "Treazure",
        "description": "Points earned",
    }
    rows = [row, row | {"amount": 2, "validTo": in_days(sandbox, 1)}]
    for _ in range(2):
        answer = caller.engage("POST", "/api/v2/point-accounts/transactions", rows, **{"Idempotency-Key": "one"})
        assert answer.json()["notAccepted"] == []
    assert held(sandbox, contacts[0]) == "42"
    sandbox.move_clock(2 * DAY)
    assert held(sandbox, contacts[0]) == "40"


def test_points_in_treazure_expire_unless_they_were_used_before(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.reset(members=0, behavior={"points_expire_after": 10 * DAY})
    contact = "00000000-0000-4000-8000-000000000001"
    sandbox.add_points({contact: 50})
    sandbox.move_clock(5 * DAY)
    sandbox.add_points({contact: 20})
    sandbox.add_points({contact: -30})
    sandbox.move_clock(6 * DAY)
    assert sandbox.balances([contact])[0]["treazure"] == "20"
    sandbox.move_clock(5 * DAY)
    assert sandbox.balances([contact])[0]["treazure"] == "0"
    log = caller.history(contact)
    assert [(row["transactionType"], row["amount"], row["balance"]) for row in log] == [
        ("Load", 50, 50),
        ("Load", 20, 70),
        ("Redeem", -30, 40),
        ("Expire", -20, 20),
        ("Expire", -20, 0),
    ]
    assert log[0]["expiresAt"] == log[3]["dateTime"]
    assert log[2]["expiresAt"] is None


def test_a_seeded_programme_whose_points_expire_has_no_balance_below_zero(sandbox: Sandbox) -> None:
    sandbox.reset(members=200, behavior={"points_expire_after": 200 * DAY})
    for _ in range(5):
        sandbox.play_hour(share=0.5)
        sandbox.move_clock(50 * DAY)
    balances = [Decimal(row["treazure"]) for row in sandbox.balances(limit=200)]
    assert min(balances) >= 0
    assert sum(balances) == Decimal(sandbox.state()["programmes"][0]["treazure_total"])
