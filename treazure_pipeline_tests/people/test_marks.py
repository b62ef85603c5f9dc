"""A life with a marked name, mail address and comment, then a search for the marks wherever things are shown."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from treazure_pipeline.connections import Connections
from treazure_pipeline.definitions import build_definitions
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.orchestration import failures
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop
from treazure_pipeline_tests.alerts.conftest import Target

NAME, MAIL, COMMENT = "Zebulon Quixotel", "zebulon@quixotel.example", "for Zebulon, who found the Quixotel ring"
MARKS = ("zebulon", "quixotel")
PERSON = json.dumps({"name": NAME, "email": MAIL, "comment": COMMENT})
ROWS = [
    json.dumps({"accountNumber": MAIL, "balance": 1, "name": NAME}),
    json.dumps({"accountNumber": "{contact}", "balance": NAME, "comment": COMMENT}),
    json.dumps(NAME),
]


def marked(texts: dict[str, str]) -> dict[str, str]:
    """Where a mark is found, with what stands around it."""
    found = {}
    for place, text in texts.items():
        for mark in MARKS:
            at = text.lower().find(mark)
            if at >= 0:
                found[place] = text[max(0, at - 200) : at + 100]
    return found


class Life:
    """Runs jobs as the daemon would, on an instance whose storage is in files."""

    def __init__(self, adjustment_shop: AdjustmentShop, instance: dg.DagsterInstance, changes: dict[str, str]) -> None:
        self.adjustment_shop = adjustment_shop
        self.instance = instance
        self.changes = changes
        self.connections_failed: list[PipelineError] = []

    def run(self, job: str, shard: str | None = None, **config: dict[str, Any]) -> bool:
        definitions = build_definitions(self.adjustment_shop.settings(**self.changes))
        ops = {name: {"config": values} for name, values in config.items()}
        return bool(
            definitions.resolve_job_def(job)
            .execute_in_process(
                instance=self.instance, partition_key=shard, raise_on_error=False, run_config={"ops": ops}
            )
            .success
        )

    def alert(self) -> None:
        definitions = build_definitions(self.adjustment_shop.settings(**self.changes))
        with dg.build_sensor_context(
            self.instance, repository_def=definitions.get_repository_def(), resources=definitions.resources
        ) as context:
            definitions.resolve_sensor_def("alert_sensor").evaluate_tick(context)


def test_no_log_no_metadata_no_error_and_no_alert_shows_more_of_a_person_than_the_contact_id(
    adjustment_shop: AdjustmentShop,
    target: Target,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    storage, exported, home = tmp_path / "dagster", tmp_path / "exported", tmp_path / "home"
    for folder in (storage, exported, home):
        folder.mkdir()
    changes = {
        "TREAZURE_PIPELINE_HOME": str(home),
        "TREAZURE_PIPELINE_ALERT_URLS": target.url,
        "MIGRATION_SHARDS": "1",
        "MIGRATION_DELIVERY_URL": (tmp_path / "engage" / "import").as_uri(),
        "MIGRATION_REPORT_URL": (tmp_path / "reports").as_uri(),
    }
    contact, other = adjustment_shop.contacts(2)
    sandbox = adjustment_shop.sandbox
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        life = Life(adjustment_shop, instance, changes)

        sandbox.set_fault("bad_rows", raw_rows=[row.replace("{contact}", contact) for row in ROWS])
        assert life.run("hourly_balance_sync")

        person = {"description": COMMENT, "user_name": NAME, "reason": COMMENT, "source": NAME, "user_id": MAIL}
        adjustment_shop.give(contact, 5, **person)
        assert life.run("process_adjustments")
        sandbox.set_fault("server_error", on=["transaction"], status=400, quotes=True)
        adjustment_shop.give(other, 7, **person)
        life.run("process_adjustments")
        sandbox.set_fault("server_error", on=["transaction"], status=500, quotes=True)
        adjustment_shop.give(contact, 7, **person)
        adjustment_shop.deliver(
            json.dumps({"contactId": MAIL, "amount": 5, "pointDefinitionId": 1, "description": COMMENT})
        )
        adjustment_shop.deliver(json.dumps({"contactId": contact, "amount": NAME, "pointDefinitionId": 1}))
        adjustment_shop.deliver(json.dumps(NAME))
        life.run("process_adjustments")
        assert {"rejected", "done", "sending"} <= set(adjustment_shop.states())

        sandbox.set_fault("server_error", on=["set_balances"], status=400, quotes=True)
        sandbox.play_hour(changes=5)
        life.run("hourly_balance_sync")
        assert life.run("refresh_points_history", points_history={"full": True, "export_url": str(exported)})
        ((rows,),) = adjustment_shop.sql("select count(*) from points_history where comment = %s", COMMENT)
        assert rows

        assert life.run("prepare_migration", migration_roster={"although_loaded": True})
        assert life.run("point_migration", "000")
        life.run("finish_migration")
        life.alert()
        assert life.run("prune_history")

    out, err = capfd.readouterr()
    texts = {"stdout": out, "stderr": err, "logs": caplog.text, "alerts": str(target.messages)}
    texts |= {f"records {number}": f"{one.args!r} {one.exc_text}" for number, one in enumerate(caplog.records)}
    texts |= {
        str(file.relative_to(storage)): file.read_bytes().decode("latin-1")
        for file in storage.rglob("*")
        if file.is_file()
    }
    texts |= {"names of files": " ".join(str(file) for file in tmp_path.rglob("*"))}
    assert any(len(text) > 100_000 for text in texts.values()), "Dagster's storage was searched"
    assert marked(texts) == {}
    kept = str(adjustment_shop.sql("select payload::text, reason from adjustment")) + str(
        adjustment_shop.sql("select raw from rejection")
    )
    assert all(mark in kept.lower() for mark in MARKS), "the ledger has what it was given"


def test_a_mistake_of_ours_tells_its_kind_and_place_and_not_its_text(adjustment_shop: AdjustmentShop) -> None:
    connections = Connections(adjustment_shop.settings())
    with pytest.raises(dg.Failure) as caught, failures.shown(connections.listener):
        int(NAME)

    failure = caught.value
    assert failure.description == "Unexpected ValueError; this is a bug in treazure-pipeline."
    assert "test_marks.py" in str(failure.metadata["where"].value)
    assert marked({"failure": f"{failure} {failure.metadata} {failure.__cause__}"}) == {}
    assert failure.__suppress_context__
