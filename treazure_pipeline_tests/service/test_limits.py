from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from treazure_pipeline.service.limits import LIMITS, Limits
from treazure_pipeline_tests.service.conftest import Running, event, serving, signed

SMALL = Limits(connections=12, connections_of_one=5, request_time=1, idle_time=1)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


def body_of(size: int) -> str:
    empty = json.dumps(event(payload={"reason": ""}))
    return json.dumps(event(payload={"reason": "x" * (size - len(empty))}))


def connected(running: Running, source: str = "127.0.0.1") -> socket.socket:
    address = urlsplit(running.url)
    return socket.create_connection((address.hostname, address.port), timeout=30, source_address=(source, 0))


def ended(connection: socket.socket) -> bool:
    """Whether the receiver ends the connection; a timeout is raised where it does not."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def healthy(running: Running, source: str) -> bool:
    with connected(running, source) as connection:
        connection.sendall(HEALTH)
        return connection.recv(100).startswith(b"HTTP/1.1 200")


@pytest.fixture
def small(database_url: str) -> Iterator[Running]:
    """A receiver with few places and little time."""
    with serving(database_url, limits=SMALL) as running:
        yield running


def chunks(body: str) -> Iterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000].encode()


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LIMITS.body, 202), (LIMITS.body + 1, 413), (3 * LIMITS.body, 413)])
def test_a_body_of_256_kib_is_the_largest(receiver: Running, size: int, status: int, *, in_chunks: bool) -> None:
    body = body_of(size)

    answer = httpx.post(
        f"{receiver.url}/webhooks/engage", content=chunks(body) if in_chunks else body, headers=signed(body)
    )

    assert len(body) == size
    assert answer.status_code == status
    assert receiver.rows("select count(*) from adjustment") == [(1 if status == 202 else 0,)]


def test_a_body_without_end_is_cut_off(receiver: Running) -> None:
    address = urlsplit(receiver.url)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"POST /webhooks/engage HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe, as the system likes
            connection.sendall(chunk * 4096)

    assert receiver.get("/healthz").status_code == 200


@pytest.mark.parametrize("length", [b"999999999999", b"9" * 30])
def test_a_body_that_is_announced_as_endless_is_refused_unread(receiver: Running, length: bytes) -> None:
    address = urlsplit(receiver.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"POST /webhooks/engage HTTP/1.1\r\nHost: here\r\nContent-Length: " + length + b"\r\n\r\n")
        answer = connection.recv(1000)

    assert answer.split(b" ")[1] in {b"400", b"413"}


def test_a_body_that_does_not_come_is_not_waited_for(receiver: Running) -> None:
    address = urlsplit(receiver.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(b"POST /webhooks/engage HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\nhalf")
        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/webhooks/engage", 405),
        ("PUT", "/webhooks/engage", 405),
        ("POST", "/healthz", 405),
        ("POST", "/webhooks/engage/", 404),
        ("POST", "/", 404),
        ("GET", "/docs", 404),
    ],
)
def test_there_is_nothing_else(receiver: Running, method: str, path: str, status: int) -> None:
    assert httpx.request(method, receiver.url + path).status_code == status


@pytest.mark.parametrize("one", [b"X-Long: " + b"x" * 500_000, b"X-Many: x\r\n" * 50_000], ids=["long", "many"])
def test_headers_without_end_are_cut_off(receiver: Running, one: bytes) -> None:
    sent = 0
    with connected(receiver) as connection:
        connection.sendall(b"POST /webhooks/engage HTTP/1.1\r\nHost: here\r\n")
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset or broken pipe; so much is in no buffer between
            for _ in range(100):
                connection.sendall(one)
                sent += len(one)

    assert sent < 50_000_000
    assert receiver.get("/healthz").status_code == 200


def test_idle_connections_shut_nobody_out(small: Running) -> None:
    idle = [connected(small, f"127.0.0.{number % 7 + 2}") for number in range(100)]
    try:
        assert healthy(small, "127.0.0.9")
        assert healthy(small, "127.0.0.2")
    finally:
        for connection in idle:
            connection.close()


def test_a_flood_of_one_address_leaves_others_served(small: Running) -> None:
    flood = [connected(small, "127.0.0.2") for _ in range(50)]
    for connection in flood[-5:]:
        connection.sendall(b"POST /webhooks/engage HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\nhalf")
    try:
        with connected(small, "127.0.0.2") as one_more:
            assert ended(one_more), "all places of its address are at work"
        assert healthy(small, "127.0.0.3")
    finally:
        for connection in flood:
            connection.close()


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"POST /webhooks/engage HTTP/1.1\r\nHo",
        HEALTH,
        HEALTH + b"GET",
        b"POST /nowhere HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nothing", "half a header", "one request", "one and a half", "a body that nobody reads"],
)
def test_a_connection_that_does_not_go_on_is_ended(small: Running, begin: bytes) -> None:
    with connected(small) as connection:
        connection.sendall(begin)
        assert ended(connection)


def test_answers_that_nobody_takes_are_given_up(small: Running) -> None:
    with connected(small) as connection:
        with pytest.raises(OSError):  # noqa: PT011, PT012 - its send buffer is full, then the connection is reset
            while True:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 100)
        assert healthy(small, "127.0.0.1")


def test_a_connection_serves_one_request_after_the_other(small: Running) -> None:
    with connected(small) as connection:
        connection.sendall(HEALTH * 3)
        answers = b""
        while answers.count(b'{"status":"ok"}') < 3:
            answers += connection.recv(1000)


def test_a_number_without_end_is_a_dead_letter(receiver: Running) -> None:
    number = "1" * 10_001
    body = f'{{"eventType":"loyalty.addPoints","id":"evt_1","payload":{{"amount":{number}}}}}'

    assert receiver.deliver(body).json() == {"status": "dead_letter"}
