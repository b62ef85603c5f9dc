"""One function that assembles everything Dagster sees; tests and commands call it with other connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg

from treazure_pipeline.connections import Connections
from treazure_pipeline.orchestration.adjustments import build_adjustments
from treazure_pipeline.orchestration.balance_sync import CONNECTIONS, build_balance_sync
from treazure_pipeline.orchestration.migration import build_migration
from treazure_pipeline.settings import Settings


def build_definitions(settings: Settings, connect: Callable[[Settings], Connections] = Connections) -> dg.Definitions:
    """Assemble the definitions for the programmes in `settings`; nothing is connected to.

    `connect` makes the connections of a run from the settings; they are closed with the run.
    """

    @dg.resource(description="The ledger and the clients of both systems, made from the settings in the environment.")
    def connections(_context: dg.InitResourceContext) -> Iterator[Connections]:
        with connect(settings) as opened:
            yield opened

    syncs = [build_balance_sync(programme, prefixed=settings.prefixed) for programme in settings.programmes]
    sync = dg.Definitions(
        assets=[asset for sync in syncs for asset in sync.assets],
        jobs=[sync.job for sync in syncs],
        schedules=[sync.schedule for sync in syncs],
        resources={CONNECTIONS: connections},
        # Also for what is materialised by hand: one process keeps one lock and its connections from step to step.
        executor=dg.in_process_executor,
    )
    migrations = [
        build_migration(programme, prefixed=settings.prefixed, shards=settings.migration_shards)
        for programme in settings.programmes
    ]
    migration = dg.Definitions(
        assets=[asset for migration in migrations for asset in migration.assets],
        jobs=[job for migration in migrations for job in migration.jobs],
    )
    return dg.Definitions.merge(sync, build_adjustments(settings.programmes), migration)
