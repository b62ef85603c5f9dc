"""Migration files on their way to Engage's importer: a folder, an SFTP server or an object store, each file once.

    written ──upload──▶ uploaded (under NAME.part) ──rename──▶ delivered

`uploaded` is recorded before the rename. A file of that state whose temporary name is gone has been renamed, and the
importer may have taken it already: it is never sent again, since an import adds points each time.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import fsspec
import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from treazure_pipeline import private
from treazure_pipeline.clients.transport import redacted
from treazure_pipeline.errors import PipelineError, SettingsError
from treazure_pipeline.ledger import migration_files, migrations
from treazure_pipeline.ledger.migrations import MigrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from treazure_pipeline.ledger.migration_files import File
    from treazure_pipeline.ledger.migrations import Migration
    from treazure_pipeline.ledger.store import Account, Ledger

_TEMPORARY = ".part"
_CONNECT_SECONDS = 30.0
_HASH_BLOCK = 1 << 20


class DeliveryError(PipelineError):
    """The target could not be used, or a file is not what was written."""


@dataclass(frozen=True)
class Delivered:
    """What a delivery did: files and rows sent by it, files sent before, and of these the ones no longer there."""

    target: str
    files: int
    sent: int
    sent_before: int
    taken: int
    rows: int
    total: str


class Target:
    """A place for files, by its URL; `str` shows no secret."""

    def __init__(self, url: str, known_hosts: Sequence[Path] = ()) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._known_hosts = known_hosts
        host = self._parts.hostname or ""
        port = f":{self._parts.port}" if self._parts.port else ""
        self._shown = f"{self._parts.scheme or 'file'}://{host}{port}{self._parts.path}"

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Target({self._shown!r})"

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, str]]:
        """Hand out the file system and the folder in it. Errors leave as DeliveryError, without secrets."""
        system = None
        try:
            system, folder = self._connect()
            private.make_folder(system, folder)
            yield system, folder
        except (OSError, paramiko.SSHException, EOFError) as error:
            raise DeliveryError(
                f"{self} can't be used: {self._said(error)}.",
                hint="Check MIGRATION_DELIVERY_URL, the account and its rights. What has arrived is not sent again.",
            ) from None
        finally:
            if isinstance(system, SFTPFileSystem):
                system.ftp.close()
                system.client.close()

    def _connect(self) -> tuple[Any, str]:
        if self._parts.scheme in {"sftp", "ssh"}:
            if not self._parts.hostname:
                raise SettingsError("MIGRATION_DELIVERY_URL must name a host: sftp://user@host/folder.")
            password = self._parts.password
            system = SFTPFileSystem(
                self._parts.hostname,
                port=self._parts.port or 22,
                username=unquote(self._parts.username) if self._parts.username else None,
                password=unquote(password) if password else None,
                host_key_policy=_KnownHosts(self._known_hosts, self._parts.port or 22),
                timeout=_CONNECT_SECONDS,
                skip_instance_cache=True,
            )
            return system, unquote(self._parts.path).rstrip("/") or "/"
        try:
            system, folder = fsspec.core.url_to_fs(self._url)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"MIGRATION_DELIVERY_URL: files can't be written to {self._parts.scheme}:// ({self._said(error)}).",
                hint="Install the package that fsspec needs for it, such as s3fs, gcsfs or adlfs.",
            ) from None
        return system, str(folder).rstrip("/")

    def _said(self, error: Exception) -> str:
        secrets = [self._url, self._parts.password or "", unquote(self._parts.password or ""), self._parts.query]
        return redacted(str(error), secrets).rstrip(".") or type(error).__name__


class _KnownHosts(paramiko.MissingHostKeyPolicy):
    """Accepts the host keys that an operator has written down, and no other."""

    def __init__(self, paths: Sequence[Path], port: int) -> None:
        self._paths = paths
        self._port = port

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        """Look the key up; paramiko calls it `[host]:port` where the port is not 22."""
        known = paramiko.HostKeys()
        for path in self._paths:
            if path.is_file():
                known.load(str(path))
        if not known.check(hostname, key):
            places = " or ".join(map(str, self._paths))
            raise paramiko.SSHException(
                f"the host key of {hostname} ({key.get_name()} {key.fingerprint}) is not the one in {places}"
            )


def deliver(
    ledger: Ledger,
    account: Account,
    migration: Migration,
    folder: Path,
    target: Target,
    *,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Delivered:
    """Bring every file of the migration to the target, each atomically and once, and a manifest after them.

    `again` sends all of them once more, by a person's decision: an import adds points each time it is done.
    """
    files = written_files(ledger, migration)
    if migration_files.has_requests(ledger, migration):
        raise MigrationError("Rows of this migration have gone to Engage by API; a file would add them again.")
    if again:
        for file in files:
            migration_files.mark_file(ledger, migration, file.name, "written")
        files = migration_files.files(ledger, migration)
    left = [file for file in files if file.state != "delivered"]
    taken = 0
    with target.opened() as (system, place):
        for file in files:
            there = f"{place}/{file.name}"
            if file.state == "delivered":
                taken += not system.exists(there)
            else:
                _deliver(ledger, migration, folder / file.name, file, system, there)
                if progress is not None:
                    progress(file.rows, sum(each.rows for each in left))
        if left or again:
            _put_manifest(system, f"{place}/{manifest_name(account, migration)}", manifest(account, migration, files))
    migration_files.complete_delivery(ledger, migration, by="files", to=str(target))
    total = sum((file.total for file in files), start=files[0].total * 0) if files else 0
    return Delivered(str(target), len(files), len(left), len(files) - len(left), taken,
                     sum(file.rows for file in left), f"{total:f}")  # fmt: skip


def written_files(ledger: Ledger, migration: Migration) -> list[File]:
    """Return the files of all shards. Raises MigrationError where a shard has none written."""
    migrations.require(migration, "ready", "delivered")
    state = migrations.progress(ledger, migration)
    if state.shards_written < migration.shards:
        raise MigrationError(
            f"{migration.shards - state.shards_written} of {migration.shards} shards have no files yet.",
            hint="Run point_migration for them; Dagster's backfill page shows which.",
        )
    return migration_files.files(ledger, migration)


def manifest_name(account: Account, migration: Migration) -> str:
    """Return the name of the manifest beside the files."""
    return f"{account.name}-{migration.id}-manifest.json"


def manifest(account: Account, migration: Migration, files: Sequence[File]) -> bytes:
    """Return what was delivered, as JSON: the same files give the same bytes."""
    content = {
        "programme": account.name,
        "pointDefinitionId": account.definition_id,
        "migration": migration.id,
        "cutOff": migration.cut_off.isoformat(),
        "mode": migration.mode,
        "keyType": migration.key_type,
        "rows": sum(file.rows for file in files),
        "total": f"{sum((file.total for file in files), start=files[0].total * 0) if files else 0:f}",
        "files": [
            {"name": f.name, "rows": f.rows, "total": f"{f.total:f}", "size": f.size, "sha256": f.sha256} for f in files
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _deliver(ledger: Ledger, migration: Migration, source: Path, file: File, system: Any, there: str) -> None:
    temporary = there + _TEMPORARY
    if file.state == "uploaded" and not system.exists(temporary):
        migration_files.mark_file(ledger, migration, file.name, "delivered")
        return
    if not source.is_file() or sha256_of(source) != file.sha256:
        raise DeliveryError(
            f"{source} is missing or not what was written.",
            hint=f"Run point_migration for shard {file.shard} again: it writes the same bytes.",
        )
    private.make_file(system, temporary)
    system.put_file(str(source), temporary)
    arrived = system.info(temporary)["size"]
    if arrived != file.size:
        raise DeliveryError(
            f"{file.name} arrived with {arrived} of {file.size} bytes.", hint="Run finish_migration again."
        )
    migration_files.mark_file(ledger, migration, file.name, "uploaded")
    system.mv(temporary, there)
    migration_files.mark_file(ledger, migration, file.name, "delivered")


def _put_manifest(system: Any, there: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as source:
        source.write(content)
        source.flush()
        private.make_file(system, there + _TEMPORARY)
        system.put_file(source.name, there + _TEMPORARY)
    system.mv(there + _TEMPORARY, there)
