from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from treazure_pipeline.adjustments import queue
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.orchestration.names import FOREGROUND
from treazure_pipeline_tests import materializations
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.dagster_ui import run_check

SENSOR, JOB = "adjustment_queue_sensor", "process_adjustments"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def tick(adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    """What the sensor asks the daemon for."""
    definitions = build_definitions(adjustment_shop.settings())
    sensor = next(sensor for sensor in definitions.sensors or () if sensor.name == SENSOR)
    assert isinstance(sensor, dg.SensorDefinition)
    with (
        adjustment_shop.connect() as connections,
        dg.build_sensor_context(instance, resources={"connections": connections}) as context,
    ):
        evaluated = sensor.evaluate_tick(context)
    if evaluated.run_requests:
        (request,) = evaluated.run_requests
        return request
    return dg.SkipReason(evaluated.skip_message)


def launched(
    adjustment_shop: AdjustmentShop,
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    """A run of the job in this state."""
    job = build_definitions(adjustment_shop.settings()).resolve_job_def(JOB)
    return instance.create_run_for_job(job, status=status, tags=tags)


def test_nothing_due_starts_no_run(adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance) -> None:
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    adjustment_shop.process()
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)


def test_what_is_due_starts_a_run_without_a_key(adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    request = tick(adjustment_shop, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key is None
    result = build_definitions(adjustment_shop.settings()).resolve_job_def(JOB).execute_in_process(instance=instance)
    assert result.success
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)
    assert_each_once(adjustment_shop)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_no_second_run_is_started_while_one_is_under_way(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    run = launched(adjustment_shop, instance, status)
    skipped = tick(adjustment_shop, instance)
    assert isinstance(skipped, dg.SkipReason)
    assert run.run_id in str(skipped.skip_message)


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.SUCCESS]
)
def test_a_run_that_has_ended_is_followed_by_the_next(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    launched(adjustment_shop, instance, status)
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)


def test_a_foreground_run_whose_process_may_be_dead_blocks_nothing(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance
) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    launched(adjustment_shop, instance, dg.DagsterRunStatus.STARTED, FOREGROUND)
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)


def test_what_waits_for_its_time_or_for_a_person_starts_no_run(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance
) -> None:
    one, other = adjustment_shop.contacts(2)
    adjustment_shop.give(one, 5)
    adjustment_shop.give(one, 6)
    adjustment_shop.give(other, 0, definition_id=9)
    adjustment_shop.sandbox.set_fault("lost_after", on=["transaction"])
    adjustment_shop.process()
    assert adjustment_shop.states() == ["sending", "queued", "rejected"]
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)
    adjustment_shop.later()
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)
    adjustment_shop.sql("update adjustment set state = 'uncertain' where state = 'sending'")
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)


def test_a_programme_in_migration_starts_no_run(adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    with adjustment_shop.working():
        adjustment_shop.sql("update programme set mode = 'migrating'")
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)
    adjustment_shop.process()
    assert adjustment_shop.states() == ["queued"]
    adjustment_shop.later()
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)
    adjustment_shop.sql("update programme set mode = 'live'")
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)


def test_a_contact_that_engage_refuses_starts_a_run_only_when_it_is_tried_again(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance
) -> None:
    contact = adjustment_shop.contacts(1)[0]
    adjustment_shop.sandbox.know([contact], known=False)
    adjustment_shop.give(contact, 5)
    adjustment_shop.process(TREAZURE_PIPELINE_RETRY_SCALE="1")
    adjustment_shop.later()
    assert adjustment_shop.states() == ["posted"]
    assert isinstance(tick(adjustment_shop, instance), dg.SkipReason)
    adjustment_shop.sandbox.know([contact], known=True)
    adjustment_shop.sql("update pending set next_try = clock_timestamp()")
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)
    adjustment_shop.process()
    assert adjustment_shop.states() == ["done"]
    assert_each_once(adjustment_shop)


def test_a_failed_run_says_why_and_the_checks_tell_what_needs_a_person(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance
) -> None:
    adjustment_shop.give(adjustment_shop.contacts(1)[0], 5)
    wrong = build_definitions(adjustment_shop.settings(TREAZURE_CLIENT_SECRET="wrong")).resolve_job_def(JOB)
    (failed,) = [
        event
        for event in wrong.execute_in_process(instance=instance, raise_on_error=False).all_events
        if event.is_step_failure
    ]
    assert failed.step_failure_data.user_failure_data is not None
    assert str(failed.step_failure_data.user_failure_data.description).startswith(
        "The adjustments wait; nothing is lost."
    )
    adjustment_shop.later()
    assert isinstance(tick(adjustment_shop, instance), dg.RunRequest)
    adjustment_shop.deliver("{}")
    result = build_definitions(adjustment_shop.settings()).resolve_job_def(JOB).execute_in_process(instance=instance)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"nothing_is_uncertain": True, "queue_moves": True, "nothing_is_rejected": False}
    shown = materializations.of(result, "processed_adjustments")
    assert (shown["posted"], shown["rejected"]) == (1, 1)
    assert_each_once(adjustment_shop)


def test_checks_of_the_queue_turn_green_once_a_person_has_decided(
    adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance
) -> None:
    one, other = adjustment_shop.contacts(2)
    adjustment_shop.give(one, 5)
    adjustment_shop.give(other, 0)
    adjustment_shop.process()
    adjustment_shop.sql("update adjustment set state = 'uncertain', finished_at = null where contact = %s", one)
    adjustment_shop.sql("update adjustment set received_at = received_at - interval '2 hours'")

    def green() -> dict[str, bool]:
        names = ("nothing_is_uncertain", "queue_moves", "nothing_is_rejected")
        return {name: run_check(adjustment_shop, instance, "processed_adjustments", name) for name in names}

    assert set(green().values()) == {False}
    with adjustment_shop.working() as work:
        for (number,) in adjustment_shop.sql("select id from adjustment"):
            assert queue.discard(work.ledger, number, "looked up by hand", posted=False)
    assert set(green().values()) == {True}
