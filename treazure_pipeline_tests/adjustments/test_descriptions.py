from __future__ import annotations

import pytest

from treazure_pipeline import texts
from treazure_pipeline.adjustments.processing import LONGEST_DESCRIPTION
from treazure_pipeline.texts import length
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
WHOLE = [
    "e\u0301",  # an accent of its own
    "o\u0323\u0302",  # two of them
    FAMILY,
    SCOTLAND,
    "\U0001f1f3\U0001f1f1",  # the flag of the Netherlands
    "1\ufe0f\u20e3",  # a keycap
    "\U0001f44d\U0001f3fd",  # a thumb with a color
    "\u0915\u093f",  # a Devanagari letter and its vowel
    "❤\ufe0f",
]


def cut(text: str) -> str:
    return texts.cut(text, LONGEST_DESCRIPTION)


@pytest.mark.parametrize("text", ["", "x", "x" * 100, "é" * 100, "\U0001f600" * 50, "x" * 98 + "\U0001f600"])
def test_a_hundred_units_pass_untouched_whatever_their_bytes(text: str) -> None:
    assert cut(text) == text


@pytest.mark.parametrize(("text", "characters"), [
    ("x" * 101, 99), ("é" * 101, 99), ("x" * 5000, 99), ("\U0001f600" * 51, 49), ("x" + "\U0001f600" * 60, 50),
    ("x" * 99 + "\U0001f600", 99), ("x" * 98 + "\U0001f600x", 98),
])  # fmt: skip
def test_what_is_longer_is_cut_to_a_hundred_units_of_which_the_last_is_an_ellipsis(text: str, characters: int) -> None:
    assert cut(text) == text[:characters] + "…"
    assert LONGEST_DESCRIPTION - 1 <= length(cut(text)) <= LONGEST_DESCRIPTION


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("before", range(88, 102))
def test_nothing_is_cut_through_that_is_one_character_to_the_reader(whole: str, before: int) -> None:
    short = cut("x" * before + whole + "y" * 30)
    assert length(short) <= LONGEST_DESCRIPTION
    assert short[-1] == "…"
    left = short[:-1].lstrip("x")
    assert left in {"", whole, *(whole + "y" * n for n in range(12))}


@pytest.mark.parametrize("whole", WHOLE)
def test_a_row_of_the_same_signs_is_cut_between_them(whole: str) -> None:
    short = cut(whole * 60)
    count, rest = divmod(len(short) - 1, len(whole))
    assert rest == 0
    assert short == whole * count + "…"
    assert length(short) + length(whole) > LONGEST_DESCRIPTION


def test_a_letter_with_a_thousand_accents_is_left_out_as_a_whole() -> None:
    assert cut("e" + "\u0301" * 1000) == "…"


@pytest.mark.parametrize(
    "text", ["x" * 100, "x" * 101, "Bedankt voor je bezoek! " * 30, "\U0001f600" * 60, FAMILY * 12]
)
def test_treazure_gets_what_it_takes_and_the_whole_text_is_kept(adjustment_shop: AdjustmentShop, text: str) -> None:
    contact = adjustment_shop.contacts(1)[0]
    number = adjustment_shop.give(contact, 5, description=text)
    done = adjustment_shop.process()
    assert (done.done, done.shortened) == (1, int(length(text) > 100))
    assert adjustment_shop.movements(contact) == [cut(text)]
    assert adjustment_shop.sql("select description from adjustment") == [(text,)]
    ((note,),) = adjustment_shop.sql(
        "select reason from adjustment_transition where adjustment = %s and state = 'queued'", number
    )
    assert note == (None if length(text) <= 100 else "its description was cut to 100 characters")
    assert_each_once(adjustment_shop)


def test_long_descriptions_are_refused_where_the_setting_says_so(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    fine, long = (
        adjustment_shop.give(contact, 5, description="é" * 100),
        adjustment_shop.give(contact, 5, description="\U0001f381" * 51),
    )
    result = adjustment_shop.process(ADJUSTMENT_LONG_DESCRIPTION="reject")
    assert (result.done, result.rejected) == (1, 1)
    assert adjustment_shop.state(fine)[0] == "done"
    state, reason = adjustment_shop.state(long)
    assert state == "rejected"
    assert "102 characters" in str(reason)
    assert "ADJUSTMENT_LONG_DESCRIPTION" in str(reason)
    assert_each_once(adjustment_shop, never=1)


@pytest.mark.parametrize("description", ["null", "17", '["a"]', '{"a": 1}', '"a\\tb\\n\\"c\\"; d"'])
def test_whatever_a_description_is_the_points_are_given(adjustment_shop: AdjustmentShop, description: str) -> None:
    contact = adjustment_shop.contacts(1)[0]
    body = f'{{"contactId":"{contact}","pointDefinitionId":1,"amount":5,"description":{description}}}'
    assert adjustment_shop.deliver(body).is_success
    assert adjustment_shop.process().done == 1
