"""What the Dagster UI shows of the balance sync: figures worth plotting, table schemas, samples.

Belongs here: turning figures into Dagster's metadata. Does not: computing them.
See https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import dagster as dg

from treazure_pipeline import people
from treazure_pipeline.balance_sync.rejections import Group

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from treazure_pipeline.balance_sync.first_send import Sides

SAMPLE_ROWS = 10
_GROUP = [field.name for field in fields(Group)]

BALANCE_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID, the same in both systems."),
        dg.TableColumn("balance", "numeric", "Points in Treazure at the time of the export, exact."),
        dg.TableColumn(
            "mutated_at", "timestamptz", "When Treazure says that the account changed; UTC, may be missing."
        ),
        dg.TableColumn("position", "bigint", "The row's place in the export, from 0."),
    ]
)
CHANGE_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID."),
        dg.TableColumn("before", "numeric", "The master balance known before; null for a new contact."),
        dg.TableColumn("after", "numeric", "The master balance now."),
    ]
)
LEDGER_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID."),
        dg.TableColumn("sent", "numeric", "The balance that Engage accepted last."),
        dg.TableColumn("batch", "bigint", "The request that carried it."),
        dg.TableColumn("observation", "bigint", "The observation of the master that it comes from."),
    ]
)

ADJUSTMENT_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("id", "bigint", "The number, in the order of arrival."),
        dg.TableColumn("state", "text", "received, queued, sending, posted, done, rejected, uncertain or discarded."),
        dg.TableColumn("contact", "uuid", "The contact's GUID."),
        dg.TableColumn("amount", "numeric", "Points added, negative where taken; exact."),
        dg.TableColumn("comment", "text", "The description as Treazure gets it, at most 100 characters."),
        dg.TableColumn("receipt", "text", "The receipt number in Treazure's history."),
        dg.TableColumn("balance", "numeric", "The balance that Treazure answered with."),
        dg.TableColumn("received_at", "timestamptz", "When the event was stored; UTC."),
    ]
)


def lineage(columns: Mapping[str, tuple[dg.AssetKey, str]]) -> dg.TableColumnLineage:
    """Return the column lineage: column → (upstream asset, its column)."""
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(asset, upstream)] for name, (asset, upstream) in columns.items()}
    )


def number(value: Decimal) -> dg.FloatMetadataValue:
    """Return points as a number that the UI plots; the exact text stands beside it wherever it matters."""
    return dg.MetadataValue.float(float(value))


def age_hours(moment: datetime | None, now: datetime | None = None) -> float:
    """Return the hours since `moment`, 0 where there is none."""
    return 0.0 if moment is None else round(((now or datetime.now(UTC)) - moment).total_seconds() / 3600, 3)


def sample(frame: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Return the first rows as a Markdown table, of the columns that may be shown."""
    shown = frame[[name for name in frame.columns if name in people.SHOWN]]
    return table(shown.columns, shown.head(SAMPLE_ROWS).itertuples(index=False))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> dg.MarkdownMetadataValue:
    """Return rows as a Markdown table."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return dg.MetadataValue.md("*none*")
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *cells]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def rejections(groups: Sequence[Group]) -> dict[str, dg.MetadataValue]:
    """Return since when rejections are outstanding, and a table of them by reason."""
    if not groups:
        return {"by_reason": dg.MetadataValue.md("*none*")}
    return {
        "outstanding_since": dg.MetadataValue.timestamp(min(group.since for group in groups)),
        "by_reason": table(_GROUP, (asdict(group).values() for group in groups)),
    }


def both_sides(sides: Sequence[Sides]) -> dict[str, dg.MetadataValue]:
    """Return the contacts of a careful first send, for people and for programs."""
    rows = [
        {"contact": one.contact, "treazure": _text(one.treazure), "accepted": _text(one.accepted),
         "engage": _text(one.engage), "verdict": one.verdict}
        for one in sides
    ]  # fmt: skip
    return {
        "both_sides": table(["contact", "treazure", "accepted", "engage", "verdict"], [row.values() for row in rows]),
        "first_send": dg.MetadataValue.json(rows),
    }


def not_evaluated(check: str, why: str, **shown: Any) -> dg.AssetCheckResult:
    """Return what stands for a check that could not be evaluated: not green, and a warning at most."""
    return dg.AssetCheckResult(
        check_name=check,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"could not be evaluated: {why}",
        metadata=shown,
    )


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _cell(value: Any) -> str:
    if value is None or value != value:  # noqa: PLR0124 - NaN and NaT differ from themselves
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return people.markdown(people.public(str(value))[:200])
