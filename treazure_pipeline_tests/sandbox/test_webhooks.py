from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest

from treazure_pipeline.sandbox import WEBHOOK_SECRET, Sandbox, sandbox_process
from treazure_pipeline.sandbox.webhooks import sign
from treazure_pipeline_tests.sandbox.caller import Caller, row
from treazure_pipeline_tests.sandbox.receiver import Receiver, running_receiver

GUID = "00000000-0000-0000-0000-0000000000ab"


@pytest.fixture
def receiver(sandbox: Sandbox) -> Iterator[Receiver]:
    with running_receiver() as receiver:
        sandbox.behave(webhook_url=receiver.url, webhook_wait_scale=0)
        yield receiver


def test_a_signature_is_the_published_example() -> None:
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_points_given_arrive_signed_with_all_that_was_said(sandbox: Sandbox, receiver: Receiver) -> None:
    given = sandbox.give_points(
        GUID,
        Decimal("-12.50"),
        definition_id=7,
        description="Schön",
        source="Automation",
        user_id="u",
        user_name="A B",
        reason="r",
        source_id="s",
        event_id="event-1",
    )
    seen = sandbox.wait_until_delivered()
    ((headers, body),) = receiver.got
    assert headers["svix-id"] == given["svix_id"]
    stamp = int(headers["svix-timestamp"])
    assert abs(stamp - time.time()) < 60
    assert headers["svix-signature"] == sign(WEBHOOK_SECRET, given["svix_id"], stamp, body)
    assert b'"amount":-12.50,' in body
    assert receiver.bodies == [
        {
            "eventType": "loyalty.addPoints",
            "id": "event-1",
            "isEncrypted": False,
            "tenant": "sandbox",
            "payload": {
                "amount": -12.5,
                "contactId": GUID,
                "pointDefinitionId": 7,
                "source": "Automation",
                "description": "Schön",
                "userId": "u",
                "userName": "A B",
                "reason": "r",
                "sourceId": "s",
            },
        }
    ]
    assert (seen["messages"], seen["delivered"], seen["outcomes"]) == (1, 1, {"200": 1})


def test_an_event_without_an_id_is_known_by_its_message(sandbox: Sandbox, receiver: Receiver) -> None:
    given = sandbox.give_points(GUID, 1, event_id="")
    sandbox.wait_until_delivered()
    assert given["event_id"] == given["svix_id"]
    assert "id" not in receiver.bodies[0]


