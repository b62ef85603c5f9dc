from __future__ import annotations

import io

import pytest
from rich.table import Table

from treazure_pipeline import people
from treazure_pipeline.errors import Call, PermanentError, PipelineError
from treazure_pipeline.terminal import output


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("refused.", "refused."),
        (f"refused; it said {people.said('Ada Lovelace')}.", "refused; it said «…»."),
        (f"{people.said('Ada')} and {people.said('Bob')}", "«…» and «…»"),
        (f"it said {people.said('a « b » Ada')}, twice", "it said «…», twice"),
        (f"it said {people.said('')}", "it said «…»"),
    ],
)
def test_what_others_wrote_is_no_part_of_what_is_shown(message: str, shown: str) -> None:
    assert people.public(message) == shown
    error = PermanentError(message, Call("engage", "GET", "/a"), hint=people.said("Ada"))
    assert str(error) == f"Engage, GET /a: {shown} «…»"
    assert str(PipelineError(message)) == shown
    assert error.message == message


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        (True, "True"),
        (12.5, "12.5"),
        ("Ada", "«…»"),
        (["Ada"], "«…»"),
        ({"name": "Ada"}, "«…»"),
    ],
)
def test_a_value_is_shown_where_it_can_be_nobody_s(value: object, shown: str) -> None:
    assert people.public(people.value(value)) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("Load", "Load"), ("R-17.2_a", "R-17.2_a"), ("to Ada", "«…»"), ("", "«…»")]
)
def test_a_name_is_a_single_plain_word(text: str, shown: str) -> None:
    assert people.public(people.word(text)) == shown


HOSTILE = [
    "[/b] and [bold]no markup[/bold] :smile:",
    "\x1b[2J\x1b]0;title\x07 clears the screen",
    "\x9b31m red, \x08\x08 back, \u202e reversed, \u2066 isolated",
    "[link=file:///etc/passwd]here[/link]",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("way", ["say", "error", "note", "cell"])
def test_a_terminal_gets_the_text_and_nothing_that_moves_it(
    text: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if way == "cell":
        table = Table("text", box=None)
        table.add_row(text)
        output.console().print(table)
    else:
        getattr(output, way)(text)

    out, err = capsys.readouterr()
    shown = (out + err).replace("\n", "")
    assert all(one.isprintable() for one in shown), ascii(shown)
    words = [word for word in text.split() if word.isprintable() and word.isascii()]
    assert all(word in shown for word in words), shown


def test_a_message_of_several_lines_keeps_them(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("one\n  two")
    assert capsys.readouterr().out == "one\n  two\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("two\nlines", "two lines"),
        ("**bold** _it_ `code` ~~no~~", r"\*\*bold\*\* \_it\_ \`code\` \~\~no\~\~"),
        ("[link](https://a.example) ![](x)", r"\[link\](https:\/\/a.example) \!\[\](x)"),
        ("<img src=x onerror=y> &amp;", r"\<img src=x onerror=y\> \&amp;"),
        (r"a \| b", r"a \\\| b"),
        ("\x1b[0m", "\N{REPLACEMENT CHARACTER}\\[0m"),
        ("5f0c11f0-5b1c-4c86-93f0-a4b5a9b0f1de -1.50 2026-01-31 12:00:00",) * 2,
    ],
)
def test_markdown_shows_nothing_but_the_text(text: str, shown: str) -> None:
    assert people.markdown(text) == shown


def test_the_error_stream_is_colored_by_us_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    output.error("[red]\x1b[31m")
    assert stream.getvalue().count("\x1b[31m") == 0


def test_a_quotation_that_was_cut_off_is_none_to_be_shown() -> None:
    assert people.public(f"it said {people.said('what Ada wrote')}"[:20]) == "it said «…»"
