"""Dagster's catalog: each table that it names is a reporting view, with its columns, its rows and their lineage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from treazure_pipeline.definitions import build_definitions
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.reporting.conftest import Reader

TABLES = {
    "balance_diff": "balance_change",
    "engage_balance_push": "contact_balance",
    "engage_balance_verification": "drift_open",
    "ledger_history": "balance_change",
    "points_history": "movement",
    "processed_adjustments": "adjustment",
}
COLUMNS = (
    "select column_name, replace(data_type, 'timestamp with time zone', 'timestamptz') from information_schema.columns "
    "where table_schema || '.' || table_name = %s order by ordinal_position"
)


def catalog(definitions: dg.Definitions) -> dict[dg.AssetKey, dict[str, Any]]:
    """The metadata of every asset."""
    graph = definitions.resolve_asset_graph()
    return {key: dict(graph.get(key).metadata) for key in graph.get_all_asset_keys()}


def columns(metadata: dict[str, Any]) -> list[dg.TableColumn]:
    schema = metadata.get("dagster/column_schema")
    return [] if schema is None else list(getattr(schema, "value", schema).columns)


@pytest.fixture
def shown(lived: Reader) -> dict[dg.AssetKey, dict[str, Any]]:
    return catalog(build_definitions(lived.adjustment_shop.settings()))


def test_each_table_is_a_reporting_view_with_all_of_its_columns(
    lived: Reader, shown: dict[dg.AssetKey, dict[str, Any]]
) -> None:
    named = {key.to_user_string(): one for key, one in shown.items() if "dagster/table_name" in one}

    assert {
        asset: one["dagster/table_name"].removeprefix("treazure_reporting.") for asset, one in named.items()
    } == TABLES
    for one in named.values():
        assert [(column.name, column.type) for column in columns(one)] == lived.ask(COLUMNS, one["dagster/table_name"])


def test_every_column_says_what_it_is_in_every_programme(
    new_adjustment_shop: Callable[..., AdjustmentShop], tmp_path: Path
) -> None:
    listed = tmp_path / "programmes.yaml"
    listed.write_text(
        "- {name: gold, loyalty_id: G, definition_id: 1}\n- {name: blue, loyalty_id: B, definition_id: 2}\n"
    )
    found = catalog(
        build_definitions(new_adjustment_shop(environ={"TREAZURE_PIPELINE_PROGRAMMES": str(listed)}).settings())
    )

    every = [(key, column) for key, one in found.items() for column in columns(one)]
    assert len(every) > 150
    assert [(key, column.name) for key, column in every if not column.description] == []


def test_columns_come_from_columns_that_are_there(shown: dict[dg.AssetKey, dict[str, Any]]) -> None:
    there = {(key, column.name) for key, one in shown.items() for column in columns(one)}
    wrong = []
    for key, one in shown.items():
        lineage = one.get("dagster/column_lineage")
        for column, sources in {} if lineage is None else getattr(lineage, "value", lineage).deps_by_column.items():
            wrong += [(key, column)] if (key, column) not in there else []
            wrong += [source for source in sources if (source.asset_key, source.column_name) not in there]
    assert wrong == []


def test_the_rows_of_a_table_are_those_of_the_view(lived: Reader) -> None:
    definitions = build_definitions(lived.adjustment_shop.settings())
    jobs = ("hourly_balance_sync", "process_adjustments", "verify_balances", "refresh_points_history", "prune_history")
    counted: dict[str, Any] = {}
    with dg.DagsterInstance.ephemeral() as instance:
        lived.adjustment_shop.sandbox.add_points(dict.fromkeys(lived.adjustment_shop.contacts(3), 1))
        for job in jobs:
            if job == "verify_balances":
                lived.adjustment_shop.sandbox.set_engage_balances(
                    dict.fromkeys(lived.adjustment_shop.contacts(6)[3:], 7)
                )
            result = definitions.resolve_job_def(job).execute_in_process(instance=instance)
            for event in result.get_asset_materialization_events():
                shown = event.materialization.metadata
                if "dagster/row_count" in shown:
                    counted[event.materialization.asset_key.to_user_string()] = shown["dagster/row_count"].value

    with psycopg.connect(lived.url) as connection:
        rows = {
            asset: connection.execute(
                sql.SQL("select count(*) from {}").format(sql.Identifier("treazure_reporting", view))
            ).fetchall()[0][0]
            for asset, view in TABLES.items()
        }
    del rows["balance_diff"]  # to count all changes each hour would cost more than the merge
    assert {asset: counted[asset] for asset in rows} == rows
    assert "balance_diff" not in counted
    assert min(rows.values()) > 0
