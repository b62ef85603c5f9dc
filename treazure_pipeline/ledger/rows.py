"""Rows of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from treazure_pipeline.errors import DatabaseError

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.abc import Params, QueryNoTemplate

Row = TypeVar("Row")


def one(on: Connection[Row] | Cursor[Row], statement: QueryNoTemplate, values: Params | None = None) -> Row:
    """Return the row of a statement that always gives one; raises DatabaseError where it doesn't all the same."""
    row = on.execute(statement, values).fetchone()
    if row is None:
        message = "The ledger lacks a row that it should have."
        raise DatabaseError(message, hint="Was it changed by hand? Restore it, or ask whoever changed it.")
    return row
