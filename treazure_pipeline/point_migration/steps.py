"""The steps of a migration, as called by assets, commands and tests with the connections and the settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from treazure_pipeline import private
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.point_migration import backfill, roster
from treazure_pipeline.point_migration.api import add_by_api, require_contact_ids
from treazure_pipeline.point_migration.audit import audit as audit_migration
from treazure_pipeline.point_migration.audit import require_conserved
from treazure_pipeline.point_migration.backfill import Terms
from treazure_pipeline.point_migration.delivery import deliver as deliver_files
from treazure_pipeline.point_migration.delivery import written_files
from treazure_pipeline.point_migration.logs import Fetched, fetch_shard
from treazure_pipeline.point_migration.shards import Written, body_of, folder_of, write_shard
from treazure_pipeline.point_migration.target import Target

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pydantic import SecretStr

    from treazure_pipeline.connections import Connections
    from treazure_pipeline.ledger.store import Account
    from treazure_pipeline.point_migration.api import Added
    from treazure_pipeline.point_migration.audit import Audited
    from treazure_pipeline.point_migration.delivery import Delivered
    from treazure_pipeline.point_migration.file_store import File
    from treazure_pipeline.point_migration.keys import KeyFinding
    from treazure_pipeline.point_migration.roster import Roster
    from treazure_pipeline.settings import Programme, Settings

__all__ = ["audit", "check", "deliver", "fetch", "folder_of", "prepare", "write"]


def prepare(
    connections: Connections,
    account: Account,
    programme: Programme,
    *,
    run_id: str,
    although_loaded: bool = False,
    mapping: str | None = None,
    by: str = "files",
) -> Roster:
    """Begin or continue the programme's migration, and complete its roster. `by`: how it will reach Engage."""
    if backfill.current(connections.ledger, account) is None:
        check(connections, programme, mapping=mapping, by=by)
    else:
        roster.check(_terms(connections.settings, programme), mapping)
    return roster.prepare(
        connections.ledger, connections.treazure, account, _terms(connections.settings, programme), run_id=run_id,
        retry=connections.retry, max_rejected_share=programme.guards.max_rejected_share,
        although_loaded=although_loaded, mapping=mapping,
    )  # fmt: skip


def check(
    connections: Connections, programme: Programme, *, mapping: str | None = None, by: str = "files"
) -> list[KeyFinding]:
    """Check everything that can be checked before the programme's mode changes (I11): the mapping, and the way to Engage.

    Return what is odd in the mapping. Such lines are left out, or taken with a remark.
    """
    settings = connections.settings
    terms = _terms(settings, programme)
    found = roster.check(terms, mapping)
    if by == "api":
        require_contact_ids(terms.key_type)
    elif (url := _url(settings, "MIGRATION_DELIVERY_URL")) is not None:
        with Target(url, known_hosts=_known_hosts(settings)).opened():
            pass
    if (url := _url(settings, "MIGRATION_REPORT_URL")) is not None:
        with _reports(settings, url).connected() as (system, folder):
            private.make_folder(system, folder)
    return found


def _url(settings: Settings, setting: str) -> str | None:
    """Return where files go; None for the home. Raises SettingsError if other machines would not find them there."""
    given: SecretStr | None = getattr(settings, setting.lower())
    if given is not None:
        return given.get_secret_value()
    if not settings.is_embedded:
        raise SettingsError(
            f"{setting} is not set: the ledger is on a server, so runs may be on any machine, and files would stay on "
            "the one that writes them.",
            hint="Name a folder that lasts: for MIGRATION_DELIVERY_URL the importer's, such as "
            "sftp://user@host/integration/pointTransactionImport; for MIGRATION_REPORT_URL any, such as s3://bucket/reports.",
        )
    return None


def _reports(settings: Settings, url: str, below: str = "") -> Target:
    return Target(url, _known_hosts(settings), setting="MIGRATION_REPORT_URL", below=below)


def _terms(settings: Settings, programme: Programme) -> Terms:
    return Terms(settings.migration_mode, settings.migration_key_type, settings.migration_shards, programme.decimals)


def _known_hosts(settings: Settings) -> list[Path]:
    return [settings.home / "known_hosts", settings.home.home() / ".ssh" / "known_hosts"]


def fetch(connections: Connections, account: Account, shard: int, *, leave_out_unreadable: bool = False) -> Fetched:
    """Fetch the logs that a shard still lacks."""
    return fetch_shard(
        connections.ledger, connections.treazure, account, shard,
        concurrency=connections.settings.treazure_concurrency, retry=connections.retry,
        leave_out_unreadable=leave_out_unreadable, progress=connections.listener.progressed,
    )  # fmt: skip


def write(connections: Connections, account: Account, shard: int) -> Written:
    """Write a shard's files below the home."""
    return write_shard(connections.ledger, account, shard, connections.settings.home)


def deliver(
    connections: Connections,
    account: Account,
    *,
    by: str = "files",
    again: bool = False,
    uncertain_are_taken: bool | None = None,
) -> Delivered | Added:
    """Deliver what the shards wrote, once every contact's rows add up.

    Once the delivery is complete, `by` no longer matters.
    """
    settings = connections.settings
    migration = backfill.opened(connections.ledger, account)
    if migration.state == "delivered":
        by = migration.delivered_by or by
    written_files(connections.ledger, migration)
    require_conserved(connections.ledger, migration)

    def body(file: File) -> bytes:
        return body_of(connections.ledger, account, migration, file, settings.home)

    with backfill.holding(connections.ledger, account):
        if by == "api":
            return add_by_api(
                connections.ledger, connections.engage, account, migration, body,
                batch_size=settings.engage_batch_size, concurrency=settings.engage_concurrency,
                retry=connections.retry, uncertain_are_taken=uncertain_are_taken, progress=connections.listener.progressed,
            )  # fmt: skip
        local = folder_of(settings.home, account, migration) / "delivered"
        target = Target(_url(settings, "MIGRATION_DELIVERY_URL") or local.as_uri(), known_hosts=_known_hosts(settings))
        return deliver_files(
            connections.ledger, account, migration, body, target, again=again,
            uncertain_are_taken=uncertain_are_taken, progress=connections.listener.progressed,
        )  # fmt: skip


def audit(
    connections: Connections,
    account: Account,
    *,
    run_id: str,
    accepted_by: str | None = None,
    since: datetime | None = None,
    most_seconds: float = math.inf,
) -> Audited:
    """Read all balances back, and close the migration if they are equal or accepted."""
    settings = connections.settings
    migration = backfill.opened(connections.ledger, account)
    url = _url(settings, "MIGRATION_REPORT_URL") or (settings.home / "migration").as_uri()
    target = _reports(settings, url, f"{account.name}/{migration.id}/audit")
    return audit_migration(
        connections.ledger, connections.engage, account, target,
        concurrency=settings.engage_concurrency, run_id=run_id, accepted_by=accepted_by,
        since=since, most_seconds=most_seconds, progress=connections.listener.progressed,
    )  # fmt: skip
