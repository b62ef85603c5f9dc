from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treazure_pipeline_tests.databases import Databases
from treazure_pipeline_tests.service.conftest import OTHER_SECRET, SECRET, Running, event, serving, signed

BODY = json.dumps(event())
_FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_while_a_secret_is_replaced_both_are_good(database_url: str) -> None:
    with serving(database_url, OTHER_SECRET, SECRET) as running:
        old = running.post(BODY, signed(BODY, "msg_1", secret=OTHER_SECRET))
        new = running.post(BODY, signed(BODY, "msg_2", secret=SECRET))

    assert (old.status_code, new.status_code) == (202, 202)


def test_headers_may_have_the_names_of_the_standard(receiver: Running) -> None:
    headers = {name.replace("svix-", "Webhook-"): value for name, value in signed(BODY).items()}
    assert receiver.post(BODY, headers).status_code == 202
    assert receiver.rows("select delivery_id from adjustment") == [("msg_1",)]
    assert receiver.post(BODY, headers | {"svix-id": "msg_2"}).status_code == 401


def test_one_good_signature_among_several_is_enough(receiver: Running) -> None:
    good, other = signed(BODY), signed(BODY, secret=OTHER_SECRET)
    several = f"v1a,xyz {other['svix-signature']} {good['svix-signature']}"

    assert receiver.post(BODY, good | {"svix-signature": several}).status_code == 202


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: signed(BODY, secret=OTHER_SECRET),  # noqa: ARG005 - one signature for all
        lambda headers: headers | {"svix-id": "msg_2"},
        lambda headers: headers | {"svix-timestamp": str(int(headers["svix-timestamp"]) + 1)},
        lambda headers: headers | {"svix-signature": "v2" + headers["svix-signature"][2:]},
        lambda headers: {name: value for name, value in headers.items() if name != "svix-id"},
        lambda headers: {name: value for name, value in headers.items() if name != "svix-timestamp"},
        lambda headers: {name: value for name, value in headers.items() if name != "svix-signature"},
        lambda headers: {},  # noqa: ARG005
        lambda headers: headers | {"svix-timestamp": "nan"},
        lambda headers: headers | {"svix-timestamp": "inf"},
        lambda headers: headers | {"svix-timestamp": "-1e400"},
        lambda headers: headers | {"svix-signature": "v1"},
        lambda headers: headers | {"svix-signature": "v1,a,b"},
        lambda headers: headers | {"svix-signature": "v1,a"},
        lambda headers: headers | {"svix-signature": "v1,é"},
    ],
)
def test_what_the_sender_did_not_sign_is_refused(
    receiver: Running, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in change(signed(BODY)).items()]

    answer = httpx.post(f"{receiver.url}/webhooks/engage", content=BODY, headers=headers)

    assert answer.status_code in {400, 401}
    assert answer.json()["error"]
    assert receiver.rows("select from adjustment") == []
    assert receiver.rows("select from webhook_kind") == []


def test_an_altered_body_is_refused(receiver: Running) -> None:
    assert receiver.post(BODY.replace("50.0", "5000"), signed(BODY)).status_code == 401


@pytest.mark.parametrize(
    ("off", "status"),
    [
        (timedelta(minutes=-6), 401),
        (timedelta(minutes=6), 401),
        (timedelta(minutes=-4), 202),
        (timedelta(minutes=4), 202),
    ],
)
def test_a_delivery_from_another_time_is_refused(receiver: Running, off: timedelta, status: int) -> None:
    answer = receiver.post(BODY, signed(BODY, at=datetime.now(UTC) + off))

    assert answer.status_code == status


@pytest.fixture(scope="module")
def fuzzed(databases: Databases, ledger_template: str) -> Iterator[Running]:
    """One receiver for all examples, on a database of its own."""
    with databases.new(ledger_template) as name, serving(databases.url(name)) as running:
        yield running


# What a client can put into a header at all: any byte but those that end it.
_VALUES = st.one_of(
    st.binary(max_size=200).map(lambda value: value.translate(None, b"\x00\r\n").strip()),
    st.from_regex(rb"(v1|v1a|v2)?,?[A-Za-z0-9+/=, .-]{0,60}", fullmatch=True),
    st.one_of(st.integers(), st.floats()).map(lambda value: str(value).encode()),
)


@_FUZZ
@given(
    body=st.one_of(st.binary(max_size=2000), st.just(BODY.encode())),
    delivery=_VALUES,
    at=st.one_of(_VALUES, st.just(None)),
    signature=_VALUES,
)
def test_hostile_headers_and_bodies_are_refused_and_nothing_else(
    fuzzed: Running, body: bytes, delivery: bytes, at: bytes | None, signature: bytes
) -> None:
    now = str(int(datetime.now(UTC).timestamp())).encode()
    headers = {"svix-id": delivery, "svix-timestamp": at or now, "svix-signature": signature}

    assert sent_raw(fuzzed, body, headers) in {400, 401}


def sent_raw(running: Running, body: bytes, headers: dict[str, bytes]) -> int:
    """The status of what no proper client would send."""
    address = urlsplit(running.url)
    lines = [b"POST /webhooks/engage HTTP/1.1", b"Host: here", b"Connection: close", b"Content-Length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in headers.items()]
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", body]))
        return int(connection.recv(65536).split(b" ")[1])


_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just("loyalty.addPoints"), st.just("\x00")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=10,
)
_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "eventType": st.one_of(st.just("loyalty.addPoints"), _JSON),
        "id": _JSON,
        "isEncrypted": _JSON,
        "payload": st.one_of(st.dictionaries(st.text(max_size=10), _JSON, max_size=4), _JSON),
    },
)


@_FUZZ
@given(body=st.one_of(_EVENTS.map(json.dumps), _JSON.map(json.dumps), st.text(max_size=500)), number=st.uuids())
def test_whatever_the_sender_signs_finds_its_place(fuzzed: Running, body: str, number: object) -> None:
    answer = fuzzed.deliver(body, f"msg_{number}")

    assert answer.status_code == 202
    assert answer.json()["status"] in {"stored", "repeated", "counted", "dead_letter"}
