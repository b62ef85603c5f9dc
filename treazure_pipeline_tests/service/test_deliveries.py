from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.adjustments.processing import LONGEST_DESCRIPTION, SenselessError, sense
from treazure_pipeline.adjustments.queue import receipt_of
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.texts import clean, length
from treazure_pipeline_tests.service.conftest import SECRET, Running, event, serving, signed

A = "0b5a0b1e-0000-4000-8000-00000000000a"


def test_an_adjustment_is_stored_as_it_came_before_it_is_acknowledged(receiver: Running) -> None:
    body = """{"eventType": "loyalty.addPoints", "id": "evt_1", "isEncrypted": false,
               "payload": {"amount": 0.1234567890123456789012345, "contactId": "none", "reason": "\\u00e9t\\u00e9"}}"""

    answer = receiver.deliver(body, "msg_1")

    assert (answer.status_code, answer.json()) == (202, {"status": "stored"})
    assert receiver.rows(
        "select event_id, delivery_id, source, state, receipt, (payload->'amount')::numeric, payload->>'reason' "
        "from adjustment"
    ) == [
        (
            "evt_1",
            "msg_1",
            "webhook",
            "received",
            receipt_of("evt_1"),
            Decimal("0.1234567890123456789012345"),
            "été",
        )
    ]


def test_the_same_event_delivered_fifty_times_at_once_is_one_adjustment(receiver: Running) -> None:
    body = json.dumps(event())

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: receiver.post(body, signed(body)), range(50)))

    assert {answer.status_code for answer in answers} == {202}
    outcomes = [answer.json()["status"] for answer in answers]
    assert (outcomes.count("stored"), outcomes.count("repeated")) == (1, 49)
    assert receiver.rows("select count(*) from adjustment") == [(1,)]
    assert receiver.rows("select event_type, received from webhook_kind") == [("loyalty.addPoints", 50)]


def test_the_same_event_under_other_delivery_ids_is_one_adjustment(receiver: Running) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda number: receiver.deliver(event(), f"msg_{number}"), range(20)))

    assert {answer.status_code for answer in answers} == {202}
    assert receiver.rows("select event_id from adjustment") == [("evt_1",)]


def test_events_in_every_spelling_and_with_any_text_are_queued_or_rejected_and_never_lost(receiver: Running) -> None:
    cases = json.loads((Path(__file__).parent / "data" / "events.json").read_text())
    for number, case in enumerate(cases):  # each an event of its own: the file gives most of them one id
        given = {name: f"e-{number}" if name.casefold() in {"id", "eventid"} else value
                 for name, value in case["event"].items()}  # fmt: skip
        assert receiver.deliver(given, f"msg_{number}").json() == {"status": "stored"}
    assert receiver.rows("select from dead_letter") == []
    with Ledger(receiver.database_url) as ledger:
        events = queue.received(ledger)
    account = Account(1, "points", "LOYALTY", 1, datetime(2000, 1, 1, tzinfo=UTC), "live")
    for event_, case in zip(events, cases, strict=True):
        expected = case["expected"]
        if expected.startswith("rejected"):
            with pytest.raises(SenselessError):
                sense(event_, {1: account}, refuse_long=False)
            continue
        values = sense(event_, {1: account}, refuse_long=False)
        assert values["contact"] == "0b5a0b1e-0000-4000-8000-000000000001"
        assert values["amount"] == Decimal("10.50" if "10.50" in expected else 10)
    texts = [event_.payload["description"] for event_ in events]
    assert texts[:2] == ["half \N{REPLACEMENT CHARACTER}", "nul  x"]
    comments = [sense(event_, {1: account}, refuse_long=False)["comment"] for event_ in events[2:4]]
    assert comments == ["\U0001f381" * 49 + "…", "x" * texts[3].count("x") + "…"]
    assert max(map(length, comments)) <= LONGEST_DESCRIPTION


SPELLINGS: list[object] = [
    {"eventType": "loyalty.addPoints", "id": "evt_1",
     "payload": {"amount": 10.5, "contactId": A, "pointDefinitionId": 1}},
    {"EventType": "Loyalty.AddPoints", "EventId": "evt_1", "IsEncrypted": "false",
     "Payload": {"Amount": "10.50", "ContactId": A.upper(), "PointDefinitionId": "1"}},
    {"EVENTTYPE": "loyalty.addpoints", "eventId": "evt_1", "id": None,
     "PAYLOAD": {"amount": 1.05e1, "ContactID": f" {A} ", "pointdefinitionid": 1.0, "Description": "\0"}},
    (f'\N{BOM}{{"id": "evt_1", "eventType": "loyalty.addPoints", '
    f'"payload": {{"amount": 10.50, "contactId": "{A}", "pointDefinitionId": 1}}}}'),
]  # fmt: skip


