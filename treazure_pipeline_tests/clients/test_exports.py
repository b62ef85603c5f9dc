"""Every answer that Treazure's pages allow at an export's link and at its result."""

from __future__ import annotations

import gzip
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from treazure_pipeline.clients.decoding import decode_balances
from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import (
    ExportExpiredError,
    InvalidAnswerError,
    NoAnswerError,
    NotFoundError,
    PermanentError,
    RemoteError,
    TransientError,
)
from treazure_pipeline_tests.clients.conftest import Reply, Stub, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "/identity/connect/token"
EXPORT = "/api/v1.0/LoyaltyVault/Balances/Get"
HREF = "/api/v1.0/LoyaltyVault/Balances/7"
RESULT = f"{HREF}/result"
STORED = "/store/7"
NOON = datetime(2024, 5, 16, 12, tzinfo=UTC)
ROWS = b'[{"accountNumber":"0b5a0b1e-0000-4000-8000-000000000001","balance":1}]'
READY = Reply(200, ROWS)


@pytest.fixture
def treazure(stub: Stub) -> Iterator[TreazureClient]:
    stub.on(TOKEN, answer({"access_token": "one"}))
    with TreazureClient(stub.url, "us", SecretStr("s"), retry=RetryPolicy(scale=0.0001), timeout=10) as client:
        yield client


def fetched(treazure: TreazureClient, href: str = HREF) -> bytes:
    with treazure.open_balances(href) as pieces:
        return b"".join(pieces)


def storage(stub: Stub, path: str = STORED) -> str:
    """The stub under another name is another host to the client."""
    return stub.url.replace("127.0.0.1", "localhost") + path


@pytest.mark.parametrize(
    "reply",
    [
        answer({"href": HREF}),
        answer({"HREF": HREF}),
        answer({"hRef": HREF}, 202),
        answer({"Links": [{"Href": HREF, "Rel": "self"}]}, 201),
        answer({"links": [{"hRef": HREF, "rel": "self", "hRefInfo": {"controller": "Balances"}}]}),
        Reply(200, b"\xef\xbb\xbf" + answer({"href": HREF}).body),
        Reply(202, b"", {"Location": HREF}),
        Reply(204, b"", {"Location": f"BASE{HREF}"}),
        answer({"status": "Accepted"}, 202, Location=HREF),
        Reply(201, b"accepted", {"Location": HREF}),
    ],
)
def test_the_link_of_an_export_is_found_in_every_shape(stub: Stub, treazure: TreazureClient, reply: Reply) -> None:
    headers = {name: value.replace("BASE", stub.url) for name, value in reply.headers.items()}
    stub.on(EXPORT, Reply(reply.status, reply.body, headers))
    stub.on(RESULT, READY)
    assert fetched(treazure, treazure.request_balances("points", NOON, NOON).path) == ROWS


NOT_READY = [
    Reply(202),
    Reply(202, b'{"status":"Queued"}'),
    Reply(204),
    Reply(404),
    Reply(404, b'{"message":"not there yet"}'),
    Reply(409),
    Reply(425),
    Reply(200),
    Reply(200, b"\xef\xbb\xbf \r\n"),
    Reply(200, b'{"status":"Running"}'),
    Reply(200, b'\xef\xbb\xbf{"Status":"InProgress","percent":40}'),
    Reply(200, b'{"state":1,"links":[{"href":"/x"}]}'),
]


@pytest.mark.parametrize("reply", NOT_READY)
def test_what_is_not_ready_is_asked_for_again(stub: Stub, treazure: TreazureClient, reply: Reply) -> None:
    stub.on(RESULT, reply, reply, READY)
    assert fetched(treazure) == ROWS
    assert len(stub.asked_for(RESULT)) == 3


