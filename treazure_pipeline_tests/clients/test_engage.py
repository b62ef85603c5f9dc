from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from treazure_pipeline import __version__
from treazure_pipeline.clients import outcome
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.engage_wire import Definition, PointAccount, encode_balances
from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.errors import (
    AuthenticationError,
    InvalidAnswerError,
    NoAnswerError,
    NotFoundError,
    PermanentError,
    RateLimitedError,
    SettingsError,
    TransientError,
)
from treazure_pipeline_tests.clients.conftest import Reply, Stub, answer

BALANCES = "/api/v2/point-accounts/balances"
ADDED = "/api/v2/point-accounts/transactions"
ACCOUNTS = "/api/v2/point-accounts"
DEFINITIONS = "/api/v2/point-accounts/definitions"
COUNT = "/api/v2/contacts/count"
KEY = "k3y-of-engage"
FIRST = "00000000-0000-0000-0000-00000000000a"
SECOND = "00000000-0000-0000-0000-00000000000b"
NOON = datetime(2024, 5, 16, 12, tzinfo=UTC)
BODY = encode_balances([FIRST, SECOND], ["12.50", "-3"], 1, NOON)


def client(stub: Stub, **options: Any) -> EngageClient:
    return EngageClient(stub.url, SecretStr(KEY), **{"retry": RetryPolicy(scale=0.0001), "timeout": 10.0, **options})


def test_balances_are_written_with_every_digit_and_the_time_in_utc() -> None:
    moment = datetime(2024, 5, 16, 14, 0, 3, 807001, timezone(timedelta(hours=2)))
    digits = "123456789012345.12345678901234567890"
    body = encode_balances([FIRST, SECOND], [digits, "0"], 3, moment)
    assert digits.encode() in body
    assert json.loads(body, parse_float=Decimal) == [
        {
            "contactId": FIRST,
            "amount": Decimal(digits),
            "definitionId": 3,
            "timeStamp": "2024-05-16T12:00:03.807001Z",
        },
        {"contactId": SECOND, "amount": 0, "definitionId": 3, "timeStamp": "2024-05-16T12:00:03.807001Z"},
    ]


def test_no_balances_are_an_empty_array() -> None:
    assert encode_balances([], [], 1, NOON) == b"[]"


def test_balances_with_a_time_without_a_zone_or_of_uneven_length_are_not_written() -> None:
    with pytest.raises(ValueError, match="zone"):
        encode_balances([FIRST], ["1"], 1, NOON.replace(tzinfo=None))
    with pytest.raises(ValueError, match="shorter"):
        encode_balances([FIRST, SECOND], ["1"], 1, NOON)


def test_every_request_has_the_three_mandatory_headers(stub: Stub) -> None:
    stub.on(BALANCES, answer("7"))
    stub.on(COUNT, answer(5))
    stub.on(DEFINITIONS, answer([]))
    stub.on(ACCOUNTS, answer({"items": [], "count": 0}))
    with client(stub) as engage:
        engage.set_balances(BODY)
        engage.contact_count()
        engage.definitions()
        engage.point_accounts(FIRST)
    assert len(stub.asked) == 4
    for asked in stub.asked:
        assert asked.headers["apikey"] == KEY
        assert asked.headers["user-agent"] == f"treazure-pipeline/{__version__}"
        assert asked.headers["content-type"] == "application/json"
        assert KEY not in asked.target


def test_the_version_is_part_of_the_path(stub: Stub) -> None:
    stub.on("/api/v3/contacts/count", answer(5))
    with client(stub, api_version="v3") as engage:
        assert engage.contact_count() == 5


