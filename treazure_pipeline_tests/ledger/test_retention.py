from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from treazure_pipeline.balance_sync import merge, staging
from treazure_pipeline.balance_sync.snapshot import read_account
from treazure_pipeline.connections import Connections
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.ledger import coverage, frames
from treazure_pipeline.retention.prune import Pruned, prune
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests import materializations, processes
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_adds_up, assert_in_step, fetch, run_of

NOBODY = "http://127.0.0.1:9"
YEARS = 24 * 500


def prune_and_die(environ: dict[str, str], point: str) -> None:
    processes.die_at("return", point, 1)
    with Connections(load_settings(environ)) as connections:
        prune(connections.ledger, 400, rows=1, batches_at_once=1)


def years_pass(shop: Shop) -> None:
    shop.time_passes(hours=YEARS)
    shop.sql("update change set noted_at = noted_at - interval '500 days'")


def pruned(shop: Shop, days: int = 400) -> Pruned:
    with shop.connect() as connections:
        return prune(connections.ledger, days, rows=3, batches_at_once=2)


def assert_whole(shop: Shop) -> None:
    """Every balance leads to the request that carried it, coverage has no hole, and all adds up."""
    carried = shop.sql(
        "select l.contact, l.sent, r.amount from ledger l left join batch b on b.id = l.batch "
        "left join lateral unnest(b.contacts, b.amounts) r (contact, amount) on r.contact = l.contact"
    )
    assert carried
    assert [row for row in carried if row[1] != row[2]] == []
    with shop.connect() as connections:
        account = account_of(connections)
        assert coverage.holes(connections.ledger, account) == []
        assert_adds_up(connections, account)


def hours_of_shop_life(shop: Shop) -> None:
    shop.sync()
    for _ in range(3):
        shop.sandbox.play_hour(changes=60)
        shop.sync()


def test_old_history_goes_what_is_needed_stays_and_the_next_sync_adds_up(shop: Shop) -> None:
    hours_of_shop_life(shop)
    master = shop.known_master()
    years_pass(shop)
    shop.sandbox.play_hour(changes=20)
    shop.sync()
    young = shop.sql("select count(*) from change where noted_at > now() - interval '1 day'")
    done = pruned(shop)
    assert done.changes > 0
    assert done.stripped > 0
    assert shop.sql("select count(*) from change") == young
    assert shop.sql("select sum(cardinality(contacts)) <= 220 from batch") == [(True,)]
    assert shop.known_master().keys() == master.keys()
    assert_whole(shop)
    again = pruned(shop)
    assert (again.changes, again.batches, again.stripped) == (0, 0, 0)
    shop.sandbox.play_hour(changes=60)
    shop.sync()
    assert_whole(shop)
    assert_in_step(shop)


