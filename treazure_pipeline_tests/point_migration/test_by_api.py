from __future__ import annotations

from collections.abc import Callable

import pytest

from treazure_pipeline.errors import AuthenticationError
from treazure_pipeline.point_migration.api import UncertainRowsError
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop


@pytest.fixture
def written(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    """A migration whose files are written, of a tenant that takes 20 rows a request."""
    migration_shop = new_migration_shop(members=60, environ={"ENGAGE_BATCH_SIZE": "20", "ENGAGE_CONCURRENCY": "1"})
    migration_shop.prepare()
    migration_shop.shards()
    return migration_shop


def states(migration_shop: MigrationShop) -> list[str]:
    return [state for (state,) in migration_shop.shop.sql("select state from migration_request order by id")]


def later(migration_shop: MigrationShop, hours: float) -> None:
    """Let time pass for what is remembered of requests."""
    migration_shop.shop.sql(
        "update migration_request set asked_at = asked_at - make_interval(secs => %s)", hours * 3600
    )


def finish(migration_shop: MigrationShop) -> None:
    migration_shop.shop.sandbox.apply_queue()
    assert migration_shop.audit().equal == 60
    assert_in_step(migration_shop.shop)


@pytest.mark.parametrize("fault", ["lost_before", "lost_after", "server_error", "rate_limited", "truncated", "html"])
def test_a_request_without_a_usable_answer_is_repeated_with_its_key_and_adds_once(
    written: MigrationShop, fault: str
) -> None:
    details = {"seconds": 0} if fault == "rate_limited" else {"effect": True} if fault == "server_error" else {}
    written.shop.sandbox.set_fault(fault, on=["add_transactions"], count=2, after=1, **details)
    done = written.deliver(by="api")
    assert done["sent"] == done["rows"]
    assert set(states(written)) == {"taken"}
    finish(written)


def test_delivering_by_api_twice_adds_nothing(written: MigrationShop) -> None:
    sent = written.deliver(by="api")["sent"]
    again = written.deliver(by="api")
    assert (again["sent"], again["sent_before"], again["requests"]) == (0, sent, 0)
    finish(written)


def test_what_has_no_answer_at_all_stays_open_and_the_next_run_goes_on(written: MigrationShop) -> None:
    written.shop.sandbox.set_fault("lost_after", on=["add_transactions"], count=5)
    with pytest.raises(UncertainRowsError, match="1 requests have no answer yet"):
        written.deliver(by="api")
    assert sorted(states(written))[:1] == ["sending"]
    written.deliver(by="api")
    finish(written)


@pytest.mark.parametrize("taken", [True, False])
def test_what_engage_no_longer_remembers_is_uncertain_and_left_to_a_person(
    written: MigrationShop, *, taken: bool
) -> None:
    written.shop.sandbox.set_fault("lost_after" if taken else "lost_before", on=["add_transactions"], count=5)
    with pytest.raises(UncertainRowsError):
        written.deliver(by="api")
    later(written, 24)
    before = written.shop.sandbox.report()["requests"]["add_transactions"]
    with pytest.raises(UncertainRowsError, match=r"For 1 more it can no longer be told.*from row 1"):
        written.deliver(by="api")
    assert written.shop.sandbox.report()["requests"]["add_transactions"] == before
    assert states(written).count("uncertain") == 1
    written.deliver(by="api", uncertain_are_taken=taken)
    finish(written)


def restore(migration_shop: MigrationShop) -> None:
    """Put the ledger back, on another server, to what it held before anything was sent."""
    migration_shop.shop.sql("delete from migration_request")
    migration_shop.shop.sql(
        "update migration set state = 'ready', delivered_by = null, delivered_at = null, ledger = 'another'"
    )


def test_a_restored_ledger_asks_a_person_before_it_adds_by_api(written: MigrationShop) -> None:
    written.deliver(by="api")
    restore(written)
    with pytest.raises(UncertainRowsError):
        written.deliver(by="api")
    assert set(states(written)) == {"uncertain"}
    written.deliver(by="api", uncertain_are_taken=True)
    finish(written)


def test_within_a_day_engage_knows_the_requests_of_a_restored_ledger_again(written: MigrationShop) -> None:
    written.deliver(by="api")
    restore(written)
    with pytest.raises(UncertainRowsError):
        written.deliver(by="api")
    written.deliver(by="api", uncertain_are_taken=False)
    finish(written)


def test_rows_that_engage_refuses_are_kept_with_the_reason_and_the_others_are_added(written: MigrationShop) -> None:
    (stranger,) = [row["contactId"] for row in written.shop.sandbox.balances() if float(row["treazure"]) > 0][:1]
    written.shop.sandbox.know([stranger], known=False)
    done = written.deliver(by="api")
    assert done["sent"] == done["rows"] - done["refused"]
    assert written.shop.sql("select distinct contact::text, kind from migration_finding") == [
        (stranger, "refused_by_engage")
    ]
    written.shop.sandbox.apply_queue()
    found = written.audit(accepted_by="Kim")
    assert (found.differing, found.missing, found.pending) == (1, 1, 1)


def test_refused_credentials_end_the_delivery_and_nothing_counts_as_sent(written: MigrationShop) -> None:
    with pytest.raises(AuthenticationError):
        written.deliver(by="api", changes={"ENGAGE_API_KEY": "wrong"})
    assert states(written) == []
    written.deliver(by="api")
    finish(written)


def test_what_has_begun_by_api_is_not_delivered_as_a_file_and_the_other_way_round(written: MigrationShop) -> None:
    written.shop.sql("update migration_file set state = 'delivered' where shard = 0")
    with pytest.raises(MigrationError, match="have been delivered"):
        written.deliver(by="api")
    written.shop.sql("update migration_file set state = 'written'")
    written.shop.sandbox.set_fault("lost_after", on=["add_transactions"], count=5)
    with pytest.raises(UncertainRowsError):
        written.deliver(by="api")
    with pytest.raises(MigrationError, match="by API"):
        written.deliver()
    written.deliver(by="api")
    assert written.deliver()["target"] == "the API"
    finish(written)