LISTS: dict[str, Any] = {"notAccepted": [], "errorMessages": [], "missingDefinitionIds": [], "missingContactIds": []}


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    ("body", "identifier"),
    [
        (b'{"transactionId":"t-1"}', "t-1"),
        (b'{"id":"t-1"}', "t-1"),
        (b'{"batchId":"t-1"}', "t-1"),
        (b'{"TransactionId":"t-1"}', "t-1"),
        (b'{"BATCHID":"t-1"}', "t-1"),
        (b'{"id":17}', "17"),
        (b'{"transactionId":null,"id":"t-1"}', "t-1"),
        (b'{"transactionId":"t-1","message":"queued"}', "t-1"),
        (b'{"transactionId":"t-1","notAccepted":[],"errorMessages":null}', "t-1"),
        (b'{"NotAccepted":[],"ErrorMessages":[],"TransactionId":"t-1"}', "t-1"),
        (b'"t-1"', "t-1"),
        (b"t-1", "t-1"),
        (b"17", "17"),
        (b"6f9619ff-8b86-d011-b42d-00cf4fc964ff", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        (b"\xef\xbb\xbf t-1\r\n", "t-1"),
        (b'\xef\xbb\xbf{"id":"t-1"}', "t-1"),
        (b"", None),
        (b" \r\n", None),
        (b"\xef\xbb\xbf", None),
        (json.dumps(LISTS).encode(), None),
        (b'{"notAccepted":[]}', None),
        (b'{"notAccepted":null,"errorMessages":null}', None),
    ],
)
def test_an_accepted_request_is_known_in_any_shape_with_an_id_or_without(
    stub: Stub, status: int, body: bytes, identifier: str | None
) -> None:
    stub.on(BALANCES, Reply(status, body, {"Request-Id": "r-9"}))
    with client(stub) as engage:
        accepted = engage.set_balances(BODY)
    assert (accepted.transaction_id, accepted.refused, accepted.request_id) == (identifier, {}, "r-9")
    assert stub.asked[0].body == BODY


def test_an_acceptance_may_have_no_content(stub: Stub) -> None:
    stub.on(BALANCES, Reply(204))
    with client(stub) as engage:
        assert engage.set_balances(BODY).transaction_id is None


NOT_ACCEPTED = [
    b"<html>1</html>",
    b"OK",
    b'"queued"',
    b"null",
    b"true",
    b"1.5",
    b"{}",
    b"[]",
    b'""',
    b'{"transactionId":null}',
    b'{"id":true}',
    b'{"message":"queue is full"}',
    b'{"Message":"An error has occurred","id":"trace-1"}',
    b'{"title":"Bad","status":400,"detail":"x","traceId":"0"}',
    b'{"errors":{"amount":["?"]},"id":"t-1"}',
    b"Service busy 1",
    b'{"transactionId":"t-1"',
    b'{"id":"a b"}',
    b'{"id":"1","notAccepted":7}',
    b'{"notAccepted":[],"errorMessages":["all is lost"]}',
]


@pytest.mark.parametrize("body", NOT_ACCEPTED)
def test_a_success_that_accepts_nothing_plainly_is_no_success(stub: Stub, body: bytes) -> None:
    stub.on(BALANCES, Reply(200, body))
    with client(stub) as engage, pytest.raises(InvalidAnswerError) as caught:
        engage.set_balances(BODY)
    assert caught.value.status == 200
    assert len(stub.asked) == 1


@pytest.mark.parametrize("body", NOT_ACCEPTED)
def test_points_are_not_added_by_an_answer_that_does_not_say_so(stub: Stub, body: bytes) -> None:
    stub.on(ADDED, Reply(200, body))
    with client(stub) as engage, pytest.raises(InvalidAnswerError):
        engage.add_points(b"[]", "key")


@pytest.mark.parametrize("body", [b"", json.dumps(LISTS).encode(), b'{"id":"t-1"}', b'{"NotAccepted":null}'])
def test_points_are_added_by_any_acceptance(stub: Stub, body: bytes) -> None:
    stub.on(ADDED, Reply(200, body))
    with client(stub) as engage:
        assert engage.add_points(b"[]", "key") == []


def test_an_empty_web_page_is_no_acceptance(stub: Stub) -> None:
    stub.on(BALANCES, Reply(200, b"", {"Content-Type": "text/html"}))
    with client(stub) as engage, pytest.raises(InvalidAnswerError, match="web page"):
        engage.set_balances(BODY)