@pytest.mark.parametrize("first", range(len(SPELLINGS)))
def test_the_same_event_in_another_spelling_is_the_same_adjustment(receiver: Running, first: int) -> None:
    ordered = [*SPELLINGS[first:], *SPELLINGS[:first]]
    answers = [receiver.deliver(spelling, f"msg_{number}") for number, spelling in enumerate(ordered)]
    assert [answer.json()["status"] for answer in answers] == ["stored", "repeated", "repeated", "repeated"]
    stored = receiver.rows("select event_id, receipt, payload->'amount', payload->'pointDefinitionId' from adjustment")
    assert stored == [("evt_1", receipt_of("evt_1"), 10.5, 1)]
    assert receiver.rows("select event_type, received from webhook_kind") == [("loyalty.addPoints", 4)]


def test_an_encrypted_event_is_told_in_every_spelling(receiver: Running) -> None:
    answer = receiver.deliver({"EventType": "Loyalty.AddPoints", "IsEncrypted": "True", "Payload": {"Amount": 1}})
    assert answer.json() == {"status": "dead_letter"}
    [(reason,)] = receiver.rows("select reason from dead_letter")
    assert "encrypted" in reason


def test_another_event_under_an_id_seen_before_is_kept_and_each_of_them_counts_once(receiver: Running) -> None:
    contact = event()["payload"]["contactId"]
    asked = [(50.0, contact, 1), (7, contact, 1), (50, contact.replace("5", "6"), 1), (50, contact, 2)]
    events = [event(payload={"amount": a, "contactId": c, "pointDefinitionId": d}) for a, c, d in asked]
    again = event(payload={"amount": 50, "contactId": contact.upper(), "pointDefinitionId": 1, "reason": "the same"})

    with ThreadPoolExecutor(40) as threads:
        list(threads.map(lambda n: receiver.deliver([*events, again][n % 5], f"msg_{n}"), range(40)))

    kept = receiver.rows(
        "select (payload->'amount')::numeric, lower(payload->>'contactId'), payload->'pointDefinitionId' "
        "from adjustment"
    )
    assert sorted(kept) == sorted((Decimal(a), c, d) for a, c, d in asked)
    assert receiver.rows("select count(distinct receipt) from adjustment") == [(4,)]


@pytest.mark.parametrize("event_id", [None, "", {"a": 1}])
def test_an_event_without_an_id_is_identified_by_its_delivery(receiver: Running, event_id: object) -> None:
    content = {**event(), "id": event_id}

    answers = [receiver.deliver(content, delivery).json() for delivery in ("msg_1", "msg_2", "msg_1")]

    assert [answer["status"] for answer in answers] == ["stored", "stored", "repeated"]
    assert receiver.rows("select event_id from adjustment order by 1") == [("msg_1",), ("msg_2",)]


def test_different_events_at_once_are_all_stored(receiver: Running) -> None:
    with ThreadPoolExecutor(30) as threads:
        answers = list(
            threads.map(lambda number: receiver.deliver(event(f"evt_{number}"), f"msg_{number}"), range(300))
        )

    assert [answer.json()["status"] for answer in answers] == ["stored"] * 300
    assert receiver.rows("select count(distinct event_id) from adjustment") == [(300,)]


def test_an_invalid_event_is_still_queued_for_the_job_to_judge(receiver: Running) -> None:
    answer = receiver.deliver(event(payload={"amount": "many", "contactId": 7}))

    assert answer.json() == {"status": "stored"}
    assert receiver.rows("select payload from adjustment") == [({"amount": "many", "contactId": 7},)]


