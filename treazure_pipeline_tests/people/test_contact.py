"""One person's data: exported whole, erased without anything counting twice, and blanked when it is old."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from treazure_pipeline.cli import commands
from treazure_pipeline.retention import contacts
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.people.test_marks import COMMENT, MAIL, MARKS, NAME, PERSON


def command(adjustment_shop: AdjustmentShop, *arguments: str) -> Result:
    """Run the command line as an operator of the shop."""
    return CliRunner(env=adjustment_shop.variables).invoke(commands, arguments)


def contact_command(adjustment_shop: AdjustmentShop, *arguments: str) -> Result:
    return command(adjustment_shop, "contact", *arguments)


def life(adjustment_shop: AdjustmentShop, contact: str) -> int:
    """Adjustments that are done, refused and unreadable, a rejected row, a refused balance; the number of the first."""
    done = adjustment_shop.give(contact, 5, description=COMMENT, user_name=NAME, reason=COMMENT, user_id=MAIL)
    adjustment_shop.process()
    adjustment_shop.sandbox.set_fault("server_error", on=["transaction"], status=400, quotes=True)
    adjustment_shop.give(contact, 6, description=COMMENT)
    adjustment_shop.process()
    adjustment_shop.deliver(
        json.dumps({"contactId": contact, "amount": NAME, "pointDefinitionId": 1, "description": COMMENT})
    )
    adjustment_shop.deliver(json.dumps({"contactId": contact, "amount": 1, "who": NAME})[:-1])
    adjustment_shop.process()
    row = json.dumps({"accountNumber": contact, "balance": NAME, "comment": COMMENT})
    adjustment_shop.sandbox.set_fault("bad_rows", raw_rows=[row])
    adjustment_shop.sync()
    adjustment_shop.sql(
        "insert into points_history (programme, contact, position, date_time, amount, balance, transaction_type, "
        "comment, operator_id, properties) values (1, %s, 1, now(), 5, 5, 'Load', %s, %s, %s)",
        contact, COMMENT, NAME, PERSON,
    )  # fmt: skip
    adjustment_shop.sql(
        "insert into points_history_read (programme, contact, read_at, tried_at) values (1, %s, now(), now())", contact
    )
    adjustment_shop.sql("insert into points_history_month values (1, date_trunc('month', now()), 1, 'epoch')")
    return done


def dump(adjustment_shop: AdjustmentShop) -> str:
    """Everything that the ledger holds, as text."""
    tables = adjustment_shop.sql(
        "select table_name from information_schema.tables where table_schema = 'treazure_pipeline' "
        "and table_type = 'BASE TABLE' and table_name <> 'erasure'"
    )
    return str([adjustment_shop.sql(f"select t::text from {table} t") for (table,) in tables]).lower()  # noqa: S608


def marks_in(text: str) -> list[str]:
    return [mark for mark in MARKS if mark in text.lower()]


def unknown_tables(adjustment_shop: AdjustmentShop) -> set[str]:
    """The tables with a contact, or with texts of others, that an export would leave out."""
    tables = adjustment_shop.sql(
        "select distinct c.table_name from information_schema.columns c join information_schema.tables t "
        "using (table_schema, table_name) where c.table_schema = 'treazure_pipeline' and t.table_type = 'BASE TABLE' "
        "and (c.column_name in ('body', 'payload', 'raw', 'comment', 'description') "
        "or c.udt_name in ('uuid', '_uuid')) and c.table_name not in ('alert', 'verification_progress') "
        "and not (select relispartition from pg_class where oid = to_regclass('treazure_pipeline.' || c.table_name))"
    )
    return {name for (name,) in tables} - {place.table for place in contacts.CONTACT_TABLES}


def test_whatever_holds_a_contact_or_a_text_of_others_is_exported(adjustment_shop: AdjustmentShop) -> None:
    assert unknown_tables(adjustment_shop) == set(), "ledger/contacts.py has to know them"
    adjustment_shop.sql("create table a_new_one (contact uuid); create table another (id bigint, raw text)")
    assert unknown_tables(adjustment_shop) == {"a_new_one", "another"}


def test_an_export_has_all_of_a_contact_and_nothing_of_another(adjustment_shop: AdjustmentShop) -> None:
    contact, other = adjustment_shop.contacts(2)
    life(adjustment_shop, contact)
    adjustment_shop.give(other, 3, description="of somebody else")
    adjustment_shop.process()

    with adjustment_shop.connect() as connections:
        found = contacts.export(connections.ledger, contact)

    text = json.dumps(found, default=str)
    assert other not in text
    assert "of somebody else" not in text
    for table in ("ledger", "change", "batch", "adjustment", "adjustment_transition", "dead_letter", "rejection",
                  "points_history", "observation"):  # fmt: skip
        assert found[table], table
    assert [row["amount"] for row in found["adjustment"]] == [5, 6, None]
    assert COMMENT in text
    assert PERSON in text or NAME in text


def test_what_is_erased_is_gone_and_counts_no_second_time(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    number = life(adjustment_shop, contact)
    ((event, receipt),) = adjustment_shop.sql("select event_id, receipt from adjustment where id = %s", number)
    svix = adjustment_shop.sql("select delivery_id from adjustment where id = %s", number)[0][0]
    before = adjustment_shop.sql(
        "select id, event_id, receipt, amount, state, received_at, balance from adjustment order by id"
    )
    assert marks_in(dump(adjustment_shop)) == list(MARKS)

    with adjustment_shop.connect() as connections:
        erased = contacts.erase(connections.ledger, contact, by="Ada", why="asked for by letter")
        again = contacts.erase(connections.ledger, contact, by="Ada", why="once more")

    assert erased.waiting == again.waiting == again.blanked == {}
    assert erased.blanked["adjustment"] == 3
    assert marks_in(dump(adjustment_shop)) == []
    assert (
        adjustment_shop.sql(
            "select id, event_id, receipt, amount, state, received_at, balance from adjustment order by id"
        )
        == before
    )
    assert adjustment_shop.sql("select contact::text, erased_by, why from erasure order by id")[0] == (
        contact, "Ada", "asked for by letter",
    )  # fmt: skip

    adjustment_shop.sandbox.redeliver(svix)
    adjustment_shop.deliver(json.dumps({"contactId": contact.upper(), "amount": 5.0, "pointDefinitionId": 1}), event)
    adjustment_shop.sandbox.wait_until_delivered()
    adjustment_shop.process()
    assert adjustment_shop.sql("select count(*) from adjustment") == [(len(before),)]
    assert adjustment_shop.sql("select receipt from adjustment where id = %s", number) == [(receipt,)]
    assert_each_once(adjustment_shop, never=1)


def test_what_waits_to_be_sent_keeps_its_text_until_it_is(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    number = adjustment_shop.give(contact, 5, description=COMMENT)

    waiting = contact_command(adjustment_shop, "erase", contact, "--by", "Ada", "--why", "asked", "--json")
    assert waiting.exit_code == 6
    assert json.loads(waiting.stdout.splitlines()[-1]) | {"erased": {}} == {
        "status": "waiting", "contact": contact, "erased": {}, "waiting": {"adjustment": 1},
    }  # fmt: skip
    adjustment_shop.process()
    assert adjustment_shop.movements(contact) == [COMMENT]
    assert contact_command(adjustment_shop, "erase", contact.upper(), "--by", "Ada", "--why", "asked").exit_code == 0
    exported = contact_command(adjustment_shop, "export", contact)
    assert exported.exit_code == 0
    found: dict[str, Any] = json.loads(exported.stdout)
    assert [row["id"] for row in found["tables"]["adjustment"]] == [number]
    assert len(found["tables"]["erasure"]) == 2
    assert marks_in(exported.stdout) == []


def test_texts_are_blanked_after_their_retention_and_not_before(adjustment_shop: AdjustmentShop) -> None:
    contact = adjustment_shop.contacts(1)[0]
    life(adjustment_shop, contact)
    waiting = adjustment_shop.give(contact, 9, description="still to be sent")
    with adjustment_shop.connect() as connections:
        assert sum(contacts.blank(connections.ledger, 90, rows=1).values()) == 0
        assert marks_in(dump(adjustment_shop)) == list(MARKS)
        adjustment_shop.sql("update adjustment set finished_at = finished_at - interval '91 days'")
        adjustment_shop.sql("update adjustment_transition set at = at - interval '91 days'")
        adjustment_shop.sql("update dead_letter set received_at = received_at - interval '91 days'")
        adjustment_shop.sql("update rejection set last_seen = last_seen - interval '91 days'")
        adjustment_shop.sql("update points_history_read set read_at = read_at - interval '91 days'")
        blanked = contacts.blank(connections.ledger, 90, rows=1)

    assert {name: count for name, count in blanked.items() if count} == {
        "rejection": 1, "adjustment": 3, "adjustment_transition": 2, "dead_letter": 1, "points_history_read": 1,
    }  # fmt: skip
    assert marks_in(dump(adjustment_shop)) == []
    assert "still to be sent" in str(adjustment_shop.sql("select payload::text from adjustment where id = %s", waiting))
    assert adjustment_shop.sql("select changed_at > 'epoch' from points_history_month") == [(True,)]


@pytest.mark.parametrize("guid", ["not-a-guid", "zebulon@quixotel.example"])
def test_a_contact_is_a_guid_and_anything_else_is_not_repeated(adjustment_shop: AdjustmentShop, guid: str) -> None:
    refused = contact_command(adjustment_shop, "export", guid)
    assert refused.exit_code == 2
    assert guid not in refused.stdout + refused.stderr


def test_a_description_is_shown_as_the_text_that_it_is(
    adjustment_shop: AdjustmentShop, empty_database_url: str, home: Path
) -> None:
    adjustment_shop.environ |= {"DAGSTER_POSTGRES_URL": empty_database_url, "TREAZURE_PIPELINE_HOME": str(home)}
    contact = adjustment_shop.contacts(1)[0]
    hostile = "[/b] [red] \x1b[2J\x9b31m \u202e"
    adjustment_shop.give(contact, 5, description=hostile, source=hostile)
    adjustment_shop.deliver(json.dumps({"contactId": contact, "amount": hostile, "pointDefinitionId": 1}))
    adjustment_shop.process()
    adjustment_shop.sandbox.set_fault("bad_rows", raw_rows=[json.dumps({"accountNumber": contact, "balance": hostile})])
    adjustment_shop.sync()

    for arguments in (["adjustments", "list"], ["explain", contact], ["rejections", "list", "--rows"]):
        shown = command(adjustment_shop, *arguments)
        assert shown.exit_code == 0, (shown.stdout, shown.stderr, shown.exception)
        assert all(one.isprintable() for one in shown.stdout.replace("\n", "")), arguments
    assert "[/b]" in command(adjustment_shop, "adjustments", "list").stdout
