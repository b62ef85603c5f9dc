from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from treazure_pipeline.point_migration.audit import DifferencesError, NotImportedYetError
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop


@pytest.fixture
def delivered(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    """A migration whose files wait for the importer."""
    migration_shop = new_migration_shop(members=60)
    migration_shop.prepare()
    migration_shop.shards()
    migration_shop.deliver()
    return migration_shop


def reports(migration_shop: MigrationShop) -> Path:
    return migration_shop.reports / "points" / "1" / "audit"


def members_with_points(migration_shop: MigrationShop) -> list[str]:
    return [row["contactId"] for row in migration_shop.shop.sandbox.balances() if float(row["treazure"] or 0) > 0]


def test_before_the_import_the_audit_says_so_and_the_programme_stays_in_migration(delivered: MigrationShop) -> None:
    for _ in range(2):
        with pytest.raises(NotImportedYetError, match="Not imported yet: none of 50 contacts"):
            delivered.audit()
    assert delivered.mode() == "migrating"
    assert delivered.shop.sql("select count(read_at) from migration_contact") == [(0,)]
    delivered.import_files()
    assert delivered.audit().equal == 60
    assert delivered.mode() == "live"


def test_nothing_is_audited_before_it_is_delivered(new_migration_shop: Callable[..., MigrationShop]) -> None:
    migration_shop = new_migration_shop(members=30)
    migration_shop.prepare()
    with pytest.raises(MigrationError, match="Run point_migration, then finish_migration"):
        migration_shop.audit()


def test_contacts_that_differ_are_listed_and_only_they_are_read_again(delivered: MigrationShop) -> None:
    one, *others = sorted(delivered.delivered.glob("*.csv"))
    for file in others:
        delivered.shop.sandbox.import_points(file)
    with pytest.raises(DifferencesError, match="contacts differ in Engage from what was imported"):
        delivered.audit()
    ((missing,),) = delivered.shop.sql(
        "select count(*) from migration_contact where read_back is null and imported > 0"
    )
    assert delivered.mode() == "migrating"
    delivered.shop.sandbox.import_points(one)
    before = delivered.shop.sandbox.report()["requests"]["read_accounts"]
    assert delivered.audit().equal == 60
    assert delivered.shop.sandbox.report()["requests"]["read_accounts"] == before + 50 + missing
    assert_in_step(delivered.shop)


def test_points_that_were_imported_twice_are_noticed_and_once_accepted_the_sync_mends_them(
    delivered: MigrationShop,
) -> None:
    bodies = [file.read_bytes() for file in delivered.delivered.iterdir()]
    delivered.import_files()
    twice = [delivered.shop.sandbox.import_points(body) for body in bodies]
    assert sum(answer["imported"] for answer in twice) > 0
    with pytest.raises(DifferencesError):
        delivered.audit()
    found = delivered.audit(accepted_by="Kim")
    assert found.differing == found.pending == len(members_with_points(delivered))
    assert delivered.shop.sql("select state, ended_by from migration") == [("closed", "Kim")]
    assert delivered.mode() == "live"
    assert delivered.shop.sync().pushed.sent == found.differing
    assert_in_step(delivered.shop)


def test_members_that_engage_does_not_know_are_shown_and_stay_pending(delivered: MigrationShop) -> None:
    stranger = members_with_points(delivered)[0]
    delivered.shop.sandbox.know([stranger], known=False)
    delivered.import_files()
    with pytest.raises(DifferencesError, match=f"{stranger}: imported .* no account"):
        delivered.audit()
    found = delivered.audit(accepted_by="Kim")
    assert (found.missing, found.pending) == (1, 1)
    assert list(delivered.shop.pending()) == [stranger]
    delivered.shop.sandbox.know([stranger], known=True)
    assert delivered.shop.sync().pushed.sent == 1
    assert_in_step(delivered.shop)


def test_the_ledger_learns_from_what_engage_shows_and_its_totals_add_up(delivered: MigrationShop) -> None:
    delivered.import_files()
    delivered.audit()
    assert delivered.shop.sql("select count(*), count(*) filter (where batch = 0) from ledger") == [(60, 60)]
    assert delivered.shop.sql("select contacts from known") == [(60,)]
    assert delivered.shop.sql("select loaded_at is not null from programme") == [(True,)]
    assert delivered.shop.pending() == {}
    run = delivered.shop.sync()
    assert (run.diff.figures.changed, run.pushed.requests) == (0, 0)


def test_the_report_holds_totals_files_findings_and_every_contact(delivered: MigrationShop) -> None:
    delivered.import_files()
    found = delivered.audit()
    text = (reports(delivered) / "audit.html").read_text()
    assert found.report == (reports(delivered) / "audit.html").as_uri()
    assert "All 60 contacts have in Engage what was imported for them." in text
    assert f"{found.in_engage:,f}".rstrip("0").rstrip(".") in text
    assert "<svg" in text
    assert "points-1-000-0001-" in text
    with (reports(delivered) / "contacts.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 60
    assert {row["verdict"] for row in rows} == {"equal"}


def test_hostile_texts_are_harmless_in_the_report(delivered: MigrationShop) -> None:
    delivered.shop.sql(
        "insert into migration_finding (migration, origin, kind, value) "
        "values (1, 'roster', 'unreadable_row', '<script>alert(1)</script>'), (1, 'roster', 'unreadable_row', '=1+1')"
    )
    delivered.import_files()
    delivered.audit()
    text = (reports(delivered) / "audit.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "'=1+1" in (reports(delivered) / "findings.csv").read_text()
