from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treazure_pipeline.clients.shapes import fits, shape, value_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[]", "[]"),
        ('{"expires_in": "3600"}', "{expires_in: number as text}"),
        ('[{"a": 1, "b": 1.5}, {"a": null}]', "[{a: integer | null, b?: decimal}] x 2"),
        ('"0B5A0B1E-0000-4000-8000-000000000001"', "GUID in upper case"),
        ('["2026-01-01T00:00:00.1234567Z", "2026-01-01", ""]',
         "[date | empty text | time (7 digits of a second, Z)] x 3"),
        ('{"Kim Example": true}', "{…: boolean}"),
    ],
)  # fmt: skip
def test_a_body_is_shown_by_its_kinds(body: str, expected: str) -> None:
    assert shape(json.loads(body)) == expected


def test_of_an_array_that_was_cut_short_the_whole_rows_count() -> None:
    assert value_of(b'\xef\xbb\xbf[{"a": 1}, {"a": 2}, {"a') == [{"a": 1}, {"a": 2}]


SECRET = st.text(alphabet="§¶", min_size=3)
VALUES = st.recursive(
    SECRET | st.integers(min_value=10**9) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b c", "§§§§"]), inner, max_size=4)
    ),
)


@given(VALUES)
def test_no_text_and_no_number_of_an_answer_is_shown(value: Any) -> None:
    shown = shape(value)
    assert "§" not in shown
    assert "¶" not in shown
    assert not any(len(word) > 8 for word in "".join(c if c.isdigit() else " " for c in shown).split())


def test_a_pattern_names_what_must_be_there() -> None:
    assert fits([{"balance": 1.5, "more": 1}], [{"balance": "decimal|integer"}])
    assert not fits([{"balance": "1.5"}], [{"balance": "decimal|integer"}])
    assert not fits({"items": []}, [{"balance": "decimal"}])
