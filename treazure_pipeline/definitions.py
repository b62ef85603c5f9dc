"""The code location, which `dagster dev`, `dg dev` and the workspace load: asks each capability for its definitions.

Tests and commands call `build_definitions` with connections of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from treazure_pipeline.adjustments import decision_definitions as of_queue
from treazure_pipeline.adjustments.definitions import build_adjustments
from treazure_pipeline.alerts.definitions import build_alerts
from treazure_pipeline.balance_sync import decision_definitions as of_sync
from treazure_pipeline.balance_sync.definitions import build_balance_sync
from treazure_pipeline.balance_sync.guard_definitions import JUDGMENTS, Judgments
from treazure_pipeline.connections import Connections
from treazure_pipeline.ledger.limiter import Priority
from treazure_pipeline.orchestration.links import linked
from treazure_pipeline.orchestration.names import names_of
from treazure_pipeline.point_migration.definitions import build_migration
from treazure_pipeline.points_history.definitions import build_points_history
from treazure_pipeline.retention.definitions import build_maintenance
from treazure_pipeline.settings import Settings, load_settings
from treazure_pipeline.verification.definitions import build_verification
from treazure_pipeline.verification.read_back import WAITS as VERIFICATION_WAITS

# What each kind of work needs from its connections: its place in the shared rates, and how long it retries.
PURPOSES: dict[str, dict[str, Any]] = {
    "connections": {"priority": Priority.SYNC},
    "adjustment_connections": {"priority": Priority.ADJUSTMENT},
    "background_connections": {"priority": Priority.BACKGROUND},
    "verification_connections": {"priority": Priority.BACKGROUND, "waits": VERIFICATION_WAITS},
}


def build_definitions(settings: Settings, connect: Callable[..., Connections] = Connections) -> dg.Definitions:
    """Assemble the definitions for the programmes in `settings`; nothing is connected to.

    `connect` makes the connections of a run from the settings and a purpose; they are closed with the run.
    """
    names = names_of(settings)
    shared = dg.Definitions(
        jobs=[*of_sync.build_decisions(names), *of_queue.build_decisions(names)],
        resources={
            **{name: _connections(settings, connect, purpose) for name, purpose in PURPOSES.items()},
            JUDGMENTS: dg.io_manager(lambda _: Judgments()),
        },
        # Also for assets materialized by hand: one process keeps its lease and connections from step to step.
        executor=dg.in_process_executor,
    )
    of_programmes = [
        linked(build(programme, names_of(settings, programme)), settings, *links)
        for programme in settings.programmes
        for build, *links in (
            (build_balance_sync, "balance_sync", "running.md", "/"),
            (build_verification, "verification", "verification.md", "/"),
            (build_points_history, "points_history", "points-history.md", "/contacts"),
        )
    ]
    migrations = [
        linked(
            build_migration(programme, names_of(settings, programme), shards=settings.migration_shards),
            settings, "point_migration", "migration.md", "/migration",
        )
        for programme in settings.programmes
        if not programme.migrated
    ]  # fmt: skip
    adjustments = linked(
        build_adjustments(settings.programmes, names), settings, "adjustments", "adjustments.md", "/adjustments"
    )
    # These start by themselves, without end. Migrations and approvals are few, and decisions should remain visible.
    recurring = (*of_programmes, adjustments)
    return dg.Definitions.merge(
        shared,
        *of_programmes,
        *migrations,
        adjustments,
        build_alerts(names),
        linked(build_maintenance(settings, names, recurring), settings, "retention", "operations.md", "/"),
    )


def _connections(
    settings: Settings, connect: Callable[..., Connections], purpose: dict[str, Any]
) -> dg.ResourceDefinition:
    @dg.resource(description="The ledger and the clients of both systems, made from the settings in the environment.")
    def opened(_context: dg.InitResourceContext) -> Iterator[Connections]:
        with connect(settings, **purpose) as connections:
            yield connections

    return opened


@dg.definitions
def defs() -> dg.Definitions:
    """Everything of the programmes in the environment's settings."""
    return build_definitions(load_settings())
