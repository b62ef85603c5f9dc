"""The reporting views as they describe themselves: for the data dictionary, for dbt, and for Dagster.

Views and columns are described only in their comments in the database. `sources.yml` beside this module and
docs/data-dictionary.md are what `treazure-pipeline db dictionary` prints from them; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import psycopg
import yaml

from treazure_pipeline.database import schema

_COLUMNS = """
select c.relname, obj_description(c.oid), a.attname,
       replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz'),
       col_description(c.oid, a.attnum)
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
where c.relnamespace = to_regnamespace(%s) and c.relkind = 'v' order by c.relname, a.attnum
"""
_ABOUT = "select obj_description(to_regnamespace(%s))"
_UNIQUE = {("sync_run", "observation"), ("adjustment", "id")}
_VALUES = {
    ("contact_balance", "verdict"): ["equal", "drift", "missing"],
    ("balance_change", "source"): ["export", "account", "read_back"],
    ("rejection_open", "origin"): ["export", "engage"],
    ("drift_open", "verdict"): ["drift", "missing"],
    ("sync_run", "state"): ["asked", "staged", "merged"],
    ("adjustment", "source"): ["webhook", "manual"],
    ("adjustment", "state"): [
        "received", "queued", "sending", "posted", "done", "rejected", "uncertain", "discarded",
    ],
}  # fmt: skip
# An export is requested every hour, whether anything changed or not.
_FRESH = {
    "sync_run": {
        "loaded_at_field": "asked_at",
        "freshness": {
            "warn_after": {"count": 2, "period": "hour"},
            "error_after": {"count": 6, "period": "hour"},
            "filter": "state = 'merged'",
        },
    }
}


@dataclass(frozen=True)
class Column:
    """A column: its type as PostgreSQL writes it, and its comment."""

    name: str
    type: str
    description: str

    @property
    def is_nullable(self) -> bool:
        """Whether it can be null; its comment says when."""
        return "null" in self.description.lower()


@dataclass(frozen=True)
class View:
    """A view and its comment."""

    name: str
    description: str
    columns: tuple[Column, ...]


def described(url: str) -> tuple[str, list[View]]:
    """Return what the database at `url` says about the reporting schema and its views, in the order of their names.

    Raises DatabaseError if it can't be asked, and SchemaOutdatedError if its version does not fit.
    """
    schema.check(url)
    try:
        with psycopg.connect(url, **schema.CONNECTION) as connection:
            about = connection.execute(_ABOUT, (schema.REPORTING,)).fetchone()
            rows = connection.execute(_COLUMNS, (schema.REPORTING,)).fetchall()
    except psycopg.Error as error:
        raise schema.translated(error) from None
    names = dict.fromkeys((view, description) for view, description, *_ in rows)
    views = [
        View(name, description, tuple(Column(*column) for view, _, *column in rows if view == name))
        for name, description in names
    ]
    return str(about and about[0]), views


@cache
def columns() -> dict[str, tuple[Column, ...]]:
    """Return the columns of each view in this version, without asking a database."""
    text = resources.files("treazure_pipeline.database").joinpath("sources.yml").read_text(encoding="utf-8")
    # Ten times as fast as `safe_load`, which would slow down each process that loads the definitions.
    (source,) = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["sources"]  # noqa: S506 - both are safe
    return {
        table["name"]: tuple(Column(one["name"], one["data_type"], one["description"]) for one in table["columns"])
        for table in source["tables"]
    }


def dictionary(about: str, views: list[View]) -> str:
    """Return the data dictionary as a page of Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "<!-- Printed by `treazure-pipeline db dictionary` from the comments in the database; not written by hand. -->",
        "",
        f"The PostgreSQL schema `{schema.REPORTING}`. {about} A column is never null unless its text says when.",
        "How to get at it, with examples: [reporting](reporting.md).",
        "",
        *(f"- [`{view.name}`](#{view.name})" for view in views),
    ]
    for view in views:
        lines += ["", f"## {view.name}", "", view.description, "", "| column | type | means |", "|---|---|---|"]
        lines += [f"| `{one.name}` | {one.type} | {one.description} |" for one in view.columns]
    return "\n".join(lines) + "\n"


def dbt_sources(about: str, views: list[View]) -> str:
    """Return the views as a dbt source, with the tests that hold for them."""
    source = {
        "name": schema.REPORTING,
        "description": about,
        "schema": schema.REPORTING,
        "tables": [_table(view) for view in views],
    }
    head = "# Printed by `treazure-pipeline db dictionary --dbt`; not written by hand.\n"
    return head + yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, allow_unicode=True, width=120)


def _table(view: View) -> dict[str, Any]:
    fresh = {"config": _FRESH[view.name]} if view.name in _FRESH else {}
    return {
        "name": view.name,
        "description": view.description,
        **fresh,
        "columns": [_column(view, column) for column in view.columns],
    }


def _column(view: View, column: Column) -> dict[str, Any]:
    place = (view.name, column.name)
    tests: list[Any] = [] if column.is_nullable else ["not_null"]
    tests += ["unique"] if place in _UNIQUE else []
    tests += [{"accepted_values": {"arguments": {"values": _VALUES[place]}}}] if place in _VALUES else []
    return {
        "name": column.name,
        "description": column.description,
        "data_type": column.type,
        **({"data_tests": tests} if tests else {}),
    }
