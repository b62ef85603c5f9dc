"""Which two systems the ledger belongs to, noted when it is first used (I13)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from treazure_pipeline import conventions
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger.store import retried

if TYPE_CHECKING:
    import psycopg

    from treazure_pipeline.ledger.store import Ledger

_PORTS = {"https": 443, "http": 80}
LOOPBACK = "loopback"
"""All addresses of this machine count as one system, since a sandbox has a new port at each start."""


@dataclass(frozen=True)
class Systems:
    """Two systems, by their normalized addresses without the scheme."""

    treazure: str
    engage: str

    def __str__(self) -> str:
        """Name both, for people."""
        return f"{self.treazure} and {self.engage}"

    @property
    def fingerprint(self) -> str:
        """The same for two pairs of the same systems."""
        return hashlib.sha256(f"{self.treazure}|{self.engage}".encode()).hexdigest()[:32]


def systems(treazure: str, engage: str) -> Systems:
    """Return the two systems at these addresses."""
    return Systems(normalized(treazure), normalized(engage))


def normalized(address: str) -> str:
    """Return the host, the port if it is not the default, and the path of an address; `loopback` for this machine."""
    url = urlsplit(address)
    host = (url.hostname or "").rstrip(".").lower()
    if conventions.is_loopback(host):
        return LOOPBACK
    port = "" if url.port in {None, _PORTS.get(url.scheme)} else f":{url.port}"
    return f"{host}{port}{url.path.rstrip('/')}"


@retried
def require(ledger: Ledger, wanted: Systems) -> None:
    """Note which systems the ledger belongs to, if not done yet. Raises SettingsError if it belongs to others."""
    with ledger.transaction() as connection:
        connection.execute(_CLAIM, (wanted.fingerprint, wanted.treazure, wanted.engage))
        _compare(connection, wanted)


def check(ledger: Ledger, wanted: Systems) -> bool:
    """Return whether the ledger's systems have been noted. Raises SettingsError if they are others."""
    with ledger.reading() as connection:
        return _compare(connection, wanted)


def _compare(connection: psycopg.Connection, wanted: Systems) -> bool:
    row = connection.execute("select fingerprint, treazure, engage from owner").fetchone()
    if row is not None and row[0] != wanted.fingerprint:
        raise SettingsError(
            f"The ledger (database {connection.info.dbname}) belongs to {Systems(*row[1:])}, "
            f"but the settings name {wanted}.",
            hint="Point TREAZURE_PIPELINE_DATABASE_URL or TREAZURE_PIPELINE_HOME at the ledger of these systems; "
            "if the same systems have moved to new addresses, run `treazure-pipeline db adopt`.",
        )
    return row is not None


@retried
def adopt(ledger: Ledger, wanted: Systems) -> Systems | None:
    """Note that the ledger's systems now have these addresses. Return the previous ones."""
    with ledger.transaction() as connection:
        row = connection.execute("select treazure, engage from owner for update").fetchone()
        connection.execute("delete from owner")
        connection.execute(_CLAIM, (wanted.fingerprint, wanted.treazure, wanted.engage))
    return None if row is None else Systems(*row)


_CLAIM = "insert into owner (fingerprint, treazure, engage) values (%s, %s, %s) on conflict do nothing"
