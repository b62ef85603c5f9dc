"""Everything that the ledger has about a contact, table by table: to export it, erase it, and blank old texts.

Ids, receipts, amounts and times stay forever, so that nothing can count twice: an event that is delivered again is still recognized, and so is a
rejected row. Only texts are blanked: descriptions and comments, bodies and rows as they came, and what others wrote in a reason (between « and »,
see `treazure_pipeline.people`). What still waits to be sent keeps its texts.

A new table with contacts or texts must be added to `CONTACT_TABLES`. A test finds those that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from treazure_pipeline.ledger.rows import one
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    from psycopg import Connection

    from treazure_pipeline.ledger.store import Ledger

_CONTACT = "t.contact = %(contact)s::uuid"
_AMONG = "t.contacts @> array[%(contact)s::uuid]"
_PLACE = "array_position(t.contacts, %(contact)s::uuid)"


@dataclass(frozen=True)
class ContactTable:
    """A table with data about contacts, described by SQL conditions and expressions on its row `t`.

    Attributes:
        of: Which rows are about %(contact)s.
        shown: The part of such a row that is about the contact.
        blank: Assignments that blank the texts; empty if there are none.
        full: Whether a row has texts.
        settled: Whether they are no longer needed.
        since: When they came, or when they were last needed.
        then: What else to do for the rows that were blanked.
        weight: How many ordinary rows one row counts for.
    """

    table: LiteralString
    of: LiteralString = _CONTACT
    shown: LiteralString = "to_jsonb(t)"
    blank: LiteralString = ""
    full: LiteralString = "false"
    settled: LiteralString = "true"
    since: LiteralString = "null::timestamptz"
    then: LiteralString = ""
    weight: int = 1


def _unsaid(column: LiteralString) -> LiteralString:
    return f"{column} = regexp_replace(t.{column}, '«[^»]*(»|$)', '«…»', 'g')"


_SAID: LiteralString = " ~ '«(?!…»)'"
# What distinguishes an event from another one with the same id.
_ESSENTIALS = """(
    select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(t.payload)
    where lower(key) in ('amount', 'contactid', 'pointdefinitionid') and (
        jsonb_typeof(value) in ('number', 'boolean', 'null')
        or jsonb_typeof(value) = 'string' and value #>> '{}' ~ '^[0-9A-Fa-f{}., +-]{1,60}$'))"""
_ADJUSTMENT = "(t.contact = %(contact)s::uuid or t.contact is null and strpos(lower(t.payload::text), %(contact)s::uuid::text) > 0)"
_MIGRATION_ENDED = "(select m.ended_at from migration m where m.id = t.migration)"

CONTACT_TABLES = (
    ContactTable("ledger"),
    ContactTable(
        "pending",
        blank=_unsaid("reason"),
        full=f"t.reason {_SAID}",
        since="t.refused_last",
    ),
    ContactTable("change", _AMONG, f"jsonb_build_object('id', t.id, 'programme', t.programme, 'observation', t.observation, "
         f"'noted_at', t.noted_at, 'before', t.before[{_PLACE}], 'after', t.after[{_PLACE}])"),
    ContactTable("observation"),
    ContactTable("reread"),
    ContactTable("vanished"),
    ContactTable(
        "rejection",
        of="(t.contact = %(contact)s::uuid or strpos(lower(t.raw), %(contact)s::uuid::text) > 0)",
        blank="value = '', raw = ''",
        full="t.raw <> ''",
        since="t.last_seen",
    ),
    ContactTable(
        "batch", _AMONG, "to_jsonb(t) - 'contacts' - 'amounts' - 'refused' || jsonb_build_object("
        f"'amount', t.amounts[{_PLACE}], 'refused', %(contact)s::uuid = any (t.refused))",
        blank=_unsaid("error"),
        full=f"t.error {_SAID}",
        since="coalesce(t.answered_at, t.claimed_at)",
    ),
    ContactTable("plan_lot", _AMONG, f"jsonb_build_object('plan', t.plan, 'before', t.before[{_PLACE}], 'after', t.after[{_PLACE}])"),
    ContactTable(
        "adjustment",
        of=_ADJUSTMENT,
        blank=f"payload = {_ESSENTIALS}, description = '', comment = '', {_unsaid('reason')}, "
        "blanked_at = clock_timestamp()",
        full="t.blanked_at is null",
        settled="t.state in ('done', 'rejected', 'discarded')",
        since="t.finished_at",
    ),
    ContactTable(
        "adjustment_transition",
        of=f"t.adjustment in (select t.id from adjustment t where {_ADJUSTMENT})",
        blank=f"{_unsaid('reason')}, {_unsaid('answer')}",
        full=f"concat(t.reason, t.answer) {_SAID}",
        since="t.at",
    ),
    ContactTable(
        "dead_letter",
        of="strpos(lower(t.body), %(contact)s::uuid::text) > 0",
        blank="body = ''",
        full="t.body <> ''",
        since="t.received_at",
    ),
    ContactTable("verification"),
    ContactTable("finding"),
    ContactTable("points_history"),
    ContactTable(
        "points_history_read",
        blank="texts = false",
        full="t.texts and t.read_at is not null",
        since="t.read_at",
        # Makes the export write the files of these months again.
        then="""texts as (
            update points_history h set comment = null, operator_id = null, properties = null from blanked b
            where h.programme = b.programme and h.contact = b.contact
              and num_nonnulls(h.comment, h.operator_id, h.properties) > 0 returning h.programme, h.date_time),
        months as (
            update points_history_month m set changed_at = clock_timestamp() from (
                select distinct programme, date_trunc('month', date_time)::date as month from texts) b
            where m.programme = b.programme and m.month = b.month)""",
        weight=50,
    ),
    ContactTable("points_history_due"),
    ContactTable(
        "migration_contact",
        blank="key = null",
        full="t.key is not null",
        settled=f"{_MIGRATION_ENDED} is not null",
        since=_MIGRATION_ENDED,
    ),
    ContactTable("migration_unread"),
    ContactTable(
        "migration_log",
        of="(%(contact)s::uuid between t.first and t.last and exists (select from migration_contact c "
        "where c.migration = t.migration and c.shard = t.shard and c.contact = %(contact)s::uuid))",
        shown="to_jsonb(t) - 'body' || jsonb_build_object('body', encode(t.body, 'base64'))",
        blank="body = ''",
        full="t.body <> ''",
        settled=f"{_MIGRATION_ENDED} is not null",
        since=_MIGRATION_ENDED,
    ),
    ContactTable(
        "migration_finding",
        blank="value = ''",
        full="t.value <> ''",
        settled=f"{_MIGRATION_ENDED} is not null",
        since=_MIGRATION_ENDED,
    ),
    ContactTable("erasure"),
    ContactTable("lookup"),
    ContactTable(
        "decision",
        of="(strpos(t.subject, %(contact)s) > 0 or strpos(lower(t.why), %(contact)s) > 0)",
        blank="why = ''",
        full="t.why <> ''",
        since="t.at",
    ),
)  # fmt: skip
"""Every table with data about contacts."""


@dataclass(frozen=True)
class Erased:
    """How many rows were blanked, by table, and how many have to keep their texts until they are sent."""

    blanked: dict[str, int]
    waiting: dict[str, int]


@retried
def export(ledger: Ledger, contact: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows about a contact (GUID in lower case), by table. Points are exact numbers."""
    with ledger.reading() as connection:
        return {
            place.table: [
                row[0]
                for row in connection.execute(
                    f"select {place.shown} from {place.table} t where {place.of}", {"contact": contact}
                )
            ]
            for place in CONTACT_TABLES
        }


@retried
def erase(ledger: Ledger, contact: str, *, by: str, why: str) -> Erased:
    """Erase the texts about a contact (GUID in lower case). `by` and `why` are recorded."""
    values = {"contact": contact}
    blanked, waiting = {}, {}
    with ledger.transaction() as connection:
        # Transitions are found by the texts of their adjustments, so those are blanked last.
        for place in sorted(
            (place for place in CONTACT_TABLES if place.blank), key=lambda place: place.table == "adjustment"
        ):
            condition = f"{place.of} and {place.full}"
            blanked[place.table] = _blank(connection, place, f"{condition} and {place.settled}", values)
            row = one(connection, f"select count(*) from {place.table} t where {condition}", values)
            waiting[place.table] = row[0]
        connection.execute("insert into erasure (contact, erased_by, why) values (%s, %s, %s)", (contact, by, why))
    return Erased(
        {table: count for table, count in blanked.items() if count},
        {table: count for table, count in waiting.items() if count},
    )


def blank(ledger: Ledger, days: int, *, rows: int = 2_000) -> dict[str, int]:
    """Blank texts older than `days`, so many `rows` per transaction. Return how many rows, by table."""
    return {
        place.table: _in_chunks(ledger, place, {"days": days, "rows": max(1, rows // place.weight)})
        for place in CONTACT_TABLES
        if place.blank
    }


def _in_chunks(ledger: Ledger, place: ContactTable, values: dict[str, Any]) -> int:
    old = f"t.ctid = any (array(select t.ctid from {place.table} t where {place.full} and {place.settled} and {place.since} < "
    old += "clock_timestamp() - make_interval(days => %(days)s) limit %(rows)s))"
    total = 0
    while blanked := _one_chunk(ledger, place, old, values):
        total += blanked
        if blanked < values["rows"]:
            break
    return total


@retried
def _one_chunk(ledger: Ledger, place: ContactTable, condition: str, values: dict[str, Any]) -> int:
    with ledger.transaction() as connection:
        return _blank(connection, place, condition, values)


def _blank(connection: Connection[Any], place: ContactTable, condition: str, values: dict[str, Any]) -> int:
    then = f", {place.then}" if place.then else ""
    row = one(
        connection,
        f"with blanked as (update {place.table} t set {place.blank} where {condition} returning t.*){then} "
        "select count(*) from blanked",
        values,
    )
    return int(row[0])
