"""One function that assembles everything Dagster sees; tests and commands call it with other connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg

from treazure_pipeline.connections import Connections
from treazure_pipeline.orchestration.adjustments import build_adjustments
from treazure_pipeline.orchestration.alerts import build_alerts
from treazure_pipeline.orchestration.balance_sync import CONNECTIONS, build_balance_sync
from treazure_pipeline.orchestration.guards import build_approval
from treazure_pipeline.orchestration.maintenance import build_maintenance
from treazure_pipeline.orchestration.migration import build_migration
from treazure_pipeline.orchestration.names import names_of
from treazure_pipeline.orchestration.points_history import build_points_history
from treazure_pipeline.orchestration.verification import build_verification
from treazure_pipeline.settings import Settings


def build_definitions(settings: Settings, connect: Callable[[Settings], Connections] = Connections) -> dg.Definitions:
    """Assemble the definitions for the programmes in `settings`; nothing is connected to.

    `connect` makes the connections of a run from the settings; they are closed with the run.
    """

    @dg.resource(description="The ledger and the clients of both systems, made from the settings in the environment.")
    def connections(_context: dg.InitResourceContext) -> Iterator[Connections]:
        with connect(settings) as opened:
            yield opened

    names = names_of(settings)
    shared = dg.Definitions(
        jobs=[build_approval(CONNECTIONS, names)],
        resources={CONNECTIONS: connections},
        # Also for what is materialised by hand: one process keeps one lock and its connections from step to step.
        executor=dg.in_process_executor,
    )
    of_programmes = [
        build(programme, names_of(settings, programme))
        for programme in settings.programmes
        for build in (build_balance_sync, build_verification, build_points_history)
    ]
    migrations = [
        build_migration(programme, names_of(settings, programme), shards=settings.migration_shards)
        for programme in settings.programmes
    ]
    return dg.Definitions.merge(
        shared,
        *of_programmes,
        *migrations,
        build_adjustments(settings.programmes, names),
        build_alerts(names),
        build_maintenance(settings, names),
    )
