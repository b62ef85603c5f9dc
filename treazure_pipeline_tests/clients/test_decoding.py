from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treazure_pipeline.clients import decoding
from treazure_pipeline.clients.decoding import RejectedRow, decode_balances
from treazure_pipeline.errors import InvalidAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable

GUID = "5f0c5b5e-2a53-4c0e-9a63-0d8a3c2f7a10"
LOYALTY = "points"

Good = tuple[str, Decimal, datetime | None, int]


def decode(*chunks: bytes) -> tuple[list[Good], list[RejectedRow]]:
    good: list[Good] = []
    rejected: list[RejectedRow] = []
    for block in decode_balances(chunks, LOYALTY):
        lines = block.copy_text.decode().splitlines()
        assert len(lines) == block.rows
        for line in lines:
            contact, balance, mutated_at, position = line.split("\t")
            assert "e" not in balance.lower()
            moment = None if mutated_at == r"\N" else datetime.fromisoformat(mutated_at)
            assert moment is None or moment.tzinfo is not None
            good.append((contact, Decimal(balance), moment, int(position)))
        rejected += block.rejected
    return good, rejected


def row(**fields: Any) -> dict[str, Any]:
    return {"accountNumber": GUID, "loyaltyPointDefinitionId": LOYALTY, "balance": 1, **fields}


def text(*rows: str) -> bytes:
    return f"[{','.join(rows)}]".encode()


def rejection(raw: str) -> RejectedRow:
    good, rejected = decode(text(raw))
    assert good == []
    assert len(rejected) == 1
    return rejected[0]


def test_an_empty_array_is_a_valid_result_without_rows() -> None:
    assert decode(b" [ ] \n") == ([], [])


def test_a_row_keeps_every_digit_of_its_balance() -> None:
    digits = "123456789012345.12345678901234567890"
    good, _ = decode(text(f'{{"accountNumber":"{GUID}","balance":{digits}}}'))
    assert good == [(GUID, Decimal(digits), None, 0)]


def test_an_exponent_becomes_a_plain_number() -> None:
    good, _ = decode(text(f'{{"accountNumber":"{GUID}","balance":-1.5e3}}'))
    assert good == [(GUID, Decimal(-1500), None, 0)]


@pytest.mark.parametrize("written", ['"-12.50"', '" 12.50 "', '"1.25E1"', '"123456789012345.12345678901234567890"'])
def test_a_number_may_come_as_text_beside_others_and_keeps_its_digits(written: str) -> None:
    rows = [f'{{"accountNumber":"{uuid.UUID(int=at)}","balance":{at}}}' for at in range(1, 40)]
    odd = f'{{"accountNumber":"{GUID}","balance":{written}}}'
    good, rejected = decode(text(*rows[:20], odd, *rows[20:]))
    assert rejected == []
    assert [balance for _, balance, _, _ in good[:20] + good[21:]] == list(map(Decimal, range(1, 40)))
    assert good[20][:2] == (GUID, Decimal(written.strip('" ')))


def test_an_export_whose_numbers_are_all_texts_is_read_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("treazure_pipeline.clients.decoding._Rows.judge")
    good, rejected = decode(text(*[f'{{"accountNumber":"{GUID}","balance":"{at}.50"}}' for at in range(100)]))
    assert [balance for _, balance, _, _ in good] == [Decimal(f"{at}.50") for at in range(100)]
    assert rejected == []


def test_an_empty_text_is_null() -> None:
    written = {"accountNumber": "", "contactId": GUID, "loyaltyPointDefinitionId": "", "balance": 1, "mutatedAt": ""}
    assert decode(text(json.dumps(written))) == ([(GUID, Decimal(1), None, 0)], [])


def test_an_upper_case_contact_is_the_same_contact() -> None:
    good, _ = decode(text(json.dumps(row(accountNumber=GUID.upper()))))
    assert good[0][0] == GUID


def test_contact_id_stands_in_for_a_missing_or_null_account_number() -> None:
    rows = [{"contactId": GUID, "balance": 1}, {"accountNumber": None, "contactId": GUID, "balance": 2}]
    good, rejected = decode(json.dumps(rows).encode())
    assert [balance for _, balance, _, _ in good] == [Decimal(1), Decimal(2)]
    assert rejected == []


def test_the_account_number_counts_where_a_row_has_both() -> None:
    other = str(uuid.UUID(int=7))
    rows = [{"contactId": GUID, "balance": 1}, {"contactId": GUID, "accountNumber": other, "balance": 2}]
    good, _ = decode(json.dumps(rows).encode())
    assert [contact for contact, *_ in good] == [GUID, other]


