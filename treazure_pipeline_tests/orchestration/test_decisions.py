"""What a person decides in Dagster's launchpad: as with commands and in the console, kept with name and reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from treazure_pipeline.cli import commands
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.orchestration.decisions import is_decision
from treazure_pipeline_tests.adjustments.adjustment_shop import (
    AdjustmentShop,
    _adjustment_sandbox,
    adjustment_shop,
    new_adjustment_shop,
)
from treazure_pipeline_tests.console.test_plans import grow, open_digest

__all__ = ["_adjustment_sandbox", "adjustment_shop", "new_adjustment_shop"]

WHO = {"decided_by": "Sam", "reason": "seen in Treazure"}
Launch = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def launch(adjustment_shop: AdjustmentShop) -> Iterator[Launch]:
    """Launches a job with what a form of the launchpad would hold."""
    with dg.DagsterInstance.ephemeral() as instance:

        def launched(job: str, **config: Any) -> dg.ExecuteInProcessResult:
            op = "approve" if job == "approve_plan" else f"decide_{job}"
            return (
                build_definitions(adjustment_shop.settings())
                .resolve_job_def(job)
                .execute_in_process(
                    instance=instance, raise_on_error=False, run_config={"ops": {op: {"config": config}}}
                )
            )

        yield launched


def told(result: dg.ExecuteInProcessResult) -> str:
    """The sentence that the run shows, done or failed."""
    if result.success:
        (output,) = [event for event in result.all_node_events if event.event_type_value == "STEP_OUTPUT"]
        return str(output.step_output_data.metadata["about"].value)
    (failed,) = [event for event in result.all_node_events if event.event_type_value == "STEP_FAILURE"]
    assert failed.step_failure_data.user_failure_data is not None
    return str(failed.step_failure_data.user_failure_data.description)


def decisions(shop: AdjustmentShop) -> list[tuple[Any, ...]]:
    return shop.sql("select decided_by, what, subject, why from decision order by id")


def test_refused_adjustments_are_sent_again_or_given_up(adjustment_shop: AdjustmentShop, launch: Launch) -> None:
    adjustment_shop.sandbox.set_fault("server_error", on=["transaction"], status=400, count=3)
    for contact in adjustment_shop.contacts(3):
        adjustment_shop.give(contact, 7)
    adjustment_shop.process()

    assert told(launch("retry_adjustments", numbers=[1, 99], **WHO)) == (
        "1: sent to Treazure again. Their state does not allow it: 99."
    )
    assert told(launch("discard_adjustments", numbers=[2], **WHO)) == "2: discarded."
    assert told(launch("discard_adjustments", numbers=[3], posted=True, **WHO)) == "3: counted as posted."
    assert "Nothing was done" in told(launch("discard_adjustments", numbers=[2], **WHO))

    assert adjustment_shop.states() == ["queued", "discarded", "posted"]
    assert decisions(adjustment_shop) == [
        ("Sam", "retried", "adjustment 1", "seen in Treazure"),
        ("Sam", "discarded", "adjustment 2", "seen in Treazure"),
        ("Sam", "found in Treazure", "adjustment 3", "seen in Treazure"),
    ]


def test_dead_letters_are_read_again_or_given_up(adjustment_shop: AdjustmentShop, launch: Launch) -> None:
    (contact,) = adjustment_shop.contacts(1)
    adjustment_shop.deliver('"no object"')
    adjustment_shop.deliver('"neither"')
    # As one that this version understands and an older one did not.
    event = {"eventType": "loyalty.addPoints", "payload": {"contactId": contact, "amount": 5, "pointDefinitionId": 1}}
    adjustment_shop.sql("update dead_letter set body = %s where id = 1", json.dumps(event))

    assert told(launch("retry_dead_letters", numbers=[1, 2], **WHO)) == (
        "1: read again. Their state does not allow it: 2."
    )
    assert told(launch("discard_dead_letters", numbers=[2], **WHO)) == "2: discarded."
    adjustment_shop.process()

    assert adjustment_shop.states() == ["done"]
    assert adjustment_shop.sql("select count(*) from dead_letter where settled_at is null") == [(0,)]
    assert [(what, subject) for _, what, subject, _ in decisions(adjustment_shop)] == [
        ("read again", "dead letter 1"),
        ("discarded", "dead letter 2"),
    ]


def test_a_held_plan_is_let_be_and_then_approved(adjustment_shop: AdjustmentShop, launch: Launch) -> None:
    adjustment_shop.sync()
    grow(adjustment_shop, 5_000_000)
    digest = open_digest(adjustment_shop)

    assert "It stays held" in told(launch("let_plan_be", digest=digest, **WHO))
    assert open_digest(adjustment_shop) == digest
    approved = launch("approve_plan", digest=digest[:8], approved_by="Kim", reason="a campaign")
    assert f"Plan {digest} of run" in told(approved)
    assert "was approved" in told(launch("let_plan_be", digest=digest, **WHO))

    assert decisions(adjustment_shop) == [
        ("Sam", "let be", f"plan {digest}", "seen in Treazure"),
        ("Kim", "approved", f"plan {digest}", "a campaign"),
    ]


def test_what_was_rejected_or_refused_is_tried_again_or_given_up(
    adjustment_shop: AdjustmentShop, launch: Launch
) -> None:
    (contact,) = adjustment_shop.contacts(1)
    adjustment_shop.sandbox.set_fault("bad_rows", raw_rows=[f'{{"accountNumber": "{contact}", "balance": "many"}}'])
    adjustment_shop.sync()
    ((digest,),) = adjustment_shop.sql("select digest from rejection")

    assert "choose a contact or a cause" in told(launch("retry_rejections", **WHO))
    assert told(launch("retry_rejections", cause="balance", **WHO)) == (
        "The next run sends 0 refused balances again and reads 1 account."
    )
    assert "not a full digest" in told(launch("discard_rejections", digests=[digest[:6]], **WHO))
    assert told(launch("discard_rejections", programme="points", digests=[digest], **WHO)) == "1 row discarded."
    assert adjustment_shop.sql("select resolved_by from rejection") == [("person",)]


def test_a_plan_is_let_be_with_a_command_that_asks_why(adjustment_shop: AdjustmentShop) -> None:
    adjustment_shop.sync()
    grow(adjustment_shop, 5_000_000)
    digest = open_digest(adjustment_shop)

    def approve(*more: str) -> Result:
        arguments = ["approve", digest, "--let-be", "--by", "Kim", *more]
        return CliRunner().invoke(commands, arguments, env=adjustment_shop.variables)

    assert approve().exit_code == 2
    done = approve("--reason", "a typing error")
    assert "is not approved" in done.output
    assert open_digest(adjustment_shop) == digest
    assert decisions(adjustment_shop) == [("Kim", "let be", f"plan {digest}", "a typing error")]


@pytest.mark.parametrize("given", [{"decided_by": "", "reason": "x"}, {"decided_by": "Sam", "reason": ""}])
def test_nobody_decides_without_a_name_and_a_reason(launch: Launch, given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="must have at least 1 character"):
        launch("discard_adjustments", numbers=[1], **given)


def test_every_decision_of_the_console_has_a_job(adjustment_shop: AdjustmentShop) -> None:
    repository = build_definitions(adjustment_shop.settings()).get_repository_def()
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    assert {name for name in jobs if is_decision(repository.get_job(name))} == {
        "approve_plan", "let_plan_be", "retry_rejections", "discard_rejections",
        "retry_adjustments", "discard_adjustments", "retry_dead_letters", "discard_dead_letters",
    }  # fmt: skip
