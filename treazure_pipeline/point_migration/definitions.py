"""The point migration in Dagster: roster, points log and files by shard, delivery, audit, and their jobs.

Belongs here: assets, partitions, run config, what a run shows. Does not: how points are migrated
in the other modules of this folder. See https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from treazure_pipeline.balance_sync.definitions import OWNERS, Results
from treazure_pipeline.connections import Connections
from treazure_pipeline.ledger.store import Account
from treazure_pipeline.orchestration import failures
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.names import BACKGROUND, FOREGROUND, Names, at_most
from treazure_pipeline.point_migration import audit_store, backfill
from treazure_pipeline.settings import Programme

GROUP = "point_migration"
AUDITED = "engage_holds_what_was_imported"
# A run that ended before its audit was through says whose it was, and when the first of them began.
PAUSED = "treazure_pipeline/paused"
SINCE = "treazure_pipeline/since"

ROSTER_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID."),
        dg.TableColumn("balance", "numeric", "Points in Treazure at the cut-off, exact, once settled."),
        dg.TableColumn("settled", "boolean", "False while a movement after the cut-off is still to be taken back."),
        dg.TableColumn("key", "text", "The retailer's key where files name contacts by one."),
        dg.TableColumn("imported", "numeric", "Sum of the contact's rows in the files, read back from them."),
        dg.TableColumn("read_back", "numeric", "What Engage showed after the import."),
    ]
)


class RosterConfig(dg.Config):
    """What a person decides when a migration begins."""

    although_loaded: bool = Field(
        default=False,
        description="Begin even though the sync has sent balances to Engage. An import adds to them.",
    )
    mapping: str | None = Field(
        default=None,
        description="Path or fsspec URL of the CSV (contact, key), where MIGRATION_KEY_TYPE is not ContactId.",
    )
    deliver_by: Literal["files", "api"] = Field(
        default="files",
        description="How the rows will get to Engage. What that needs is checked before the mode changes.",
    )


class LogConfig(dg.Config):
    """What a person decides about contacts whose log can't be read."""

    leave_out_unreadable: bool = Field(
        default=False,
        description="Import the shard without them. The hourly sync sets their balances once the programme is live.",
    )


class DeliveryConfig(dg.Config):
    """How the rows get to Engage."""

    by: Literal["files", "api"] = Field(
        default="files", description="`api` is for a tenant that is already active; contacts are named by their id."
    )
    deliver_again: bool = Field(
        default=False, description="Send files that have been delivered once more. An import adds points each time."
    )
    uncertain_are_taken: bool | None = Field(
        default=None,
        description="For files or API requests whose outcome is unknown: whether Engage took them, as its accounts show.",
    )


class AuditConfig(dg.Config):
    """Who answers for what still differs."""

    accepted_by: str | None = Field(
        default=None, description="Close the audit even though contacts differ. The hourly sync sets their balances."
    )
    max_hours: float = Field(
        default=5.0, gt=0, le=20, description="End in good order after so many hours; another run goes on by itself."
    )
    since: str | None = Field(
        default=None,
        description="When the first of these runs began (ISO 8601): what it and its successors have read is not read again.",
    )


class AbandonConfig(dg.Config):
    """Who gives a migration up, and why."""

    by: str = Field(description="The person who decides.")
    reason: str = Field(description="Why, for the record.")


def shard_names(shards: int) -> list[str]:
    """Return the names of the partitions."""
    return [f"{number:03}" for number in range(shards)]


