"""What a run shows in Dagster, as tests read it: metadata with the rows of the table of figures beside the headline."""

from __future__ import annotations

from typing import Any, Protocol

import dagster as dg


class Shown(Protocol):
    """A materialization, or the evaluation of a check."""

    @property
    def metadata(self) -> Any: ...


def of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What the asset's one materialization of a run shows."""
    (event,) = result.asset_materializations_for_node(asset)
    return figures(event)


def figures(shown: Shown) -> dict[str, Any]:
    """Metadata by name; a figure of the table is named with underscores."""
    values = {name: value.value for name, value in shown.metadata.items()}
    rows = [line.strip("| ").split(" | ") for line in values.get("figures", "").splitlines()[2:]]
    return {**{row[0].replace(" ", "_"): _number(*row[1:]) for row in rows}, **values}


def plotted(shown: Shown) -> set[str]:
    """The names of the figures that the UI plots, without Dagster's own."""
    numbers = dg.IntMetadataValue | dg.FloatMetadataValue
    return {name for name, value in shown.metadata.items() if isinstance(value, numbers) and "/" not in name}


def log_lines(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[str]:
    """The lines that we wrote into a run's log, without those of Dagster itself."""
    return [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.is_dagster_event]


def _number(text: str = "") -> int | str:
    plain = text.replace(",", "")
    return int(plain) if plain.removeprefix("-").isdigit() else plain.replace("\\", "")
