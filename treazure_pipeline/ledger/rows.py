"""Reads rows of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.rows import class_row

from treazure_pipeline.errors import DatabaseError

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.abc import Params, QueryNoTemplate

Row = TypeVar("Row")
Record = TypeVar("Record")


def one(on: Connection[Row] | Cursor[Row], statement: QueryNoTemplate, values: Params | None = None) -> Row:
    """Return the row of a statement that always gives one. Raises DatabaseError if there is none."""
    row = on.execute(statement, values).fetchone()
    if row is None:
        raise DatabaseError(
            "The ledger lacks a row that it should have.",
            hint="Was it changed by hand? Restore it, or ask whoever changed it.",
        )
    return row


def records(
    connection: Connection[Any], record: type[Record], statement: QueryNoTemplate, values: Params | None = None
) -> list[Record]:
    """Return the rows of a statement, each as a `record` whose fields have the names of the columns."""
    return connection.cursor(row_factory=class_row(record)).execute(statement, values).fetchall()
