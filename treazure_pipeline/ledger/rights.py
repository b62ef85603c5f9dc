"""Whether a database role may do everything that runs do, found out by trying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treazure_pipeline.database import schema
from treazure_pipeline.errors import BusyError
from treazure_pipeline.ledger.rows import one

if TYPE_CHECKING:
    from treazure_pipeline.ledger.store import Ledger


def prove(ledger: Ledger) -> str:
    """Take a lease, create a staging table and a temporary one, leave nothing behind, and return the role's name.

    Raises a DatabaseError that names what the role may not do.
    """
    with (
        ledger.lease("doctor", BusyError("Another `doctor` is running right now.")),
        ledger.transaction() as connection,
    ):
        connection.execute("create temporary table doctor (n integer) on commit drop")
        connection.execute("create unlogged table stage_doctor (n integer); drop table stage_doctor")
        row = one(connection, _LACKING)
    role, lacking = row
    if lacking:
        raise schema.lacking(f"{role} has no {', '.join(lacking)}")
    return str(role)


_LACKING = """
select current_user, array_agg(format('%s on %s', right_, relname) order by relname, right_)
           filter (where not has_table_privilege(oid, right_) or staged and not pg_has_role(relowner, 'usage'))
from (select oid, relname, relowner, relname like 'stage%' as staged from pg_class
      where relnamespace = 'treazure_pipeline'::regnamespace and relkind = 'r' and relname <> 'alembic_version') tables,
     unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) right_
"""