def test_keys_in_any_order_unknown_fields_white_space_and_a_byte_order_mark_do_not_matter() -> None:
    rows = [{"balance": 1.50, "tags": [{"x": "]"}, {}], "accountNumber": GUID, "nested": {"balance": 9}}]
    good, rejected = decode(b"\xef\xbb\xbf \n", json.dumps(rows, indent=4).encode(), b"\r\n")
    assert good == [(GUID, Decimal("1.5"), None, 0)]
    assert rejected == []


def test_of_a_key_written_twice_the_last_value_counts() -> None:
    good, _ = decode(text(f'{{"accountNumber":"x","accountNumber":"{GUID}","balance":1,"balance":2}}'))
    assert good == [(GUID, Decimal(2), None, 0)]


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2024-05-16T12:20:03.807Z", datetime(2024, 5, 16, 12, 20, 3, 807000, UTC)),
        ("2024-05-16T12:20:03", datetime(2024, 5, 16, 12, 20, 3, 0, UTC)),
        ("2024-05-16T12:20:03.1234567Z", datetime(2024, 5, 16, 12, 20, 3, 123456, UTC)),
        ("2024-05-16T14:20:03+02:00", datetime(2024, 5, 16, 12, 20, 3, 0, UTC)),
        ("20240516T122003Z", datetime(2024, 5, 16, 12, 20, 3, 0, UTC)),
        ("2024-02-30T12:20:03Z", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00", None),
        ("0001-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59.9999999Z", None),
        ("", None),
        (None, None),
        (1715861203, None),
    ],
)
def test_a_time_of_mutation_is_read_as_utc_and_one_that_cannot_be_read_is_missing(
    written: object, moment: datetime | None
) -> None:
    good, rejected = decode(text(json.dumps(row(mutatedAt=written))))
    assert good == [(GUID, Decimal(1), moment, 0)]
    assert rejected == []


@pytest.mark.parametrize("definition", [None, "POINTS", "points"])
def test_a_row_without_a_programme_or_with_the_one_asked_for_is_good(definition: str | None) -> None:
    good, _ = decode(text(json.dumps(row(loyaltyPointDefinitionId=definition))))
    assert len(good) == 1


def test_a_row_of_another_programme_is_rejected() -> None:
    refused = rejection(json.dumps(row(loyaltyPointDefinitionId="other")))
    assert (refused.field, refused.value, refused.contact) == ("loyaltyPointDefinitionId", '"other"', GUID)


@pytest.mark.parametrize(
    "balance",
    [
        '"NaN"',
        '"1,5"',
        '"1_000"',
        '"\uff11\uff10"',
        '""',
        '"1 2"',
        '"-"',
        "null",
        "true",
        "[]",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e15",
        "1e400",
        "1e99999999999999999999",
        "0." + "1" * 21,
        "9" * 5000,
    ],
)
def test_a_balance_that_is_no_sane_number_is_rejected_with_what_was_expected(balance: str) -> None:
    refused = rejection(f'{{"accountNumber":"{GUID}","balance":{balance}}}')
    assert (refused.position, refused.contact, refused.field) == (0, GUID, "balance")
    assert refused.value == balance[:200]
    assert "must be a number" in refused.reason
    assert len(refused.raw) <= 2000


def test_a_missing_balance_is_rejected() -> None:
    refused = rejection(f'{{"accountNumber":"{GUID}"}}')
    assert (refused.field, refused.value) == ("balance", "")


@pytest.mark.parametrize(
    "contact",
    [
        f'"{{{GUID}}}"',
        f'"{GUID.replace("-", "")}"',
        f'"{GUID[:-1]}g"',
        f'"{GUID[:-1]}é"',
        f'"{GUID} "',
        '""',
        "12",
        f'"{GUID[:8]}\\n{GUID[9:]}"',
        f'"{GUID[:4]}-{GUID[5:8]}{GUID[4]}{GUID[9:]}"',
    ],
)
def test_a_contact_that_is_no_guid_is_rejected(contact: str) -> None:
    refused = rejection(f'{{"accountNumber":{contact},"balance":1}}')
    assert refused.field == "accountNumber"
    assert "must be a GUID" in refused.reason


@pytest.mark.parametrize("raw", ["1", '"x"', "null", "[]", "NaN"])
def test_a_row_that_is_no_object_is_rejected(raw: str) -> None:
    refused = rejection(raw)
    assert (refused.field, refused.contact, refused.raw) == ("row", None, raw)


def test_what_a_rejected_row_shows_can_be_stored_as_text() -> None:
    refused = rejection('{"accountNumber":"\\u0000\\ud800","balance":1}')
    assert "\x00" not in (refused.contact or "") + refused.value + refused.raw
    (refused.value + (refused.contact or "")).encode()


