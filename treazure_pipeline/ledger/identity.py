"""Which server and timeline the ledger is on: another one than before means that it was restored, or failed over.

Then it believes less than is true. Adjustments that it knows as new may have been booked (`adjustments.queue`), and Engage may
hold balances that it was sent after the backup: whatever changed in Treazure since then is sent again (`balance_sync.merge`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treazure_pipeline.ledger.coverage import OVERLAP
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from typing import Any

    from psycopg import Connection

    from treazure_pipeline.ledger.store import Ledger


@retried
def notice(ledger: Ledger) -> None:
    """Keep when the ledger was found on another server or timeline than before, and what is to be sent again since."""
    with ledger.transaction() as connection:
        notice_within(connection)


def notice_within(connection: Connection[Any]) -> None:
    """Do so within a transaction that depends on it."""
    connection.execute(NOTICE)


NOTICE = f"""
with noticed as (
    insert into identity (identity, changed_at)
    select here.name, case when i.one or exists (
        select from adjustment where ledger <> here.name) then clock_timestamp() end
    from (select ledger_identity() as name offset 0) here left join identity i on true
    where i.identity is distinct from here.name
    on conflict (one) do update set identity = excluded.identity, changed_at = excluded.changed_at
    returning changed_at)
update programme set resend = resend + tstzmultirange(tstzrange(
    least(coalesce(upper(covered), '-infinity') - interval '{OVERLAP.seconds} seconds', changed_at), changed_at))
from noticed where changed_at is not null
"""
