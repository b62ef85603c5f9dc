"""Places for files by URL: a folder, an SFTP server or an object store.

The importer takes anything in its folder for a file of points, so everything else goes to the folder `manifest` beside it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import fsspec
import paramiko
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.sftp import SFTPFileSystem

from treazure_pipeline import private
from treazure_pipeline.errors import PipelineError, SettingsError
from treazure_pipeline.people import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BESIDE = "manifest"
_CONNECT_SECONDS = 30.0
_RENAMING = frozenset({"", "file", "local", "sftp", "ssh", "ftp", "smb"})
"""Where a file can be renamed in one step. Elsewhere, a move is a copy and a removal, but written files appear complete."""


class DeliveryError(PipelineError):
    """The target can't be used, or does not say whether a file arrived."""


@dataclass(frozen=True)
class Place:
    """An opened target: the importer's folder, the one beside it, and whether files can be renamed from there."""

    system: Any
    folder: str
    beside: str
    renames: bool

    def listed(self, folder: str) -> Mapping[str, int]:
        """Return the files in a folder: names and sizes in bytes."""
        try:
            entries = self.system.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in entries}

    def write(self, path: str, body: bytes) -> None:
        """Write a file, replacing one with that name."""
        private.make_file(self.system, path)
        self.system.pipe_file(path, body)
        arrived = int(self.system.info(path)["size"])
        if arrived != len(body):
            raise DeliveryError(
                f"{path} arrived with {arrived} of {len(body)} bytes.", hint="Run finish_migration again."
            )

    def rename(self, old: str, new: str) -> None:
        """Rename a file in one step. Only if `renames`."""
        if isinstance(self.system, LocalFileSystem):
            Path(old).replace(new)  # the library's own move copies if a rename is refused
        else:
            self.system.mv(old, new)

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        if self.system.exists(path):
            self.system.rm_file(path)


class Target:
    """A place for files: the folder `below` the URL in a setting. `str` shows no secret."""

    def __init__(
        self, url: str, known_hosts: Sequence[Path] = (), *, setting: str = "MIGRATION_DELIVERY_URL", below: str = ""
    ) -> None:
        self._url = url
        self._setting = setting
        self._below = f"/{below}" if below else ""
        self._parts = urlsplit(url)
        self._known_hosts = known_hosts
        host = self._parts.hostname or ""
        port = f":{self._parts.port}" if self._parts.port else ""
        self._shown = f"{self._parts.scheme or 'file'}://{host}{port}{self._parts.path.rstrip('/')}{self._below}"

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Target({self._shown!r})"

    @contextmanager
    def opened(self) -> Iterator[Place]:
        """Yield the importer's folder and the one beside it, which are created. Errors are as for `connected`."""
        with self.connected() as (system, folder):
            parent, _, name = folder.rpartition("/")
            if not name or not (parent or folder.startswith("/")):
                raise SettingsError(
                    f"{self._setting}: {self} must name a folder inside another folder, because the manifest goes beside it.",
                    hint="Use a folder such as sftp://host/integration/pointTransactionImport or s3://bucket/import.",
                )
            beside = f"{parent}/{BESIDE}"
            if beside == folder:
                raise SettingsError(f"{self._setting}: a folder called {BESIDE} is where the manifest goes.")
            for each in (folder, beside):
                private.make_folder(system, each)
            yield Place(system, folder, beside, renames=self._parts.scheme in _RENAMING)

    @contextmanager
    def connected(self) -> Iterator[tuple[Any, str]]:
        """Yield the fsspec file system and the folder in it. Errors become DeliveryError, without secrets."""
        system = None
        try:
            system, folder = self._connect()
            yield system, folder + self._below
        except (OSError, paramiko.SSHException, EOFError) as error:
            raise DeliveryError(
                f"{self} can't be used: {self._said(error)}.",
                hint=f"Check {self._setting}, the account and its rights. Files that have arrived are not sent again.",
            ) from None
        finally:
            if isinstance(system, SFTPFileSystem):
                system.ftp.close()
                system.client.close()

    def _connect(self) -> tuple[Any, str]:
        if self._parts.scheme in {"sftp", "ssh"}:
            if not self._parts.hostname:
                raise SettingsError(f"{self._setting} must name a host: sftp://user@host/folder.")
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
            return system, unquote(self._parts.path).rstrip("/")
        try:
            system, folder = fsspec.core.url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"{self._setting}: files can't be written to {self._parts.scheme}:// ({self._said(error)}).",
                hint="Install the package that fsspec needs for it, such as s3fs, gcsfs or adlfs.",
            ) from None
        return system, str(folder).rstrip("/")

    def _said(self, error: Exception) -> str:
        secrets = [self._url, self._parts.password or "", unquote(self._parts.password or ""), self._parts.query]
        return redacted(str(error), secrets).rstrip(".") or type(error).__name__


class _KnownHosts(paramiko.MissingHostKeyPolicy):
    """Accepts only the host keys that an operator has recorded."""

    def __init__(self, paths: Sequence[Path], port: int) -> None:
        self._paths = paths
        self._port = port

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        """Look up the key. paramiko calls the host `[host]:port` if the port is not 22."""
        known = paramiko.HostKeys()
        for path in self._paths:
            if path.is_file():
                known.load(str(path))
        if not known.check(hostname, key):
            places = " or ".join(map(str, self._paths))
            raise paramiko.SSHException(
                f"the host key of {hostname} ({key.get_name()} {key.fingerprint}) is not the one in {places}"
            )
