"""The point migration in Dagster: roster, points log and files by shard, delivery, audit, and their jobs.

How points are migrated is in the other modules of this folder.
See https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from treazure_pipeline import phrases
from treazure_pipeline.balance_sync.definitions import OWNERS
from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import UnknownPartitionError
from treazure_pipeline.orchestration import forms, story
from treazure_pipeline.orchestration import metadata as md
from treazure_pipeline.orchestration.names import BACKGROUND, Names, at_most
from treazure_pipeline.point_migration import audit_store, backfill
from treazure_pipeline.point_migration.audit_definitions import build_audit, going_on
from treazure_pipeline.settings import Programme

GROUP = "point_migration"

ROSTER_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("contact", "uuid", "The contact's GUID."),
        dg.TableColumn("balance", "numeric", "Points in Treazure at the cut-off, exact, once settled."),
        dg.TableColumn("settled", "boolean", "False while a movement after the cut-off is still to be taken back."),
        dg.TableColumn("key", "text", "The retailer's key, if files name contacts by one."),
        dg.TableColumn("imported", "numeric", "Sum of the contact's rows in the files, read back from them."),
        dg.TableColumn("read_back", "numeric", "What Engage showed after the import."),
    ]
)


class RosterConfig(forms.Form):
    """What a person decides when a migration begins."""

    although_loaded: bool = Field(
        default=False, description="Begin even though the sync has sent balances to Engage. An import adds to them."
    )
    mapping: str | None = Field(
        default=None,
        description="Path or fsspec URL of the CSV (contact, key), where MIGRATION_KEY_TYPE is not ContactId.",
    )
    deliver_by: Literal["files", "api"] = Field(
        default="files",
        description="How the rows will get to Engage. What that needs is checked before the mode changes.",
    )


class LogConfig(forms.Form):
    """What a person decides about contacts whose log can't be read."""

    leave_out_unreadable: bool = Field(
        default=False,
        description="Import the shard without them. The hourly sync sets their balances once the programme is live.",
    )


class DeliveryConfig(forms.Form):
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


class AbandonConfig(forms.Form):
    """Who abandons a migration, and why."""

    by: str = Field(min_length=1, description="The person who decides.")
    reason: str = Field(min_length=1, description="Why, for the record.")


def shard_names(shards: int) -> list[str]:
    """Return the names of the partitions."""
    return [f"{number:03}" for number in range(shards)]


