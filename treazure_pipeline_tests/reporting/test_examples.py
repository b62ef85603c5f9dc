"""Every example of docs/reporting.md runs as a reader, and what it gives is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from psycopg.rows import dict_row

from treazure_pipeline_tests.reporting.conftest import Reader

PAGE = (Path(__file__).parents[2] / "docs" / "reporting.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, tuple[str, str]] = {
    heading: (language, code)
    for heading, language, code in re.findall(
        r"^### (.+?)\n.*?^```(sql|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
    )
}
NOBODY = "0b5a0b1e-0000-0000-0000-000000000000"
Rows = list[dict[str, Any]]


def in_treazure(lived: Reader) -> Decimal:
    return sum((Decimal(row["treazure"]) for row in lived.adjustment_shop.sandbox.balances()), Decimal(0))


def why(rows: Rows, _lived: Reader) -> None:
    """The contact was loaded, and then given 100 points by an adjustment."""
    assert [row["source"] for row in rows][:: len(rows) - 1] == ["export", "account"]
    assert rows[0]["balance_before"] is None
    assert rows[-1]["points"] == rows[-1]["balance_after"] - rows[-1]["balance_before"] == 100


def by_day(rows: Rows, lived: Reader) -> None:
    (today,) = rows
    assert (today["day"], today["opening"]) == (datetime.now(UTC).date(), 0)
    assert today["added"] > today["decreased"] >= 0
    assert today["closing"] == today["added"] - today["decreased"] == in_treazure(lived)


def by_month(rows: Rows, lived: Reader) -> None:
    assert [row["closing"] for row in rows] == [in_treazure(lived)]


def changes(rows: Rows, lived: Reader) -> None:
    (today,) = rows
    assert today["changes"] > today["contacts"] == 60
    assert today["points"] == in_treazure(lived)


def earned(rows: Rows, _lived: Reader) -> None:
    assert sum(row["earned"] or 0 for row in rows) > sum(row["spent"] or 0 for row in rows) >= 0
    assert len(rows) == len({row["month"] for row in rows}) > 0


def expiring(rows: Rows, _lived: Reader) -> None:
    assert [row["expiring"] for row in rows] == sorted((row["expiring"] for row in rows), reverse=True)
    assert all(row["expiring"] > 0 and row["first"] > datetime.now(UTC) for row in rows)


def agree(rows: Rows, lived: Reader) -> None:
    (programme,) = rows
    assert programme["in_treazure"] == in_treazure(lived)
    assert programme["in_treazure"] - programme["given_to_engage"] == 5  # of the contact that Engage refuses
    assert (programme["contacts"], programme["pending"], programme["verified"]) == (60, 2, 58)


def rejected(rows: Rows, _lived: Reader) -> None:
    assert {(row["origin"], row["rows"]) for row in rows} == {("export", 1), ("engage", 1)}


def fare(rows: Rows, _lived: Reader) -> None:
    found = {row["state"]: row for row in rows}
    assert {state: row["adjustments"] for state, row in found.items()} == {"done": 1, "rejected": 1}
    assert found["done"]["points"] == 100
    assert 0 < found["done"]["median_seconds"] < 300


def runs(rows: Rows, _lived: Reader) -> None:
    newer, first = rows
    assert (first["full_resync"], first["fetched"], first["sent"]) == (True, 60, 60)
    assert (newer["full_resync"], newer["rejected"]) == (False, 1)
    assert newer["sent"] == newer["changed"] - 1


def liability_frame(names: dict[str, Any], lived: Reader) -> None:
    frame: pd.DataFrame = names["liability"]
    assert list(frame["closing"]) == [in_treazure(lived)]
    assert list(names["by_month"]["added"]) == list(frame["added"])
    assert isinstance(frame["closing"][0], Decimal)


def largest(names: dict[str, Any], lived: Reader) -> None:
    sizes = [abs(points) for points in names["largest"]["points"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == max(abs(row[0]) for row in lived.ask(
        "select points from balance_change where balance_before is not null"))  # fmt: skip


def waits(names: dict[str, Any], lived: Reader) -> None:
    assert {str(contact) for contact in names["pending"]["contact"]} == set(lived.adjustment_shop.contacts(2))
    assert all(0 < hours < 1 for hours in names["pending"]["hours"])


RIGHT: dict[str, Callable[[Any, Reader], None]] = {
    "Why a contact has this balance": why,
    "Points outstanding by day": by_day,
    "Points outstanding at the end of each month": by_month,
    "Changes by day": changes,
    "Points earned, spent and expired by month": earned,
    "Points that expire within 30 days": expiring,
    "How far both systems agree": agree,
    "What is rejected, and why": rejected,
    "How adjustments do": fare,
    "The last runs": runs,
    "Points outstanding as a DataFrame": liability_frame,
    "The largest changes of a week": largest,
    "What waits, and how long": waits,
}


def test_every_example_is_looked_at() -> None:
    assert list(EXAMPLES) == list(RIGHT)
    assert len(re.findall(r"^```(?:sql|python)$", PAGE, re.MULTILINE)) == len(EXAMPLES)


def test_every_example_gives_what_is_right(lived: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORTING_URL", lived.url.replace("postgresql://", "postgresql+psycopg://"))
    given = lived.adjustment_shop.contacts(4)[3]
    for heading, (language, code) in EXAMPLES.items():
        if language == "sql":
            with psycopg.connect(lived.url, row_factory=dict_row) as connection:
                found: Any = connection.execute(code.replace(NOBODY, given).encode()).fetchall()
        else:
            found = {}
            exec(code, found)  # noqa: S102 - what the page tells to run
            found["engine"].dispose()
        RIGHT[heading](found, lived)