def test_a_batch_of_which_nothing_is_needed_goes(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.set_points(dict.fromkeys(shop.sandbox.contact_ids(200), 7777))
    years_pass(shop)
    shop.sync()
    assert (pruned(shop).batches, pruned(shop).stripped) == (4, 0)
    assert shop.sql("select count(*) from batch") == [(4,)]
    assert_whole(shop)


def test_what_is_planned_pending_or_under_way_stays_however_old_it_is(shop: Shop) -> None:
    shop.sync()
    shop.sandbox.play_hour(changes=150)
    shop.sync(complete=False, ENGAGE_BASE_URL=NOBODY)
    shop.sandbox.set_fault("lost_after", count=1)
    shop.send_pending(complete=False, ENGAGE_CONCURRENCY="1", TREAZURE_PIPELINE_RETRY_SCALE="0")
    shop.sandbox.play_hour(changes=50)
    with shop.connect() as connections:
        account = account_of(connections)
        fetch(connections, account)
        observation = staging.staged(connections.ledger, account)
        assert observation is not None
        merge.merge(connections.ledger, account, observation, batch_size=50)
    before = shop.sql("select * from unsettled order by contact")
    assert before
    planned = shop.sql("select * from change where planned order by id")
    assert planned
    years_pass(shop)
    pruned(shop)
    kept: list[tuple[Any, ...]] = shop.sql("select * from unsettled order by contact")
    assert [row[:4] for row in kept] == [row[:4] for row in before]
    assert len(shop.sql("select id from change where planned")) == len(planned)
    shop.sync()
    assert_whole(shop)
    assert_in_step(shop)


def test_a_lost_request_keeps_the_rows_that_are_still_pending(shop: Shop) -> None:
    shop.sync()
    contact, other = sorted(shop.sandbox.contact_ids(200))[:2]
    shop.sandbox.set_points({contact: 5, other: 6})
    shop.sandbox.set_fault("lost_after", count=None)
    shop.sync(complete=False)
    shop.sandbox.clear_faults()
    assert set(shop.pending()) == {contact, other}
    years_pass(shop)
    shop.sql("delete from pending where contact = %s", other)
    pruned(shop)
    lost = shop.sql("select distinct contacts::text[] from batch where state = 'lost'")
    assert lost == [([contact],)]


def test_readings_of_single_accounts_go_unless_a_balance_comes_from_them_and_exports_stay(shop: Shop) -> None:
    shop.sync()
    contact, other = shop.sandbox.contact_ids(2)
    with shop.connect() as connections:
        account = account_of(connections)
        for points in (5, 6, 6):
            shop.sandbox.set_points({contact: points})
            read_account(run_of(connections, account, "read"), contact)
        read_account(run_of(connections, account, "read"), other)
    shop.send_pending()
    newest = shop.sql("select observation from ledger where contact = any (%s::uuid[])", [contact, other])
    exports = shop.sql("select id from observation where source = 'export'")
    years_pass(shop)
    assert pruned(shop).observations == 2
    left = shop.sql("select id from observation where source = 'account'")
    assert sorted(left) == sorted(newest)
    assert shop.sql("select id from observation where source = 'export'") == exports
    shop.sync()
    assert_whole(shop)


def test_old_plans_lose_their_rows_and_keep_who_approved_them(shop: Shop) -> None:
    shop.sync()
    for state in ("open", "approved", "used", "replaced", "expired"):
        shop.sql(
            "with made as (insert into plan (programme, digest, run_id, state, made_at, figures, reasons, approved_by) "
            "select id, %s, 'run', %s, now() - interval '401 days', '{}', '{}', 'me' from programme returning id) "
            "insert into plan_lot select id, '{}', '{}', '{}' from made",
            state, state,
        )  # fmt: skip
    assert pruned(shop).plan_lots == 3
    assert shop.sql("select count(*), count(*) filter (where approved_by = 'me') from plan") == [(5, 5)]
    left = shop.sql("select state from plan_lot join plan on plan.id = plan order by state")
    assert left == [("approved",), ("open",)]


def test_transitions_of_finished_adjustments_and_resolved_rejections_go_and_the_adjustments_stay(shop: Shop) -> None:
    shop.sandbox.set_fault("bad_rows", raw_rows=["1", "2"])
    shop.sync()
    shop.sql("update rejection set resolved_at = now() - interval '401 days', resolved_by = 'person' where raw = '1'")
    for number, (state, finished) in enumerate([("done", 401), ("done", 399), ("uncertain", None)], start=1):
        shop.sql(
            "insert into adjustment (event_id, source, payload, receipt, state, finished_at) "
            "values (%s, 'manual', '{}', %s, %s, now() - make_interval(days => %s))",
            str(number), str(number), state, finished,
        )  # fmt: skip
        shop.sql("insert into adjustment_transition values (%s, now() - interval '402 days', 'queued')", number)
    done = pruned(shop)
    assert (done.transitions, done.rejections) == (1, 1)
    assert shop.sql("select adjustment from adjustment_transition order by 1") == [(2,), (3,)]
    assert shop.sql("select count(*) from adjustment") == [(3,)]


def test_look_ups_in_the_console_go_when_they_are_old(shop: Shop) -> None:
    for days in (401, 399):
        shop.sql(
            "insert into lookup (at, looked_by, contact) "
            "values (now() - make_interval(days => %s), 'me', gen_random_uuid())",
            days,
        )
    assert pruned(shop).lookups == 1
    assert shop.sql("select count(*) from lookup") == [(1,)]


def test_what_reading_back_found_goes_but_not_the_last_run_nor_the_verdicts(shop: Shop) -> None:
    shop.sync()
    for _ in range(2):
        shop.sql(
            "insert into verification_run (programme, run_id, started_at) "
            "select id, 'run', now() - interval '401 days' from programme"
        )
    shop.sql(
        "insert into finding (programme, contact, verdict, sent, read_at, since, marked, run_id) "
        "select programme, contact, 'drift', sent, now() - interval '401 days', now(), true, 'run' from ledger limit 5"
    )
    shop.sql(
        "insert into verification (programme, contact, verdict, sent, read_at) "
        "select programme, contact, 'drift', sent, now() - interval '401 days' from ledger limit 5"
    )
    assert pruned(shop).findings == 5 + 1
    assert shop.sql("select count(*) from verification_run") == [(1,)]
    assert shop.sql("select count(*) from verification") == [(5,)]


@pytest.mark.parametrize("point", ["_in_chunks", "_prune_batches"])
def test_a_pruning_that_is_killed_harms_nothing_and_the_next_one_finishes_it(shop: Shop, point: str) -> None:
    hours_of_shop_life(shop)
    years_pass(shop)
    shop.sync()
    assert processes.killed(prune_and_die, shop.variables, point)
    assert_whole(shop)
    shop.sandbox.play_hour(changes=60)
    shop.sync()
    pruned(shop)
    assert shop.sql("select id from change where noted_at < now() - interval '400 days'") == []
    assert_whole(shop)
    assert_in_step(shop)


def test_the_daily_job_prunes_by_the_setting_and_shows_what_it_deleted(shop: Shop) -> None:
    hours_of_shop_life(shop)
    shop.sql("update change set noted_at = noted_at - interval '8 days'")
    definitions = build_definitions(shop.settings(LEDGER_HISTORY_DAYS="7"))
    schedule = definitions.resolve_schedule_def("prune_history_schedule")
    assert schedule.job_name == "prune_history"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("prune_history").execute_in_process(instance=instance)
    figures_shown = materializations.of(result, "ledger_history")
    assert figures_shown["deleted_changes"] == 4 + 2 + 2 + 2
    assert float(figures_shown["megabytes_batch"]) > 0
    assert shop.sql("select count(*) from change") == [(0,)]
    assert_whole(shop)


def test_every_change_is_told_with_from_to_when_why_and_run(shop: Shop) -> None:
    run = shop.sync()
    contact = shop.sandbox.contact_ids(1)[0]
    ((first,),) = shop.sql("select sent from ledger where contact = %s", contact)
    shop.sandbox.set_points({contact: "12.75"})
    second = shop.sync()
    with shop.connect() as connections:
        account = account_of(connections)
        shop.sandbox.set_points({contact: "0"})
        read_account(run_of(connections, account, "adjusted"), contact)
        found = frames.changes(connections.ledger, account, [contact.upper()])
        assert list(found["before"]) == [None, first, Decimal("12.75")]
        assert list(found["after"]) == [first, Decimal("12.75"), 0]
        assert list(found["points"]) == [first, Decimal("12.75") - first, Decimal("-12.75")]
        assert list(found["source"]) == ["export", "export", "account"]
        assert list(found["run_id"]) == [run.id, second.id, "adjusted"]
        assert found["window_from"][1] == second.snapshot.window.start
        noted = found["noted_at"][1].to_pydatetime()
        later = frames.changes(connections.ledger, account, start=noted)
        assert len(later) == len(frames.changes(connections.ledger, account)) - 200
        assert len(frames.changes(connections.ledger, account, end=noted)) == 200
        assert len(frames.changes(connections.ledger, account, start=datetime.now(UTC) + timedelta(days=1))) == 0
        assert len(frames.changes(connections.ledger, account, limit=5)) == 5
    total = shop.sql("select sum(c.points) = max(g.points_total) from balance_change c, programme g")
    assert total == [(True,)]


def test_the_queries_in_the_documentation_work(shop: Shop) -> None:
    hours_of_shop_life(shop)
    text = (Path(__file__).parents[2] / "docs" / "ledger-history.md").read_text()
    contact = shop.sandbox.contact_ids(1)[0]
    one, per_day, liability = re.findall(r"```sql\n(.*?);\n```", text, re.DOTALL)
    assert shop.sql(one.replace("0b5a0b1e-0000-0000-0000-000000000000", contact))[0][3] == "export"
    ((_, changes, given, taken),) = shop.sql(per_day)
    ((_, total),) = shop.sql(liability)
    assert changes == shop.sql("select sum(cardinality(contacts)) from change")[0][0]
    assert given + (taken or 0) == total == shop.sql("select points_total from programme")[0][0]