def test_invalid_utf8_rejects_only_its_row() -> None:
    good, rejected = decode(b'[{"accountNumber":"\xff","balance":1},' + json.dumps(row()).encode() + b"]")
    assert [position for *_, position in good] == [1]
    assert [one.position for one in rejected] == [0]


def test_one_bad_row_among_thousands_is_found_and_the_others_are_good() -> None:
    rows = [json.dumps(row(accountNumber=str(uuid.UUID(int=number)))) for number in range(20_000)]
    rows[12_345] = rows[12_345].replace('"balance": 1', '"balance": NaN')
    rows[3] = '"{"'
    good, rejected = decode(text(*rows))
    assert [position for *_, position in good] == [n for n in range(20_000) if n not in {3, 12_345}]
    assert [one.position for one in rejected] == [3, 12_345]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"\xef\xbb\xbf",
        b"{}",
        b'{"error":"x"}',
        b"<!DOCTYPE html><html></html>",
        b"null",
        b"[",
        b"[}",
        b"[,]",
        b"[1,]",
        b"[1 2]",
        b"[1]]",
        b"[1],[2]",
        b'[{"balance":01}]',
        b'[{"balance":1}',
        b"[[1]",
        b'["x]',
        b"[1] x",
        b"[nul]",
        b'[{"a":1}}]',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1_000_000])
def test_what_is_not_one_complete_array_is_an_invalid_answer(body: bytes, size: int) -> None:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    with pytest.raises(InvalidAnswerError, match="The export"):
        decode(*chunks)


@pytest.mark.parametrize("end", [b"", b"]]", b",]", b"} ]", b"\x00]", b"] [1]"])
def test_a_long_export_with_a_broken_end_is_an_invalid_answer(end: bytes) -> None:
    rows = ",".join([json.dumps(row())] * 5000).encode()
    with pytest.raises(InvalidAnswerError):
        decode(b"[" + rows + end)


def test_a_row_without_an_end_is_given_up_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_ROW_BYTES", 1_000_000)
    served = 0

    def endless() -> Iterable[bytes]:
        nonlocal served
        yield b'[{"accountNumber":"'
        while True:
            served += 1
            yield b"x" * 100_000

    with pytest.raises(InvalidAnswerError):
        list(decode_balances(endless(), LOYALTY))
    assert served < 100


def test_an_error_shows_the_beginning_of_the_body_without_what_looks_secret() -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        decode(b'{"access_token":"abcdef123456"}' + b" padding" * 50)
    assert "access_token" in caught.value.message
    assert "abcdef123456" not in caught.value.message
    assert len(caught.value.message) < 400
    assert "access_token" not in str(caught.value)


def test_postgresql_copies_in_what_was_decoded(empty_database_url: str) -> None:
    written = [
        "2024-05-16T12:20:03.1234567Z",
        "2024-05-16T12:20:03",
        "2024-05-16T23:20:03.5-07:00",
        "0001-01-01T00:00:00Z",
    ]
    rows = [
        row(accountNumber=str(uuid.uuid4()).upper(), balance=1.25, mutatedAt=time) for time in [*written, None, "?"]
    ]
    rows = rows * 5000
    body = json.dumps(rows).encode()
    with psycopg.connect(empty_database_url) as connection, connection.cursor() as cursor:
        cursor.execute("set timezone to 'Asia/Tokyo'; set datestyle to 'SQL, DMY'")
        cursor.execute("create temp table t (contact uuid, balance numeric, mutated_at timestamptz, position bigint)")
        with cursor.copy("copy t from stdin") as copy:
            for block in decode_balances([body], LOYALTY):
                copy.write(block.copy_text)
        cursor.execute(
            "select contact::text, balance, to_char(mutated_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US'), "
            "position from t order by position"
        )
        copied = cursor.fetchall()
    times = [time for _, _, time, _ in decode(body)[0]]
    expected = [None if time is None else f"{time:%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0") for time in times]
    assert copied == [
        (one["accountNumber"].lower(), Decimal("1.25"), expected[position], position)
        for position, one in enumerate(rows)
    ]
    assert expected[:6] == [
        "2024-05-16 12:20:03.123456",
        "2024-05-16 12:20:03.000000",
        "2024-05-17 06:20:03.500000",
        None,
        None,
        None,
    ]


