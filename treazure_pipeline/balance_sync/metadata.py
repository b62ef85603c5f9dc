"""What the Dagster UI shows of the balance sync: columns, rejections, and both sides of a careful first send."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import dagster as dg

from treazure_pipeline.balance_sync.rejections import Group
from treazure_pipeline.orchestration import metadata as md

if TYPE_CHECKING:
    from collections.abc import Sequence

    from treazure_pipeline.balance_sync.first_send import Sides

_GROUP = [field.name for field in fields(Group)]

BALANCE_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID, the same in both systems."),
        dg.TableColumn("balance", "numeric", "Points in Treazure at the time of the export, exact."),
        dg.TableColumn(
            "mutated_at", "timestamptz", "When the account changed, according to Treazure; UTC, may be missing."
        ),
        dg.TableColumn("position", "bigint", "The row's place in the export, from 0."),
    ]
)
ACCOUNT_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID, the same in both systems."),
        dg.TableColumn("balance", "numeric", "Points that Engage shows."),
    ]
)


def rejections(groups: Sequence[Group]) -> dict[str, dg.MetadataValue]:
    """Return a table of outstanding rejections by reason, and since when the oldest is outstanding."""
    if not groups:
        return {"by_reason": dg.MetadataValue.md("*none*")}
    return {
        "outstanding_since": dg.MetadataValue.timestamp(min(group.since for group in groups)),
        "by_reason": md.table(_GROUP, (asdict(group).values() for group in groups)),
    }


def both_sides(sides: Sequence[Sides]) -> dict[str, dg.MetadataValue]:
    """Return the contacts of a careful first send as a table."""
    rows = [one.shown() for one in sides]
    return {"both_sides": md.table(rows[0], (row.values() for row in rows))}
