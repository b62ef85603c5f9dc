"""What was rejected: rows of exports that can't be understood, and balances that Engage refuses.

Both resolve by themselves when the cause is gone. A person can have them tried sooner, and can discard a row of an export for good.
Rejected rows are stored by `staging`, and refusals by `ledger.batches`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treazure_pipeline import people
from treazure_pipeline.ledger import batches, decisions
from treazure_pipeline.ledger.decisions import SOMEBODY
from treazure_pipeline.ledger.rows import one, records
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any, Literal

    from treazure_pipeline.ledger.store import Account, Ledger


DIGEST = 32
"""Characters of a row's full digest."""


@dataclass(frozen=True)
class Group:
    """Outstanding rejections with the same reason. `next_try` is None if they are not tried again by themselves."""

    origin: Literal["export", "engage"]
    reason: str
    rows: int
    gone: int
    since: datetime
    first_seen: datetime
    last_seen: datetime
    next_try: datetime | None


@dataclass(frozen=True)
class Rejection:
    """One rejection: a row of an export, with its `digest` and the `raw` row as it came, or a `balance` that Engage refused.

    `times`: how often the row was listed, or refused.
    """

    origin: Literal["export", "engage"]
    contact: str | None
    reason: str
    times: int
    since: datetime
    first_seen: datetime
    last_seen: datetime
    next_try: datetime | None
    gone: bool
    balance: str | None
    digest: str | None
    field: str | None
    value: str | None
    raw: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    note: str | None


@dataclass(frozen=True)
class Retried:
    """What the next run does after a retry: refused rows to send, accounts to read; `nameless` rows can't be retried."""

    refused: int
    to_read: int
    nameless: int


def most_of_engage(groups: Sequence[Group]) -> str | None:
    """Return the reason for most of Engage's refusals among these groups, or None if there are none."""
    reason = next((group.reason for group in groups if group.origin == "engage"), None)
    return None if reason is None else people.public(reason).rstrip(".")


@retried
def groups(ledger: Ledger, account: Account, *, contact: str | None = None, reason: str | None = None) -> list[Group]:
    """Return what is outstanding by origin and reason, most rows first."""
    values = _filter(account, contact, reason)
    with ledger.transaction() as connection:
        return records(connection, Group, _GROUPS, values)


def rows(
    ledger: Ledger,
    account: Account,
    *,
    contact: str | None = None,
    reason: str | None = None,
    resolved: bool = False,
    limit: int | None = None,
) -> list[Rejection]:
    """Return single rejections, the latest first; with `resolved`, also those no longer outstanding."""
    values = _filter(account, contact, reason) | {"resolved": resolved, "limit": limit}
    with ledger.transaction() as connection:
        return records(connection, Rejection, _ROWS, values)


@retried
def retry(
    ledger: Ledger,
    account: Account,
    *,
    contact: str | None = None,
    reason: str | None = None,
    by: str = SOMEBODY,
    why: str = "",
) -> Retried:
    """Let the next run try what is rejected, even if gone. The count of tries is kept.

    A row of an export that names no contact (`nameless`) can only be resolved by a full export, or be discarded.
    """
    with ledger.transaction() as connection:
        row = one(connection, _RETRY, _filter(account, contact, reason))
        chosen = f"of contact {contact}" if contact else people.public(f"because of {reason}") if reason else "all"
        decisions.note(connection, "retried", f"rejections of {account.name}: {chosen}", by=by, why=why)
    return Retried(*row)


@retried
def discard(ledger: Ledger, account: Account, digest: str, note: str, *, by: str = SOMEBODY) -> int:
    """Discard rows of exports for good, by the first characters of their digest. Return how many there were."""
    with ledger.transaction() as connection:
        discarded = connection.execute(
            "update rejection set resolved_at = clock_timestamp(), resolved_by = 'person', note = %s "
            "where programme = %s and resolved_at is null and starts_with(digest, %s)",
            (note, account.id, digest),
        ).rowcount
        if discarded:
            decisions.note(connection, "discarded", f"rejection {digest}", by=by, why=note)
    return discarded