@pytest.mark.parametrize(
    ("listed", "refused"),
    [
        ({"missingContactIds": [FIRST.upper()]}, {FIRST: "Engage does not know this contact"}),
        ({"missingContactIds": [f"{{{FIRST}}}"]}, {FIRST: "Engage does not know this contact"}),
        ({"MissingContactIds": [FIRST]}, {FIRST: "Engage does not know this contact"}),
        ({"NotAccepted": [{"ContactId": FIRST}], "ErrorMessages": ["too much"]}, {FIRST: "«too much»"}),
        (
            {"notAccepted": [{"contactId": FIRST.upper(), "amount": 12.5}], "errorMessages": ["too much"]},
            {FIRST: "«too much»"},
        ),
        ({"notAccepted": [{"contactId": FIRST}]}, {FIRST: "Engage did not accept the row and gave no reason"}),
        (
            {"notAccepted": [{"contactId": FIRST}, {"contactId": SECOND}], "errorMessages": ["one", "two"]},
            {FIRST: "«one»", SECOND: "«two»"},
        ),
        (
            {
                "notAccepted": [{"contactId": FIRST}, {"contactId": SECOND}],
                "errorMessages": [f"{SECOND.upper()} bad", "x", "y"],
            },
            {FIRST: f"«{SECOND.upper()} bad; x; y»", SECOND: f"«{SECOND.upper()} bad»"},
        ),
        (
            {"notAccepted": [{"contactId": FIRST}], "missingContactIds": [FIRST], "errorMessages": ["unknown"]},
            {FIRST: "Engage does not know this contact"},
        ),
        (
            {"missingDefinitionIds": [1]},
            {FIRST: "Engage has no point definition 1", SECOND: "Engage has no point definition 1"},
        ),
    ],
)
def test_refused_rows_are_told_apart_with_their_reasons(
    stub: Stub, listed: dict[str, Any], refused: dict[str, str]
) -> None:
    stub.on(BALANCES, answer({"transactionId": "t-1", **listed}), answer(listed))
    with client(stub) as engage:
        with_id, without_id = engage.set_balances(BODY), engage.set_balances(BODY)
    assert (with_id.transaction_id, with_id.refused) == ("t-1", refused)
    assert (without_id.transaction_id, without_id.refused) == (None, refused)


@pytest.mark.parametrize(
    "listed",
    [
        {"missingContactIds": ["00000000-0000-0000-0000-00000000000c"]},
        {"missingContactIds": [7]},
        {"missingDefinitionIds": [2]},
        {"notAccepted": [{"amount": 12.5}]},
        {"errorMessages": ["one row is wrong"]},
    ],
)
def test_an_answer_that_leaves_open_which_rows_were_taken_is_invalid(stub: Stub, listed: dict[str, Any]) -> None:
    stub.on(BALANCES, answer({"transactionId": "t-1", **listed}))
    with client(stub) as engage, pytest.raises(InvalidAnswerError):
        engage.set_balances(BODY)


def test_a_refused_request_carries_what_the_vendor_said_without_the_key(stub: Stub) -> None:
    stub.on(BALANCES, Reply(400, f'{{"message":"bad row 7","apikey":"{KEY}","x":"{"y" * 5000}"}}'.encode()))
    with client(stub) as engage, pytest.raises(PermanentError) as caught:
        engage.set_balances(BODY)
    assert caught.value.status == 400
    assert "bad row 7" in caught.value.message
    assert "bad row 7" not in str(caught.value)
    assert KEY not in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_an_authentication_error(stub: Stub, status: int) -> None:
    stub.on(COUNT, Reply(status))
    with client(stub) as engage, pytest.raises(AuthenticationError, match="ENGAGE_API_KEY"):
        engage.contact_count()
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(500, b"An error has occurred"), TransientError),
        (Reply(503, headers={"Retry-After": "7"}), TransientError),
        (Reply(429, headers={"Retry-After": "7"}), RateLimitedError),
        (Reply(silent=True), NoAnswerError),
        (Reply(200, b'"t-1', cut=True), NoAnswerError),
    ],
)
def test_balances_are_sent_once_whatever_the_answer(stub: Stub, reply: Reply, error: type[TransientError]) -> None:
    stub.on(BALANCES, reply)
    with client(stub) as engage, pytest.raises(error) as caught:
        engage.set_balances(BODY)
    assert len(stub.asked) == 1
    assert caught.value.retry_after == (7 if reply.headers else None)
    assert outcome.of(caught.value).effect == ("none" if error is RateLimitedError else "possible")


def test_a_read_is_tried_again(stub: Stub) -> None:
    stub.on(COUNT, Reply(500), Reply(silent=True), Reply(429), answer(5))
    with client(stub) as engage:
        assert engage.contact_count() == 5


@pytest.mark.parametrize("body", [b"", b"<html>", b"true", b'"5"', b"{}", b"5.5"])
def test_a_number_of_contacts_that_is_none_is_invalid(stub: Stub, body: bytes) -> None:
    stub.on(COUNT, Reply(200, body))
    with client(stub) as engage, pytest.raises(InvalidAnswerError):
        engage.contact_count()


def test_all_pages_of_definitions_are_read(stub: Stub) -> None:
    pages = [[{"id": number, "name": f"n{number}"} for number in range(start, start + 100)] for start in (0, 100)]
    stub.on(
        DEFINITIONS,
        answer(pages[0]),
        answer(pages[1]),
        answer([{"id": 200, "name": None, "description": "x"}][:0]),
    )
    with client(stub) as engage:
        assert engage.definitions() == [Definition(number, f"n{number}") for number in range(200)]
    assert [asked.target.partition("?")[2] for asked in stub.asked] == [
        "offset=0&count=100",
        "offset=100&count=100",
        "offset=200&count=100",
    ]