def test_the_wait_for_an_export_ends(stub: Stub, treazure: TreazureClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treazure_pipeline.clients.exports.SHORTEST_PATIENCE_SECONDS", 0.1)
    stub.on(RESULT, Reply(204))
    with pytest.raises(TransientError, match="did not become ready"):
        fetched(treazure)


@pytest.mark.parametrize("body", [b"[]", b" [ ]", b"\xef\xbb\xbf[]", b"\xef\xbb\xbf\n\n" + ROWS])
def test_the_data_are_there_as_soon_as_an_array_comes(stub: Stub, treazure: TreazureClient, body: bytes) -> None:
    stub.on(RESULT, Reply(200, body))
    assert fetched(treazure).removeprefix(b"\xef\xbb\xbf").strip() == body.removeprefix(b"\xef\xbb\xbf").strip()
    assert len(stub.asked_for(RESULT)) == 1


@pytest.mark.parametrize("status", [200, 202, 404, 409])
@pytest.mark.parametrize("word", ["Failed", "FAULTED", "Error", "canceled", "Rejected"])
def test_an_export_that_has_failed_ends_the_wait_with_its_reason(
    stub: Stub, treazure: TreazureClient, status: int, word: str
) -> None:
    stub.on(RESULT, answer({"status": word, "message": "disk full"}, status))
    with pytest.raises(PermanentError, match=f"{word}, disk full"):
        fetched(treazure)
    assert len(stub.asked_for(RESULT)) == 1


@pytest.mark.parametrize("reply", [Reply(410), answer({"status": "Expired"})])
def test_an_export_that_is_gone_has_to_be_requested_again(stub: Stub, treazure: TreazureClient, reply: Reply) -> None:
    stub.on(RESULT, reply)
    with pytest.raises(ExportExpiredError):
        fetched(treazure)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>sign in</html>", {"Content-Type": "text/html"}),
        answer({"message": "secret of Anna"}),
        answer({"status": None}),
        answer("text"),
        Reply(200, b"OK"),
        Reply(200, b"{" + b" " * 300_000),
        Reply(206, ROWS),
        Reply(304),
    ],
)
def test_another_answer_is_described_and_never_quoted(stub: Stub, treazure: TreazureClient, reply: Reply) -> None:
    stub.on(RESULT, Reply(reply.status, reply.body, {**reply.headers, "x-request-id": "r-1"}))
    with pytest.raises(InvalidAnswerError, match="r-1") as caught:
        fetched(treazure)
    assert "Anna" not in str(caught.value)
    assert "accountNumber" not in str(caught.value)


def test_rows_that_are_no_array_are_told_with_the_id_of_the_answer(stub: Stub, treazure: TreazureClient) -> None:
    stub.on(RESULT, Reply(200, ROWS[:-1], {"x-request-id": "r-1"}))
    with (
        pytest.raises(
            InvalidAnswerError, match=r"Balances/7/result \(status 200, request id r-1\): The export is cut short"
        ),
        treazure.open_balances(HREF) as pieces,
    ):
        list(decode_balances(pieces, "points"))


