from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treazure_pipeline.clients.answers import retry_after_seconds
from treazure_pipeline.clients.pacing import VENDOR_WAITS, RetryPolicy
from treazure_pipeline.clients.transport import excerpt
from treazure_pipeline.errors import Call, RateLimitedError, TransientError
from treazure_pipeline.people import redacted

NOON = datetime(2024, 5, 16, 12, tzinfo=UTC)


def transient(kind: type[TransientError] = TransientError, retry_after: float | None = None) -> TransientError:
    error = kind("busy.", Call("engage", "GET", "/x", 503))
    error.retry_after = retry_after
    return error


class Failing:
    """Fails as told, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_the_waits_are_the_vendors_scaled_and_spread_a_little_upwards() -> None:
    policy = RetryPolicy(scale=0.5)
    for failures, wait in enumerate(VENDOR_WAITS, 1):
        assert wait / 2 <= policy.wait_after(failures) <= wait / 2 * 1.1
    assert 150 <= policy.wait_after(9) <= 165
    assert policy.attempts == 5


def test_a_wait_is_never_shorter_than_the_system_asked_for() -> None:
    assert RetryPolicy(scale=0.001).wait_after(1, transient(retry_after=120)) == 120
    assert RetryPolicy().wait_after(4, transient(retry_after=120)) >= 300


def test_a_call_is_made_until_it_succeeds_and_no_longer() -> None:
    call = Failing(*[transient()] * 4)
    assert RetryPolicy(scale=0).call(call) == 5
    call = Failing(*[transient()] * 5)
    with pytest.raises(TransientError):
        RetryPolicy(scale=0).call(call)
    assert call.calls == 5


def test_without_waits_a_call_is_made_once_even_if_told_to_come_later() -> None:
    for error in (transient(), transient(RateLimitedError)):
        call = Failing(error)
        with pytest.raises(TransientError):
            RetryPolicy(waits=()).call(call)
        assert call.calls == 1


def test_a_stopped_run_does_not_wait() -> None:
    stop = threading.Event()
    stop.set()
    call = Failing(transient(retry_after=800))
    with pytest.raises(TransientError):
        RetryPolicy(stop=stop).call(call)
    assert call.calls == 1


def test_a_wait_under_way_ends_when_the_run_is_stopped() -> None:
    stop = threading.Event()
    call = Failing(transient())

    def stopping() -> int:
        threading.Timer(0.05, stop.set).start()
        return call()

    with pytest.raises(TransientError):
        RetryPolicy(stop=stop).call(stopping)
    assert call.calls == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 1.5 ", 1.5),
        ("0", 0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("9" * 400, 900),
        ("Thu, 16 May 2024 12:01:00 GMT", 60),
        ("Thu, 16 May 2024 11:00:00 GMT", 0),
        ("Fri, 17 May 2024 12:00:00 GMT", 900),
        ("Thu, 16 May 2024 12:01:00", 60),
        ("Thu, 99 May 2024 12:01:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOON) == seconds


@given(st.text(max_size=60))
def test_no_header_breaks_the_reading_of_retry_after(header: str) -> None:
    seconds = retry_after_seconds(header, NOON)
    assert seconds is None or 0 <= seconds <= 900


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer HIDE",
        '"client_secret":"HIDE"',
        "client_secret=HIDE&x=1",
        "{'apikey': 'HIDE'}",
        "api-key: HIDE",
        '{"access_token" : "HIDE"}',
        "password=HIDE",
        "eyJhbGciOi.eyJzdWIi.HIDE",
        "whsec_HIDE",
        "known HIDE value",
    ],
)
def test_what_is_or_looks_like_a_secret_is_cut_out(text: str) -> None:
    assert "HIDE" not in redacted(text, ["known HIDE value"])


@given(st.binary(max_size=300))
def test_an_excerpt_is_one_short_printable_line(body: bytes) -> None:
    shown = excerpt(body)
    assert shown.isprintable()
    assert len(shown) <= 83