guids = st.uuids().map(str)
contacts = st.one_of(
    guids,
    guids.map(str.upper),
    st.sampled_from(["", "},{", '"},{"', "x" * 36, GUID[:-1], "٣" * 36, "é" * 36, "\n" * 36, None, 5]),
)
balances = st.one_of(
    st.integers(-(10**16), 10**16).map(str),
    st.decimals(-(10**12), 10**12, places=4).map(str),
    st.sampled_from(["1E5", "1e-25", "0.30000000000000004", "-0", "NaN", "Infinity", '"1"', "null", "[{},{}]", "0e9"]),
)
times = st.one_of(
    st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat().replace("+00:00", "Z")),
    st.sampled_from(
        [
            "2024-05-16T12:20:03.8Z",
            "2024-05-16T12:20:03,8Z",
            "2024-05-16 12:20:03Z",
            "2024-05-16T12:20:03.1234567Z",
            "2024-05-16T12:20:03-07:00",
            "2024-05-16",
            "2024-W20-4T12:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "soon",
            "",
            None,
            3,
        ]
    ),
)
odd = st.sampled_from(["1", "[]", '"},{"', "null", "{}", '{"balance":{"a":[{},{}]}}', "-Infinity", '"\\"},{"'])


@st.composite
def raw_rows(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 9)) == 0:
        return draw(odd)
    fields = [
        f'"{draw(st.sampled_from(["accountNumber", "accountNumber", "contactId"]))}":{json.dumps(draw(contacts))}',
        f'"balance":{draw(balances)}',
    ]
    if draw(st.booleans()):
        fields.append(f'"mutatedAt":{json.dumps(draw(times))}')
    if draw(st.booleans()):
        fields.append(
            f'"loyaltyPointDefinitionId":{json.dumps(draw(st.sampled_from([LOYALTY, "POINTS", None, "no"])))}'
        )
    if draw(st.booleans()):
        fields.append(f'"note":{json.dumps(draw(st.sampled_from(["},{", "]", "é€😀", {"a": [{}, {"b": 1}]}])))}')
    space = draw(st.sampled_from(["", " ", "\n  "]))
    return f"{{{space}{f',{space}'.join(draw(st.permutations(fields)))}{space}}}"


class Number(str):
    __slots__ = ()


def reference(rows: list[str]) -> tuple[list[Good], list[tuple[int, str]]]:
    """Decode as plainly as possible: one row after the other, by the standard library."""
    good: list[Good] = []
    rejected: list[tuple[int, str]] = []
    for position, raw in enumerate(rows):
        value = json.loads(raw, parse_int=Number, parse_float=Number, parse_constant=Number)
        if not isinstance(value, dict):
            rejected.append((position, "row"))
            continue
        name = "contactId" if not value.get("accountNumber") and value.get("contactId") else "accountNumber"
        contact = value.get(name)
        if not isinstance(contact, str) or not is_guid(contact):
            rejected.append((position, name))
        elif (value.get("loyaltyPointDefinitionId") or LOYALTY).lower() != LOYALTY:
            rejected.append((position, "loyaltyPointDefinitionId"))
        elif not isinstance(value.get("balance"), str) or not is_sane(Decimal(value["balance"])):
            rejected.append((position, "balance"))
        else:
            good.append((contact.lower(), Decimal(value["balance"]), moment(value.get("mutatedAt")), position))
    return good, rejected


def is_guid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


def is_sane(value: Decimal) -> bool:
    if not value.is_finite():
        return False
    _, _, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return exponent >= -20 and value.adjusted() < 15


def moment(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(value)) if isinstance(value, str) and not isinstance(value, Number) else None
        if time is None or time.year in {1, 9999}:
            return None
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(raw_rows(), max_size=30),
    separator=st.sampled_from([",", ", ", "\n,\n"]),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    block=st.sampled_from([1, 60, 300, 128 * 1024]),
)
def test_any_rows_in_any_chunks_give_what_a_plain_decode_gives(
    rows: list[str], separator: str, sizes: list[int], block: int
) -> None:
    body = f"[{separator.join(rows)}]".encode()
    chunks: list[bytes] = []
    while body:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(body[:size])
        body = body[size:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BLOCK_BYTES", block)
        good, rejected = decode(*chunks)
    assert (good, [(one.position, one.field) for one in rejected]) == reference(rows)
    assert [one.raw for one in rejected] == [rows[one.position][:2000] for one in rejected]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(raw_rows(), min_size=1, max_size=8),
    data=st.data(),
    block=st.sampled_from([1, 100, 128 * 1024]),
)
def test_an_export_cut_short_anywhere_is_an_invalid_answer(rows: list[str], data: st.DataObject, block: int) -> None:
    body = f"[{','.join(rows)}]".encode()
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BLOCK_BYTES", block)
        with pytest.raises(InvalidAnswerError):
            decode(cut)