def test_a_path_that_is_never_found_is_called_a_wrong_path(
    stub: Stub, treazure: TreazureClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treazure_pipeline.clients.exports.SHORTEST_WRONG_PATH_SECONDS", 0.1)
    with pytest.raises(NotFoundError, match="path must be wrong"):
        fetched(treazure)
    stub.on(RESULT, *[Reply(404)] * 2, Reply(202), *[Reply(404)] * 8, READY)
    assert fetched(treazure) == ROWS


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_storage_host_is_followed_without_anything_of_ours(
    stub: Stub, treazure: TreazureClient, status: int
) -> None:
    cookie = {"Set-Cookie": "session=1"}
    stub.on(RESULT, Reply(status, headers={"Location": storage(stub) + "?sig=s3cret", **cookie}))
    stub.on(STORED, Reply(404), Reply(302, headers={"Location": STORED + "/b", **cookie}))
    stub.on(f"{STORED}/b", Reply(200, b"\xef\xbb\xbf" + ROWS))
    assert fetched(treazure) == b"\xef\xbb\xbf" + ROWS
    asked = [one for one in stub.asked if one.target.startswith(STORED)]
    assert len(asked) == 3
    for one in asked:
        assert not {"authorization", "apikey", "cookie"} & set(one.headers)
    assert all("authorization" in one.headers for one in stub.asked_for(RESULT))


def test_a_host_elsewhere_that_leads_back_to_treazure_gets_no_token_of_it(stub: Stub, treazure: TreazureClient) -> None:
    stub.on(RESULT, Reply(302, headers={"Location": storage(stub)}))
    stub.on(STORED, Reply(302, headers={"Location": f"{stub.url}/back"}))
    stub.on("/back", READY)
    assert fetched(treazure) == ROWS
    (back,) = stub.asked_for("/back")
    assert "authorization" not in back.headers


@pytest.mark.parametrize(
    "location",
    [
        "http://storage.example/x?sig=s3cret",
        "ftp://storage.example/x",
        "https://u:s3cret@storage.example/x",
    ],
)
def test_a_redirect_that_is_not_safe_is_not_followed(stub: Stub, treazure: TreazureClient, location: str) -> None:
    stub.on(RESULT, Reply(302, headers={"Location": location}))
    with pytest.raises(InvalidAnswerError, match="redirects") as caught:
        fetched(treazure)
    assert "s3cret" not in str(caught.value)


def test_redirects_in_a_circle_end_there_too(stub: Stub, treazure: TreazureClient) -> None:
    stub.on(RESULT, Reply(302, headers={"Location": storage(stub)}))
    stub.on(STORED, Reply(302, headers={"Location": STORED}))
    with pytest.raises(InvalidAnswerError):
        fetched(treazure)
    assert len(stub.asked) < 10


def test_a_link_to_storage_that_has_expired_is_requested_again(stub: Stub, treazure: TreazureClient) -> None:
    stub.on(RESULT, Reply(302, headers={"Location": storage(stub)}), Reply(302, headers={"Location": "/second"}))
    stub.on(STORED, Reply(403, b"<Error>expired</Error>"))
    stub.on("/second", READY)
    assert fetched(treazure) == ROWS


def test_a_storage_host_that_never_takes_its_links_is_named_without_the_signature(
    stub: Stub, treazure: TreazureClient
) -> None:
    stub.on(RESULT, Reply(302, headers={"Location": storage(stub) + "?sig=s3cret"}))
    stub.on(STORED, Reply(403))
    with pytest.raises(TransientError, match="localhost") as caught:
        fetched(treazure)
    assert "s3cret" not in str(caught.value)


def test_cookies_are_neither_kept_nor_sent_back(stub: Stub, treazure: TreazureClient) -> None:
    stub.on(TOKEN, Reply(200, b'{"access_token":"one"}', {"Set-Cookie": "a=1; Path=/"}))
    stub.on(RESULT, Reply(202, headers={"Set-Cookie": "b=2"}), READY)
    fetched(treazure)
    assert not [one for one in stub.asked if "cookie" in one.headers]


@pytest.mark.parametrize(
    ("limit", "value", "error"),
    [("LARGEST_STREAM_BYTES", 100_000, InvalidAnswerError), ("LONGEST_STREAM_SECONDS", -1, NoAnswerError)],
)
def test_an_export_without_end_has_one(
    stub: Stub, treazure: TreazureClient, monkeypatch: pytest.MonkeyPatch, limit: str, value: int,
    error: type[RemoteError],
) -> None:  # fmt: skip
    monkeypatch.setattr(f"treazure_pipeline.clients.transport.{limit}", value)
    packed = gzip.compress(b"[" + b" " * 400_000)
    stub.on(RESULT, Reply(200, packed, {"Content-Encoding": "gzip"}))
    with pytest.raises(error):
        fetched(treazure)


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_unpacks_without_end_is_given_up(
    stub: Stub, treazure: TreazureClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("treazure_pipeline.clients.transport.LARGEST_BODY_BYTES", 100_000)
    packed = gzip.compress(b" " * 5_000_000)
    stub.on(EXPORT, Reply(status, packed, {"Content-Encoding": "gzip"}))
    with pytest.raises(InvalidAnswerError, match="larger than"):
        treazure.request_balances("points", NOON, NOON)


def test_waiting_for_an_export_ends_when_the_run_is_stopped(stub: Stub) -> None:
    stop = threading.Event()
    stop.set()
    stub.on(TOKEN, answer({"access_token": "one"}))
    stub.on(RESULT, Reply(202, headers={"Retry-After": "300"}))
    options: dict[str, Any] = {"retry": RetryPolicy(stop=stop)}
    with TreazureClient(stub.url, "us", SecretStr("s"), **options) as treazure, pytest.raises(TransientError):
        fetched(treazure)
