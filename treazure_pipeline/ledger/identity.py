"""Which server and timeline the ledger is on. A different one than before means that it was restored, or failed over.

Then the ledger may lack what happened last. Adjustments that it takes for new may have been posted already (`adjustments.queue`), and Engage may
hold balances that were sent after the backup. So everything that has changed in Treazure since then is sent again (`balance_sync.merge`).
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
    """If the ledger is on another server or timeline than before, note when this was found and what has to be sent again."""
    with ledger.transaction() as connection:
        notice_within(connection)


def notice_within(connection: Connection[Any]) -> None:
    """Do so in the caller's transaction."""
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
