"""Whatever a vendor sends, a decoder gives what it is there for or says that it can't, in bounded time and memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treazure_pipeline.clients import answers, engage_wire, movements, wire
from treazure_pipeline.clients.answers import Answer
from treazure_pipeline.clients.decoding import BalanceBlock, decode_balances
from treazure_pipeline.errors import InvalidAnswerError

MOST_BYTES = 64 * 1024 * 1024
SECONDS = 5

NUMBERS = st.sampled_from(
    [
        "1",
        "-0",
        "0.1",
        "1e400000",
        "-1E+99999",
        "NaN",
        "Infinity",
        "9" * 400,
        "0." + "3" * 400,
        "1.",
        "01",
        '"7"',
        '"∞"',
    ]
)
TEXTS = st.text(max_size=40).map(json.dumps) | st.sampled_from(
    [
        '"\\ud83d"',
        '"\\u0000"',
        '"2024-02-30T00:00:00Z"',
        '"9999-12-31T23:59:59.9999999Z"',
        '"[/b]\\u001b[2J"',
        '"x',
        "\\",
    ]
)
NAMES = st.sampled_from(
    ["accountNumber", "balance", "mutationDate", "loyaltyPrograms", "loyaltyPointDefinitionId", "transactions", "date",
     "value", "amount", "type", "receiptNr", "access_token", "expires_in", "href", "links", "data", "items", "id",
     "definitionId", "contactId", "errors", "status", "total"]
)  # fmt: skip


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"


JSON = st.recursive(
    st.sampled_from(["null", "true", '"0b5a0b1e-0000-4000-8000-000000000001"']) | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(st.tuples(NAMES, inner), max_size=6).map(_object)
        | st.lists(inner, max_size=6).map(lambda values: "[" + ",".join(values) + "]")
    ),
    max_leaves=15,
)
NESTED = st.integers(1, 5_000).map(lambda depth: '{"balance":' * depth) | st.integers(1, 5_000).map(lambda n: "[" * n)
BODIES = (JSON | NESTED | st.text(max_size=200)).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(
    max_size=400
)


def _export(body: bytes) -> list[Any]:
    return list(decode_balances(iter([body[:7], body[7:]]), "LOYALTY"))


SENT = engage_wire.encode_balances(["0b5a0b1e-0000-4000-8000-000000000001"], ["1"], 1, datetime(2026, 1, 1, tzinfo=UTC))
READERS: dict[str, Callable[[bytes], Any]] = {
    "export": _export,
    "token": wire.read_token,
    "export's link": wire.read_export_link,
    "export's status": wire.read_export_status,
    "account": lambda body: wire.read_account_balance(body, "LOYALTY"),
    "transaction": lambda body: wire.read_transaction_balance(body, "LOYALTY"),
    "history": movements.read_log,
    "set balances": lambda body: engage_wire.read_balances_answer(body, SENT, None),
    "added points": engage_wire.read_added_answer,
    "contact count": engage_wire.read_contact_count,
    "definitions": engage_wire.read_definitions,
    "point accounts": engage_wire.read_point_accounts,
}


@pytest.mark.parametrize("name", READERS)
def test_bytes_of_any_kind_are_understood_or_refused(name: str) -> None:
    reader = READERS[name]

    @settings(max_examples=100, deadline=timedelta(seconds=SECONDS))
    @given(BODIES)
    def fed(body: bytes) -> None:
        tracemalloc.start()
        try:
            with suppress(InvalidAnswerError):
                for amount in _amounts(answers.read(Answer("treazure", "GET", "/any", 200, {}, body), reader)):
                    assert amount.is_finite()
                    assert wire.is_points(amount)
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        finally:
            tracemalloc.stop()

    fed()


def _amounts(value: object) -> Iterator[Decimal]:
    """All points in what a decoder gave; an export's stand in the text that PostgreSQL copies in."""
    if isinstance(value, Decimal):
        yield value
    elif isinstance(value, BalanceBlock):
        yield from (Decimal(row.split(b"\t")[1].decode()) for row in value.copy_text.splitlines())
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _amounts(one)
    elif isinstance(value, msgspec.Struct):
        yield from _amounts([getattr(value, name) for name in value.__struct_fields__])
    elif is_dataclass(value):
        yield from _amounts([getattr(value, field.name) for field in fields(value)])
