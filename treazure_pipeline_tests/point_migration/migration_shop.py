"""A shop that moves its points into Engage: the steps of the migration as the assets call them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from treazure_pipeline.connections import Connections
from treazure_pipeline.point_migration import backfill, steps
from treazure_pipeline.point_migration.audit import Audited
from treazure_pipeline.point_migration.backfill import Migration
from treazure_pipeline.point_migration.logs import Fetched
from treazure_pipeline.point_migration.roster import Roster
from treazure_pipeline.point_migration.shards import Written
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of

SHARDS = 3


@dataclass
class MigrationShop:
    """A shop and the home in which its migration writes."""

    shop: Shop
    home: Path

    def connect(self, **changes: str) -> Connections:
        return self.shop.connect("background_connections", **changes)

    def prepare(
        self, *, mapping: Path | str | None = None, although_loaded: bool = False, by: str = "files", **changes: str
    ) -> Roster:
        with self.connect(**changes) as connections:
            return steps.prepare(
                connections, account_of(connections), connections.settings.programmes[0], run_id="prepare",
                mapping=None if mapping is None else str(mapping), although_loaded=although_loaded, by=by,
            )  # fmt: skip

    def fetch(self, shard: int, *, leave_out_unreadable: bool = False, **changes: str) -> Fetched:
        with self.connect(**changes) as connections:
            return steps.fetch(connections, account_of(connections), shard, leave_out_unreadable=leave_out_unreadable)

    def write(self, shard: int, **changes: str) -> Written:
        with self.connect(**changes) as connections:
            return steps.write(connections, account_of(connections), shard)

    def shards(self) -> list[Written]:
        written = []
        for shard in range(SHARDS):
            self.fetch(shard)
            written.append(self.write(shard))
        return written

    def deliver(self, *, by: str = "files", changes: dict[str, str] | None = None, **how: Any) -> dict[str, Any]:
        with self.connect(**(changes or {})) as connections:
            return steps.deliver(connections, account_of(connections), by=by, **how).figures

    def audit(self, *, accepted_by: str | None = None, **changes: str) -> Audited:
        with self.connect(**changes) as connections:
            return steps.audit(connections, account_of(connections), run_id=uuid.uuid4().hex, accepted_by=accepted_by)

    def import_files(self) -> list[dict[str, Any]]:
        """Let Engage import what was delivered, in the order of the names."""
        return self.shop.sandbox.import_folder(self.delivered)

    def by_files(self) -> Audited:
        """All steps, by files."""
        self.prepare()
        self.shards()
        self.deliver()
        self.import_files()
        return self.audit()

    def by_api(self) -> Audited:
        """All steps, by API."""
        self.prepare()
        self.shards()
        self.deliver(by="api")
        self.shop.sandbox.apply_queue()
        return self.audit()

    def mode(self) -> str:
        ((mode,),) = self.shop.sql("select mode from programme")
        return str(mode)

    def migration(self) -> Migration:
        with self.connect() as connections:
            return backfill.opened(connections.ledger, account_of(connections))

    @property
    def delivered(self) -> Path:
        """The importer's folder."""
        return self.home / "engage" / "import"

    @property
    def reports(self) -> Path:
        """The folder of MIGRATION_REPORT_URL."""
        return self.home.parent / "reports"


@pytest.fixture
def new_migration_shop(new_shop: Callable[..., Shop], tmp_path: Path) -> Callable[..., MigrationShop]:
    def new(*, environ: dict[str, str] | None = None, **seed: Any) -> MigrationShop:
        home = tmp_path / "home"
        given = {
            "TREAZURE_PIPELINE_HOME": str(home),
            "MIGRATION_SHARDS": str(SHARDS),
            "MIGRATION_DELIVERY_URL": (home / "engage" / "import").as_uri(),
            "MIGRATION_REPORT_URL": (tmp_path / "reports").as_uri(),
        } | (environ or {})
        behavior = {"max_requests_per_second": 100_000} | seed.pop("behavior", {})
        return MigrationShop(new_shop(environ=given, behavior=behavior, **seed), home)

    return new


@pytest.fixture
def migration_shop(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    """A shop of 200 members, nothing of it in Engage."""
    return new_migration_shop()