def build_migration(programme: Programme, names: Names, *, shards: int) -> dg.Definitions:
    """Assemble one programme's migration."""
    key = names.key
    partitions = dg.StaticPartitionsDefinition(shard_names(shards))
    tags = {"programme": programme.name}
    common: dict[str, Any] = {
        "group_name": names.of(GROUP),
        "owners": OWNERS,
        "tags": tags,
        "pool": names.of("point_migration"),
        "code_version": "1",
        "op_tags": BACKGROUND,
    }

    @dg.asset(
        key=key("migration_roster"),
        deps=[key("treazure_balances")],
        config_schema=forms.schema(RosterConfig),
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
        context: dg.AssetExecutionContext, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        config = forms.filled(context, RosterConfig)
        connections = background_connections
        with story.step(context, connections.listener):
            account = connections.ledger.account(programme)
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
            "points_exact": found["points"],
            "seconds_roster": round(roster.seconds, 3),
        }
        connections.listener.reported(figures)
        shown = figures | {
            "dagster/row_count": found["contacts"],
            "cut_off": dg.MetadataValue.timestamp(migration.cut_off),
            "points_total": found["points"],
        }
        return dg.MaterializeResult(
            metadata=story.told(context, connections.listener, roster.sentence)
            | md.figures(shown, "contacts", "points_total", "moved", "seconds_roster")
        )

    @dg.asset(
        key=key("migration_points_log"),
        deps=[migration_roster],
        config_schema=forms.schema(LogConfig),
        partitions_def=partitions,
        kinds={"treazure", "postgres"},
        description=(
            "The points log of each contact of the shard, fetched in parallel within the shared rate and stored "
            "part by part. A run goes on where the last one stopped."
        ),
        **common,
    )
    def migration_points_log(
        context: dg.AssetExecutionContext, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        connections = background_connections
        with _at_shard(context, connections, partitions) as shard:
            account = connections.ledger.account(programme)
            fetched = steps.fetch(
                connections, account, shard, leave_out_unreadable=forms.filled(context, LogConfig).leave_out_unreadable
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
        return dg.MaterializeResult(
            metadata=story.told(context, connections.listener, fetched.sentence)
            | md.figures(
                figures | counted,
                "fetched",
                "contacts_a_second",
                "fetched_of_all_shards",
                "hours_left_of_all_shards",
                "seconds_fetch",
            )
        )

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

        connections = background_connections
        with _at_shard(context, connections, partitions) as shard:
            account = connections.ledger.account(programme)
            written = steps.write(connections, account, shard)
            migration = backfill.opened(connections.ledger, account)
            audits = audit_store.shards(connections.ledger, migration, shard)
        unequal = sum(each.unequal for each in audits)
        figures: dict[str, Any] = {
            "files": written.files,
            "contacts": written.contacts,
            "movements": written.movements,
            "rows": written.rows,
            "findings": written.findings,
            "points_exact": written.total,
            "seconds_files": round(written.seconds, 3),
        }
        connections.listener.reported(figures)
        shown = figures | {
            "dagster/row_count": written.rows,
            "dagster/partition_row_count": written.rows,
            "points_total": written.total,
            "rows_a_second": round(written.rows / written.seconds) if written.seconds else 0,
        }
        return dg.MaterializeResult(
            metadata=story.told(context, connections.listener, written.sentence)
            | md.figures(shown, "rows", "points_total", "rows_a_second", "seconds_files"),
            check_results=[
                dg.AssetCheckResult(
                    check_name="rows_add_up_to_balances",
                    passed=not unequal,
                    description=f"the rows of {phrases.counted(unequal, 'contact')} do not add up to the balance"
                    if unequal
                    else f"the rows of {phrases.counted(written.contacts, 'contact')} add up to their balances",
                    metadata={"unequal": unequal},
                )
            ],
        )

    @dg.asset(
        key=key("migration_delivery"),
        deps=[migration_files],
        config_schema=forms.schema(DeliveryConfig),
        kinds={"csv", "voyado"},
        description=(
            "Every file brought to MIGRATION_DELIVERY_URL atomically and once, with a manifest; or, for an active "
            "tenant, every row added by API at most once."
        ),
        **common,
    )
    def migration_delivery(
        context: dg.AssetExecutionContext, background_connections: dg.ResourceParam[Connections]
    ) -> dg.MaterializeResult:
        from treazure_pipeline.point_migration import steps

        config = forms.filled(context, DeliveryConfig)
        connections = background_connections
        with story.step(context, connections.listener):
            account = connections.ledger.account(programme)
            delivered = steps.deliver(
                connections, account, by=config.by, again=config.deliver_again,
                uncertain_are_taken=config.uncertain_are_taken,
            )  # fmt: skip
        connections.listener.reported(delivered.figures)
        shown = {"by": config.by, "dagster/row_count": delivered.rows, **delivered.figures}
        return dg.MaterializeResult(
            metadata=story.told(context, connections.listener, delivered.sentence) | md.figures(shown, "rows", "sent")
        )

    migration_audit = build_audit(programme, names, migration_delivery, common)

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
        [migration_delivery, migration_audit],
        at_most(hours=24),
    )
    return dg.Definitions(
        assets=[migration_roster, migration_points_log, migration_files, migration_delivery, migration_audit],
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
            _abandoning(programme, names, tags),
        ],
        sensors=[going_on(finish, migration_audit, names)],
    )


def _abandoning(programme: Programme, names: Names, tags: dict[str, str]) -> dg.JobDefinition:
    @dg.op(name=names.of("abandon"), config_schema=forms.schema(AbandonConfig))
    def abandon(context: dg.OpExecutionContext, background_connections: dg.ResourceParam[Connections]) -> None:
        config = forms.filled(context, AbandonConfig)
        connections = background_connections
        with story.step(context, connections.listener):
            account = connections.ledger.account(programme)
            migration = backfill.abandon(connections.ledger, account, by=config.by, reason=config.reason)
            story.told(
                context, connections.listener, f"migration {migration.id} is abandoned; {programme.name} is live again"
            )

    @dg.job(
        name=names.of("abandon_migration"),
        executor_def=dg.in_process_executor,
        tags=tags | at_most(hours=1),
        description="Abandons the open migration. The programme is live again, and the sync sets the balances it knows.",
    )
    def abandon_migration() -> None:
        abandon()

    return abandon_migration


@contextmanager
def _at_shard(
    context: dg.AssetExecutionContext, connections: Connections, partitions: dg.StaticPartitionsDefinition
) -> Iterator[int]:
    """Do the step of a shard; Dagster does not look whether there is one when it is asked through its API."""
    with story.step(context, connections.listener):
        known = partitions.get_partition_keys()
        if context.partition_key not in known:
            raise UnknownPartitionError(
                f"There is no shard {context.partition_key!r:.40}; there are {known[0]} to {known[-1]}. Nothing was done."
            )
        yield int(context.partition_key)


def _hours_left(whole: backfill.Progress, contacts: int, seconds: float) -> float:
    """Return the hours that all shards still need at this run's speed; 0 if it read nothing."""
    left = whole.contacts - whole.fetched - whole.left_out
    return round(left / contacts * seconds / 3600, 3) if contacts else 0.0