def build_migration(programme: Programme, names: Names, *, shards: int) -> dg.Definitions:
    """Assemble one programme's migration."""
    key = names.key
    partitions = dg.StaticPartitionsDefinition(shard_names(shards))
    tags = {"programme": programme.name}
    common: dict[str, Any] = {
        "group_name": names.group(GROUP),
        "owners": OWNERS,
        "tags": tags,
        "pool": names.of("point_migration"),
        "code_version": "1",
    }

    @dg.asset(
        key=key("migration_roster"),
        deps=[key("treazure_balances")],
        kinds={"treazure", "postgres"},
        metadata={
            "dagster/column_schema": ROSTER_COLUMNS,
            "dagster/column_lineage": md.lineage(
                {name: (key("treazure_balances"), name) for name in ("contact", "balance")}
            ),
        },
        description=(
            "Puts the programme into state migrating, fixes the cut-off once, and lists every contact with its "
            "balance, from one export or, if that fails, from halves of it."
        ),
        **common,
    )
    def migration_roster(
        context: dg.AssetExecutionContext, config: RosterConfig, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        with _working(background_connections, programme) as (connections, account):
            roster = steps.prepare(
                connections, account, programme, run_id=context.run.run_id, although_loaded=config.although_loaded,
                mapping=config.mapping, by=config.deliver_by,
            )  # fmt: skip
        migration, found = roster.migration, roster.figures
        figures: dict[str, Any] = {
            "migration": migration.id,
            "cut_off": migration.cut_off.timestamp(),
            "mode": migration.mode,
            "key_type": migration.key_type,
            "shards": migration.shards,
            **{name: value for name, value in found.items() if name != "points"},
            "points_exact": str(found["points"]),
            "seconds_roster": round(roster.seconds, 3),
        }
        connections.listener.reported(figures)
        return dg.MaterializeResult(
            metadata=figures
            | {
                "dagster/row_count": found["contacts"],
                "cut_off": dg.MetadataValue.timestamp(migration.cut_off),
                "points_total": md.number(found["points"]),
            }
        )

    @dg.asset(
        key=key("migration_points_log"),
        deps=[migration_roster],
        partitions_def=partitions,
        kinds={"treazure", "postgres"},
        description=(
            "The points log of each contact of the shard, fetched in parallel within the shared rate and stored "
            "part by part. A run goes on where the last one stopped."
        ),
        **common,
    )
    def migration_points_log(
        context: dg.AssetExecutionContext, config: LogConfig, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        with _working(background_connections, programme) as (connections, account):
            fetched = steps.fetch(
                connections, account, _shard(context), leave_out_unreadable=config.leave_out_unreadable
            )
            whole = backfill.progress(connections.ledger, backfill.opened(connections.ledger, account))
        figures: dict[str, Any] = {
            "contacts": fetched.progress.contacts,
            "fetched": fetched.contacts,
            "left_out": fetched.progress.left_out,
            "movements": fetched.movements,
            "unreadable_movements": fetched.unreadable,
            "contacts_a_second": round(fetched.contacts / fetched.seconds, 1) if fetched.seconds else 0.0,
            "fetched_of_all_shards": whole.fetched,
            "contacts_of_all_shards": whole.contacts,
            "hours_left_of_all_shards": _hours_left(whole, fetched.contacts, fetched.seconds),
            "seconds_fetch": round(fetched.seconds, 3),
        }
        connections.listener.reported(figures)
        counted = dict.fromkeys(("dagster/row_count", "dagster/partition_row_count"), fetched.progress.movements)
        return dg.MaterializeResult(metadata=figures | counted)

    @dg.asset(
        key=key("migration_files"),
        deps=[migration_points_log],
        partitions_def=partitions,
        kinds={"csv", "postgres"},
        check_specs=[
            dg.AssetCheckSpec("rows_add_up_to_balances", asset=key("migration_files"),
                              description="Each contact's rows add up to its balance at the cut-off, exactly (I10)."),
        ],
        description="The shard's files by Engage's import rules. The same logs give the same bytes.",
        **common,
    )  # fmt: skip
    def migration_files(
        context: dg.AssetExecutionContext, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        with _working(background_connections, programme) as (connections, account):
            written = steps.write(connections, account, _shard(context))
            migration = backfill.opened(connections.ledger, account)
            audits = audit_store.shards(connections.ledger, migration, _shard(context))
        unequal = sum(each.unequal for each in audits)
        figures: dict[str, Any] = {
            "files": written.files,
            "contacts": written.contacts,
            "movements": written.movements,
            "rows": written.rows,
            "findings": written.findings,
            "points_exact": str(written.total),
            "seconds_files": round(written.seconds, 3),
        }
        connections.listener.reported(figures)
        return dg.MaterializeResult(
            metadata=figures
            | {
                "dagster/row_count": written.rows,
                "dagster/partition_row_count": written.rows,
                "points_total": md.number(written.total),
                "rows_a_second": round(written.rows / written.seconds) if written.seconds else 0,
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="rows_add_up_to_balances", passed=not unequal, metadata={"unequal": unequal}
                )
            ],
        )

    @dg.asset(
        key=key("migration_delivery"),
        deps=[migration_files],
        kinds={"csv", "voyado"},
        description=(
            "Every file brought to MIGRATION_DELIVERY_URL atomically and once, with a manifest; or, for an active "
            "tenant, every row added by API at most once."
        ),
        **common,
    )
    def migration_delivery(
        config: DeliveryConfig, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        with _working(background_connections, programme) as (connections, account):
            figures = steps.deliver(
                connections, account, by=config.by, again=config.deliver_again,
                uncertain_are_taken=config.uncertain_are_taken,
            )  # fmt: skip
        connections.listener.reported(figures)
        return dg.MaterializeResult(metadata={"by": config.by, "dagster/row_count": figures["rows"], **figures})

    @dg.asset(
        key=key("migration_audit"),
        deps=[migration_delivery],
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
    def migration_audit_(
        context: dg.AssetExecutionContext, config: AuditConfig, background_connections: dg.ResourceParam[Connections]
    ) -> Results:
        yield from _audit(background_connections, programme, context, config, names.of("migration_audit"))

    @dg.op(name=names.of("abandon"))
    def abandon(config: AbandonConfig, background_connections: dg.ResourceParam[Connections]) -> None:
        with _working(background_connections, programme) as (connections, account):
            backfill.abandon(connections.ledger, account, by=config.by, reason=config.reason)

    @dg.job(
        name=names.of("abandon_migration"),
        executor_def=dg.in_process_executor,
        tags=tags | at_most(hours=1),
        description="Abandons the open migration. The programme is live again, and the sync sets the balances it knows.",
    )
    def abandon_migration() -> None:
        abandon()

    def job(name: str, description: str, assets: Sequence[dg.AssetsDefinition], limit: dict[str, str]) -> Any:
        return dg.define_asset_job(
            names.of(name),
            selection=dg.AssetSelection.assets(*assets),
            executor_def=dg.in_process_executor,
            tags=tags | BACKGROUND | limit,
            description=description,
        )

    finish = job(
        "finish_migration",
        "Delivers the files; after their import reads all balances back and closes the migration.",
        [migration_delivery, migration_audit_],
        at_most(hours=24),
    )
    return dg.Definitions(
        assets=[migration_roster, migration_points_log, migration_files, migration_delivery, migration_audit_],
        jobs=[
            job(
                "prepare_migration",
                "Puts the programme into migration and lists its contacts.",
                [migration_roster],
                at_most(days=14),
            ),
            job(
                "point_migration",
                "Fetches the logs of a shard and writes its files; a backfill over all shards migrates the programme.",
                [migration_points_log, migration_files],
                at_most(days=14),
            ),
            finish,
            abandon_migration,
        ],
        sensors=[_going_on(finish, migration_audit_, names)],
    )


def _going_on(job: Any, audit: dg.AssetsDefinition, names: Names) -> dg.SensorDefinition:
    """Make the sensor that has another run go on with an audit whose run ended before it was through."""

    @dg.sensor(
        name=names.of("migration_audit_sensor"),
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Goes on with an audit that takes longer than one run may (`max_hours`), as often as it needs.",
    )
    def migration_audit_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        paused = dg.RunsFilter(tags={PAUSED: names.of("migration_audit")}, statuses=[dg.DagsterRunStatus.SUCCESS])
        runs = context.instance.get_runs(paused, limit=1)
        if not runs:
            return dg.SkipReason("No audit has to go on.")
        (run,) = runs
        op = names.op("migration_audit")
        config: Mapping[str, Any] = run.run_config
        given = config.get("ops", {}).get(op, {}).get("config", {})
        # The key makes it one run more for each that paused, whatever becomes of that.
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

    with _working(connections, programme) as (_, account):
        try:
            found = steps.audit(
                connections, account, run_id=context.run.run_id, accepted_by=config.accepted_by,
                since=None if config.since is None else datetime.fromisoformat(config.since),
                most_seconds=timedelta(hours=config.max_hours).total_seconds(),
            )  # fmt: skip
        except (NotImportedYetError, PausedError) as waiting:
            connections.listener.failed(waiting)
            context.log.warning(str(waiting))
            # The command goes on by itself.
            if isinstance(waiting, PausedError) and not context.run.tags.keys() >= FOREGROUND.keys():
                tags = {PAUSED: name, SINCE: waiting.since.isoformat()}
                context.instance.add_run_tags(context.run.run_id, tags)
            yield md.not_evaluated(AUDITED, str(waiting))
            return
    yield dg.AssetCheckResult(
        check_name=AUDITED,
        passed=not found.differing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"differing": found.differing, "accepted_by": config.accepted_by or ""},
    )
    figures: dict[str, Any] = {
        "contacts": found.contacts, "read": found.read, "equal": found.equal, "differing": found.differing,
        "missing_in_engage": found.missing, "left_out": found.left_out, "pending": found.pending,
        "points_in_engage_exact": str(found.in_engage), "report": found.report,
        "seconds_audit": round(found.seconds, 3),
    }  # fmt: skip
    connections.listener.reported(figures)
    yield dg.MaterializeResult(
        metadata=figures
        | {
            "dagster/row_count": found.read,
            "points_at_cut_off": md.number(found.balance),
            "points_imported": md.number(found.imported),
            "points_in_engage": md.number(found.in_engage),
            "report": dg.MetadataValue.path(found.report),
        },
    )


def _shard(context: dg.AssetExecutionContext) -> int:
    return int(context.partition_key)


def _hours_left(whole: backfill.Progress, contacts: int, seconds: float) -> float:
    """Return the hours that all shards still need at this run's speed, 0 where it read nothing."""
    left = whole.contacts - whole.fetched - whole.left_out
    return round(left / contacts * seconds / 3600, 3) if contacts else 0.0


@contextmanager
def _working(connections: Connections, programme: Programme) -> Iterator[tuple[Connections, Account]]:
    """Show our errors as the run's failure."""
    with failures.shown(connections.listener):
        yield connections, connections.ledger.account(programme)