def test_events_of_other_types_are_acknowledged_and_counted(receiver: Running) -> None:
    for number, kind in enumerate(["point.balance.updated", "point.balance.updated", "contact.created"]):
        answer = receiver.deliver(event(kind=kind), f"msg_{number}")
        assert (answer.status_code, answer.json()) == (202, {"status": "counted"})

    assert receiver.rows("select event_type, received, last_at is not null from webhook_kind order by 1") == [
        ("contact.created", 1, True),
        ("point.balance.updated", 2, True),
    ]
    assert receiver.rows("select from adjustment") == []
    assert receiver.rows("select from dead_letter") == []


def test_an_encrypted_event_is_kept_as_a_dead_letter(receiver: Running) -> None:
    body = json.dumps(event(isEncrypted=True, payload="b3BhcXVl"))

    answers = [receiver.deliver(body), receiver.deliver(body)]

    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(202, "dead_letter")] * 2
    [(delivery, reason, kept)] = receiver.rows("select delivery_id, reason, body from dead_letter")
    assert (delivery, kept) == ("msg_1", body)
    assert "encrypted" in reason
    assert receiver.rows("select from adjustment") == []
    assert receiver.rows("select received from webhook_kind") == [(2,)]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        '{"eventType": 7}',
        '{"eventType": ""}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1"}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": null}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": [{"amount": 1}]}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"amount": NaN}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"amount": 1e999999}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"amount": 1, "sourceId": -1e-100001}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"amount": 1, "sourceId": 1e100001}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"amount": 1, "sourceId": ['
        + ",".join(["1e5000"] * 3)
        + "]}}",
        '{"eventType": "loyalty.addPoints", "id": 1e999999999, "payload": {"amount": 1}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"amount": 1e99999999999999999999}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_\\ud800", "payload": {"amount": 1}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_\\u0000", "payload": {"amount": 1}}',
        '{"eventType": "loyalty.add\\u0000", "payload": {}}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": {"a": "\x00"}}',
        "\x00",
        '{"eventType": "loyalty.addPoints", "id": "' + "x" * 5000 + '", "payload": {}}',
        '{"eventType": "' + "x" * 5000 + '"}',
        '{"eventType": "loyalty.addPoints", "id": "evt_1", "payload": ' + '{"a":' * 20_000 + "1" + "}" * 20_001,
        "[" * 200_000,
    ],
)
def test_what_is_rightly_signed_but_unreadable_is_a_dead_letter(receiver: Running, body: str) -> None:
    answer = receiver.deliver(body)

    assert (answer.status_code, answer.json()) == (202, {"status": "dead_letter"})
    [(reason, kept)] = receiver.rows("select reason, body from dead_letter")
    assert reason
    assert kept == clean(body)
    assert receiver.rows("select from adjustment") == []


def test_one_event_that_can_not_be_stored_does_not_harm_those_that_arrive_with_it(receiver: Running) -> None:
    def deliver(number: int) -> str:
        amount = "1e999999" if number % 10 == 0 else "1"
        body = f'{{"eventType": "loyalty.addPoints", "id": "evt_{number}", "payload": {{"amount": {amount}}}}}'
        answer = receiver.deliver(body, f"msg_{number}")
        return str(answer.json()["status"])

    with ThreadPoolExecutor(40) as threads:
        outcomes = list(threads.map(deliver, range(200)))

    assert outcomes == ["stored" if number % 10 else "dead_letter" for number in range(200)]
    assert receiver.rows("select count(*) from adjustment") == [(180,)]
    assert receiver.rows("select count(*) from dead_letter") == [(20,)]


def test_two_receivers_at_once_store_each_event_once(receiver: Running, database_url: str) -> None:
    with serving(database_url) as second, ThreadPoolExecutor(40) as threads:
        answers = list(
            threads.map(
                lambda number: (receiver, second)[number % 2].deliver(
                    event(f"evt_{number // 4}"), f"msg_{number // 4}"
                ),
                range(400),
            )
        )

    outcomes = [answer.json()["status"] for answer in answers]
    assert (outcomes.count("stored"), outcomes.count("repeated")) == (100, 300)
    assert receiver.rows("select count(*) from adjustment") == [(100,)]


def test_no_answer_names_a_secret_or_what_serves_it(receiver: Running) -> None:
    answers = [receiver.deliver(event()), receiver.post(b"{}", {}), receiver.get("/metrics"), receiver.get("/readyz")]

    for answer in answers:
        shown = answer.text + repr(answer.headers)
        assert SECRET.removeprefix("whsec_") not in shown
        assert "5f0c11f0" not in shown
        assert "server" not in answer.headers
