"""Figures, tables and samples as Dagster's metadata.

See https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import dagster as dg

from treazure_pipeline import people, phrases
from treazure_pipeline.database import reporting, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from treazure_pipeline.ledger.frames import Rows

SAMPLE_ROWS = 10
FIGURES = "figures"


def view(name: str) -> dict[str, Any]:
    """Return an asset's table: one of the reporting views, with all of its columns."""
    columns = [dg.TableColumn(one.name, one.type, one.description) for one in reporting.columns()[name]]
    return {
        "dagster/table_name": f"{schema.REPORTING}.{name}",
        "dagster/column_schema": dg.TableSchema(columns=columns),
    }


def lineage(columns: Mapping[str, tuple[dg.AssetKey, str]]) -> dg.TableColumnLineage:
    """Return the column lineage: column → (upstream asset, its column)."""
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(asset, upstream)] for name, (asset, upstream) in columns.items()}
    )


def number(value: Decimal) -> dg.FloatMetadataValue:
    """Return points as a number that the UI plots. Where it matters, the exact text is shown too."""
    return dg.MetadataValue.float(float(value))


def age_hours(moment: datetime | None, now: datetime | None = None) -> float:
    """Return the hours since `moment`; 0 if there is none."""
    return 0.0 if moment is None else round(((now or datetime.now(UTC)) - moment).total_seconds() / 3600, 3)


def sample(found: Rows) -> dg.MarkdownMetadataValue:
    """Return the first rows as a Markdown table, with only the columns that may be shown."""
    shown = [place for place, name in enumerate(found.columns) if name in people.SHOWN]
    columns = [found.columns[place] for place in shown]
    return table(columns, ([row[place] for place in shown] for row in found.rows[:SAMPLE_ROWS]))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> dg.MarkdownMetadataValue:
    """Return rows as a Markdown table."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return dg.MetadataValue.md("*none*")
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *cells]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def figures(found: Mapping[str, Any], *headline: str, if_any: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a step counted: the `headline` by itself, so that the UI plots it, the others in one table.

    `if_any` belongs to the headline except where it is 0, so that nothing plots a flat line while all is well. What is
    no plain figure, such as a sample, and Dagster's own keys stay by themselves too.
    """
    headline = (*headline, *(name for name in if_any if found[name]))
    alone = {
        name: number(value) if isinstance(value, Decimal) else value
        for name, value in found.items()
        if name in headline or "/" in name or isinstance(value, dg.MetadataValue)
    }
    rest = [(name.replace("_", " "), value) for name, value in found.items() if name not in alone]
    return alone | ({FIGURES: table(("figure", "value"), rest)} if rest else {})


def not_evaluated(check: str, why: str, **shown: Any) -> dg.AssetCheckResult:
    """Return the result of a check that could not be evaluated: not green, but only a warning."""
    return dg.AssetCheckResult(
        check_name=check,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"could not be evaluated: {why}",
        metadata=shown,
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return phrases.points(value)
    if isinstance(value, int | float):
        return f"{value:,}"
    return people.markdown(people.public(str(value))[:200])