def test_what_is_not_received_is_sent_again_under_the_same_id_with_a_new_signature(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    receiver.answers = [503, 0, 301, 400]
    given = sandbox.give_points(GUID, 1)
    seen = sandbox.wait_until_delivered()
    assert receiver.ids == [given["svix_id"]] * 5
    assert len({body for _, body in receiver.got}) == 1
    for headers, body in receiver.got:
        stamp = int(headers["svix-timestamp"])
        assert headers["svix-signature"] == sign(WEBHOOK_SECRET, given["svix_id"], stamp, body)
    (message,) = seen["last"]
    assert [send["outcome"] for send in message["sends"]] == ["503", "RemoteProtocolError", "301", "400", "200"]
    assert (message["state"], message["tries"]) == ("delivered", 5)


def test_after_eight_tries_a_message_is_given_up_and_can_be_sent_again_by_hand(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    receiver.answers = [500] * 8
    given = sandbox.give_points(GUID, 1)
    assert sandbox.wait_until_delivered()["failed"] == 1
    assert len(receiver.got) == 8
    sandbox.redeliver(given["svix_id"])
    seen = sandbox.wait_until_delivered()
    assert (seen["failed"], seen["delivered"]) == (0, 1)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        sandbox.redeliver("msg_unknown")


def test_the_next_try_comes_when_its_time_has_come(sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.behave(webhook_wait_scale=1)
    receiver.answers = [500] * 7
    sandbox.give_points(GUID, 1)
    for tries, seconds in enumerate((5, 300, 1800, 7200, 18_000, 36_000, 36_000), 1):
        while sandbox.deliveries()["last"][0]["tries"] < tries:
            time.sleep(0.01)
        assert not sandbox.deliveries()["idle"]
        sandbox.move_clock(seconds)
    sandbox.wait_until_delivered()
    assert len(receiver.got) == 8


def test_an_answer_that_comes_too_late_is_none(sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.behave(webhook_timeout=0.2)
    receiver.hold.clear()
    sandbox.give_points(GUID, 1)
    while not sandbox.deliveries()["outcomes"]:
        time.sleep(0.01)
    receiver.hold.set()
    seen = sandbox.wait_until_delivered()
    assert seen["outcomes"]["ReadTimeout"] >= 1
    assert seen["delivered"] == 1


def test_one_message_can_be_delivered_many_times_at_once(sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.behave(webhook_concurrency=50)
    given = sandbox.give_points(GUID, 1)
    sandbox.wait_until_delivered()
    receiver.hold.clear()
    sandbox.redeliver(given["svix_id"], times=50)
    while len(receiver.got) < 51:
        time.sleep(0.01)
    receiver.hold.set()
    assert sandbox.wait_until_delivered()["outcomes"] == {"200": 51}
    assert set(receiver.ids) == {given["svix_id"]}


def test_each_fault_of_a_delivery_sends_the_same_message_again(sandbox: Sandbox, receiver: Receiver) -> None:
    sent = []
    for name, parameters in (
        ("delivered_twice", {}),
        ("delivered_again_later", {"seconds": 0}),
        ("webhook_answer_lost", {}),
    ):
        sandbox.set_fault(name, **parameters)
        sent.append(sandbox.give_points(GUID, 1)["svix_id"])
        sandbox.wait_until_delivered()
    assert Counter(receiver.ids) == dict.fromkeys(sent, 2)
    lost = sandbox.deliveries(svix_id=sent[2])["last"][0]
    assert [send["outcome"] for send in lost["sends"]] == ["answer lost", "200"]
    assert sandbox.deliveries()["delivered"] == 3


def test_messages_come_in_order_from_one_thread_and_out_of_it_by_a_fault(sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.behave(webhook_concurrency=1)
    given = sandbox.give_points_many([{"contact_id": GUID, "amount": number} for number in range(30)])
    sandbox.wait_until_delivered()
    assert receiver.ids == [message["svix_id"] for message in given]
    receiver.got.clear()
    sandbox.set_fault("delivery_out_of_order", seconds=0.3)
    first, second = sandbox.give_points_many([{"contact_id": GUID, "amount": number} for number in (1, 2)])
    sandbox.wait_until_delivered()
    assert receiver.ids == [second["svix_id"], first["svix_id"]]


def test_an_encrypted_event_hides_its_payload(sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.set_fault("encrypted")
    sandbox.give_points(GUID, 1, event_id="e")
    sandbox.wait_until_delivered()
    (body,) = receiver.bodies
    assert (body["isEncrypted"], body["id"], type(body["payload"])) == (True, "e", str)
    assert GUID not in str(body)


def test_faults_of_webhooks_and_of_requests_are_kept_apart(sandbox: Sandbox) -> None:
    for name, on in (("encrypted", "transaction"), ("slow", "webhooks"), ("lost_after", "balance_webhook")):
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            sandbox.set_fault(name, on=[on])


def test_a_balance_that_engage_has_applied_is_announced_once(
    sandbox: Sandbox, receiver: Receiver, caller: Caller, contacts: list[str]
) -> None:
    caller.set_balances([row(contacts[0], 1)])
    sandbox.behave(balance_events=True, apply_delay=0.2)
    caller.set_balances([row(contacts[0], 1), row(contacts[1], 2.5)])
    seen = sandbox.wait_until_delivered()
    (account,) = caller.engage("GET", f"/api/v2/point-accounts?contactId={contacts[1]}").json()["items"]
    (body,) = receiver.bodies
    assert (body["eventType"], body["isEncrypted"]) == ("point.balance.updated", False)
    assert body["payload"] == {
        "balance": 2.5,
        "contactId": contacts[1],
        "accountId": account["id"],
        "definitionId": 1,
        "balanceExpires": None,
    }
    assert seen["delivered"] == 1


def test_of_what_is_settled_the_newest_thousand_is_kept_and_all_is_counted(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    sandbox.give_points_many([{"contact_id": GUID, "amount": 1} for _ in range(1100)])
    seen = sandbox.wait_until_delivered()
    assert (seen["messages"], seen["delivered"], len(set(receiver.ids))) == (1100, 1100, 1100)
    assert len(sandbox.deliveries(limit=5000)["last"]) == 1000


def test_without_a_receiver_nothing_can_be_given(sandbox: Sandbox) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        sandbox.give_points(GUID, 1)


def test_a_receiver_that_is_down_is_tried_again(sandbox: Sandbox) -> None:
    with running_receiver() as gone:
        sandbox.behave(webhook_url=gone.url, webhook_wait_scale=0)
    sandbox.give_points(GUID, 1)
    seen = sandbox.wait_until_delivered()
    assert (seen["failed"], seen["outcomes"]) == (1, {"ConnectError": 8})


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_x", "c2FuZGJveA=="])
def test_a_secret_that_is_none_is_refused_and_never_shown(sandbox: Sandbox, secret: str) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        sandbox.behave(webhook_secret=secret)
    assert WEBHOOK_SECRET not in str(sandbox.behave())


@pytest.mark.slow
def test_the_command_line_says_where_webhooks_go_and_what_signs_them() -> None:
    secret = "whsec_YW5vdGhlciBzZWNyZXQ="
    with (
        running_receiver() as receiver,
        sandbox_process("--webhook-url", receiver.url, "--webhook-secret", secret) as sandbox,
    ):
        given = sandbox.give_points(GUID, 1)
        sandbox.wait_until_delivered()
        ((headers, body),) = receiver.got
        assert headers["svix-signature"] == sign(secret, given["svix_id"], int(headers["svix-timestamp"]), body)
