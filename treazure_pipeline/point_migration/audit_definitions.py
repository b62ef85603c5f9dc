"""The migration's audit in Dagster: its asset, its check, and the sensor that continues an audit that takes long.

What is read back and compared is in `audit`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync.definitions import Results
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.orchestration import forms, story
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.names import FOREGROUND, Names
from treazure_pipeline.settings import Programme

AUDITED = "engage_holds_what_was_imported"
# A run that ended before its audit was complete records whose audit it was, and when its first run began.
PAUSED = "treazure_pipeline/paused"
SINCE = "treazure_pipeline/since"


class AuditConfig(forms.Form):
    """Who accepts what still differs."""

    accepted_by: str | None = Field(
        default=None, description="Close the audit even though contacts differ. The hourly sync sets their balances."
    )
    max_hours: float = Field(
        default=5.0, gt=0, le=20, description="Stop after this many hours. Another run continues by itself."
    )
    since: str | None = Field(
        default=None,
        description="When the first of these runs began (ISO 8601). What has been read since is not read again.",
    )

    def check(self) -> None:
        """Refuse a `since` that is not a time."""
        if self.since is not None:
            try:
                datetime.fromisoformat(self.since)
            except ValueError:
                raise SettingsError(f"since ({self.since!r}) must be a time by ISO 8601.") from None


def build_audit(programme: Programme, names: Names, delivery: dg.AssetsDefinition, common: dict[str, Any]) -> Any:
    """Assemble the audit of what `delivery` brought to Engage."""
    key = names.key

    @dg.asset(
        key=key("migration_audit"),
        deps=[delivery],
        config_schema=forms.schema(AuditConfig),
        kinds={"voyado", "postgres"},
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(AUDITED, asset=key("migration_audit"),
                              description="Every balance read back from Engage is the one that was imported."),
        ],
        description=(
            "Every balance read back from Engage and compared. If they are equal, the migration is closed: the "
            "ledger knows what Engage holds, and the programme is live. Not materialized until Engage has "
            "imported the files."
        ),
        **common,
    )  # fmt: skip
    def migration_audit(
        context: dg.AssetExecutionContext, background_connections: dg.ResourceParam[Connections]
    ) -> Results:
        config = forms.filled(context, AuditConfig)
        yield from _audit(background_connections, programme, context, config, names.of("migration_audit"))

    return migration_audit


def going_on(job: Any, audit: dg.AssetsDefinition, names: Names) -> dg.SensorDefinition:
    """Return the sensor that starts another run if an audit's run ended before the audit was complete."""

    @dg.sensor(
        name=names.of("migration_audit_sensor"),
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Continues an audit that takes longer than one run may (`max_hours`), as often as necessary.",
    )
    def migration_audit_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        paused = dg.RunsFilter(tags={PAUSED: names.of("migration_audit")}, statuses=[dg.DagsterRunStatus.SUCCESS])
        runs = context.instance.get_runs(paused, limit=1)
        if not runs:
            return dg.SkipReason("No audit has to be continued.")
        (run,) = runs
        op = names.op("migration_audit")
        config: Mapping[str, Any] = run.run_config
        given = config.get("ops", {}).get(op, {}).get("config", {})
        # With this key, each paused run starts exactly one more run, however that one ends.
        return dg.RunRequest(
            run_key=run.run_id,
            asset_selection=[audit.key],
            run_config={"ops": {op: {"config": {**given, "since": run.tags[SINCE]}}}},
        )

    return migration_audit_sensor


def _audit(
    connections: Connections, programme: Programme, context: dg.AssetExecutionContext, config: AuditConfig, name: str
) -> Results:
    from treazure_pipeline.point_migration import steps
    from treazure_pipeline.point_migration.audit import NotImportedYetError, PausedError

    with story.step(context, connections.listener):
        try:
            found = steps.audit(
                connections, connections.ledger.account(programme), run_id=context.run.run_id, accepted_by=config.accepted_by,
                since=None if config.since is None else datetime.fromisoformat(config.since),
                most_seconds=timedelta(hours=config.max_hours).total_seconds(),
            )  # fmt: skip
        except (NotImportedYetError, PausedError) as waiting:
            connections.listener.failed(waiting)
            context.log.warning(str(waiting))
            # The command continues by itself.
            if isinstance(waiting, PausedError) and not context.run.tags.keys() >= FOREGROUND.keys():
                tags = {PAUSED: name, SINCE: waiting.since.isoformat()}
                context.instance.add_run_tags(context.run.run_id, tags)
            yield md.not_evaluated(AUDITED, str(waiting))
            return
    yield dg.AssetCheckResult(
        check_name=AUDITED,
        passed=not found.differing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{phrases.counted(found.differing, 'contact differs', 'contacts differ')}, "
        f"accepted by {config.accepted_by}"
        if found.differing
        else f"all {found.contacts:,} contacts have in Engage what was imported for them",
        metadata={"differing": found.differing, "accepted_by": config.accepted_by or ""},
    )
    figures: dict[str, Any] = {
        "contacts": found.contacts, "read": found.read, "equal": found.equal, "differing": found.differing,
        "missing_in_engage": found.missing, "left_out": found.left_out, "pending": found.pending,
        "points_in_engage_exact": found.in_engage, "report": found.report,
        "seconds_audit": round(found.seconds, 3),
    }  # fmt: skip
    connections.listener.reported(figures)
    shown = figures | {
        "dagster/row_count": found.read,
        "points_at_cut_off": found.balance,
        "points_imported": found.imported,
        "points_in_engage": found.in_engage,
        "report": dg.MetadataValue.path(found.report),
        "audit": dg.MetadataValue.md(found.markdown),
    }
    yield dg.MaterializeResult(
        metadata=story.told(context, connections.listener, found.sentence)
        | md.figures(
            shown, "points_at_cut_off", "points_imported", "points_in_engage", "seconds_audit", if_any=("differing",)
        )
    )