def test_a_server_that_repeats_its_page_is_not_asked_for_ever(stub: Stub) -> None:
    stub.on(DEFINITIONS, answer([{"id": number, "name": ""} for number in range(100)]))
    with client(stub) as engage:
        assert len(engage.definitions()) == 100


def test_point_accounts_keep_every_digit_over_all_pages(stub: Stub) -> None:
    def page(*items: str) -> Reply:
        return Reply(200, f'{{"links":[],"count":1,"totalCount":2,"offset":0,"items":[{",".join(items)}]}}'.encode())

    stub.on(
        ACCOUNTS,
        page(f'{{"id":"x","contactId":"{FIRST.upper()}","definitionId":1,"balance":123456789012345.123456}}'),
        page(f'{{"id":8,"contactId":"{FIRST}","definitionId":2,"balance":0,"balanceExpires":null}}'),
    )
    with client(stub) as engage:
        assert engage.point_accounts(FIRST) == [
            PointAccount("x", FIRST, 1, Decimal("123456789012345.123456")),
            PointAccount("8", FIRST, 2, Decimal(0)),
        ]
    assert [asked.target.partition("?")[2] for asked in stub.asked] == [
        f"contactId={FIRST}&offset=0&count=100",
        f"contactId={FIRST}&offset=1&count=100",
    ]


def test_the_count_of_a_page_is_not_taken_for_the_number_of_accounts(stub: Stub) -> None:
    accounts = [{"id": number, "contactId": FIRST, "definitionId": number, "balance": number} for number in range(150)]
    stub.on(
        ACCOUNTS,
        answer({"items": accounts[:100], "count": 100, "offset": 0}),
        answer({"items": accounts[100:], "count": 50, "offset": 100}),
    )
    with client(stub) as engage:
        assert len(engage.point_accounts(FIRST)) == 150


def test_numbers_of_accounts_may_come_as_texts(stub: Stub) -> None:
    item = {"id": 8, "contactId": FIRST, "definitionId": "1", "balance": "12.50", "pendingPoints": None}
    stub.on(ACCOUNTS, answer({"items": [item], "totalCount": "1"}))
    with client(stub) as engage:
        assert engage.point_accounts(FIRST) == [PointAccount("8", FIRST, 1, Decimal("12.50"))]


@pytest.mark.parametrize("reply", [Reply(200), Reply(200, b"<html>"), answer([]), answer({"count": 0})])
def test_a_failed_read_of_accounts_is_not_an_empty_result(stub: Stub, reply: Reply) -> None:
    stub.on(ACCOUNTS, reply)
    with client(stub) as engage, pytest.raises(InvalidAnswerError):
        engage.point_accounts(FIRST)


def test_an_unknown_contact_has_no_balance_where_engage_knows_another(stub: Stub) -> None:
    stub.on(ACCOUNTS, Reply(404), answer({"count": 0, "items": []}), Reply(404))
    with client(stub, witnesses=lambda: [SECOND]) as engage:
        assert engage.balance(FIRST, 1) is None
    assert [FIRST in one.target for one in stub.asked] == [True, False, True]


def test_where_engage_says_404_of_everybody_nobody_has_no_balance(stub: Stub) -> None:
    stub.on(ACCOUNTS, Reply(404))
    with client(stub, witnesses=lambda: [SECOND]) as engage, pytest.raises(NotFoundError):
        engage.balance(FIRST, 1)


def test_an_unknown_contact_or_path_is_a_refusal(stub: Stub) -> None:
    stub.on(ACCOUNTS, Reply(404))
    with client(stub) as engage, pytest.raises(PermanentError) as caught:
        engage.point_accounts(FIRST)
    assert caught.value.status == 404


def test_the_key_is_shown_nowhere(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stub.on(COUNT, Reply(500, f"no {KEY}".encode()))
    with client(stub) as engage, pytest.raises(TransientError) as caught:
        engage.contact_count()
    shown = f"{caplog.text} {engage!r} {vars(engage)} {caught.value!r} {caught.value} {vars(caught.value)}"
    assert "***" in shown
    assert KEY not in shown
    with pytest.raises(SettingsError, match="ENGAGE_API_KEY") as refused:
        EngageClient(stub.url, SecretStr(f"{KEY}\n"))
    assert KEY not in str(refused.value)
