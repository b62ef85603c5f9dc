from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from treazure_pipeline.receiver.app import LARGEST_BODY
from treazure_pipeline_tests.receiver.conftest import Running, event, signed


def body_of(size: int) -> str:
    empty = json.dumps(event(payload={"reason": ""}))
    return json.dumps(event(payload={"reason": "x" * (size - len(empty))}))


def chunks(body: str) -> Iterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000].encode()


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LARGEST_BODY, 202), (LARGEST_BODY + 1, 413), (3 * LARGEST_BODY, 413)])
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