def _filter(account: Account, contact: str | None, reason: str | None) -> dict[str, Any]:
    return {"programme": account.id, "contact": contact, "reason": reason}


# Appended to an update of a row that was rejected before: it is outstanding again, unless a person has discarded it.
REOPEN = """,
    since = case when rejection.resolved_by <> 'person' then now() else rejection.since end,
    resolved_at = case when rejection.resolved_by = 'person' then rejection.resolved_at end,
    resolved_by = case when rejection.resolved_by = 'person' then rejection.resolved_by end
"""

# When an export is merged: its good rows replace earlier bad ones of the same contacts.
RESOLVE = """
update rejection r set resolved_at = clock_timestamp(), resolved_by = 'export' from {latest} s
where r.programme = %(programme)s and r.resolved_at is null and r.observation < %(observation)s and r.contact = s.contact
"""

# After that, if it was a full export: rows that it no longer lists are gone from Treazure.
RESOLVE_UNLISTED = """
update rejection set resolved_at = clock_timestamp(), resolved_by = 'full_export'
where programme = %(programme)s and resolved_at is null and observation < %(observation)s
"""

# When an account's balance was asked for after the row was rejected.
RESOLVE_READ = """
update rejection set resolved_at = clock_timestamp(), resolved_by = 'account'
where programme = %(programme)s and contact = %(contact)s and resolved_at is null and last_seen < %(asked)s
"""

_MATCHES = """
    programme = %(programme)s and (%(contact)s::uuid is null or contact = %(contact)s)
    and (%(reason)s::text is null or strpos(lower({reason}), lower(%(reason)s)) > 0)
"""
_FIELD_REASON = "field || ': ' || reason"
_EXPORT = _MATCHES.format(reason=_FIELD_REASON)
_ENGAGE = "reason is not null and " + _MATCHES.format(reason="reason")

_GROUPS = f"""
select 'export' as origin, {_FIELD_REASON} as reason, count(*) as rows, 0 as gone, min(since) as since,
       min(first_seen) as first_seen, max(last_seen) as last_seen, null::timestamptz as next_try
from rejection where {_EXPORT} and resolved_at is null group by field, reason
union all
select 'engage', reason, count(*), count(*) filter (where gone), min(refused_first), min(refused_first), max(refused_last),
       min(coalesce(next_try, clock_timestamp())) filter (where not gone)
from pending where {_ENGAGE} group by reason
order by rows desc, reason
"""

_ROWS = f"""
select 'export' as origin, contact::text as contact, {_FIELD_REASON} as reason, seen as times, since, first_seen, last_seen,
       null::timestamptz as next_try, false as gone, null as balance, digest, field, value, raw, resolved_at, resolved_by, note
from rejection where {_EXPORT} and (%(resolved)s or resolved_at is null)
union all
select 'engage', contact::text, reason, tries, refused_first, refused_first, refused_last,
       case when not gone then coalesce(next_try, clock_timestamp()) end, gone, trim_scale(master)::text, null, null, null, null, null, null, null
from pending where {_ENGAGE}
order by last_seen desc, contact limit %(limit)s
"""

_RETRY = f"""
with refused as (
    update pending set {batches.REVIVED} where {_ENGAGE} returning contact),
asked as (
    insert into reread (programme, contact, since)
    select programme, contact, clock_timestamp() from (
        select distinct programme, contact from rejection
        where {_EXPORT} and resolved_at is null and contact is not null) r
    on conflict (programme, contact) do update set since = excluded.since, next_try = excluded.next_try returning contact)
select (select count(*) from refused), (select count(*) from asked),
       (select count(*) from rejection where {_EXPORT} and resolved_at is null and contact is null)
"""
