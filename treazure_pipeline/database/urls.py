"""Database addresses: read by libpq, and rewritten so that every driver understands them in the same way.

libpq accepts several hosts, sockets as hosts, services and any of its own parameters. SQLAlchemy, which Dagster uses,
parses addresses itself and knows fewer forms. So libpq parses an address once, and it is written again with user,
password and database in their places and everything else as parameters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from treazure_pipeline import conventions


def canonical(url: str) -> str:
    """Return an address that psycopg, psycopg2 and SQLAlchemy understand as libpq understands the given one.

    It asks for TLS if a host is not this machine, unless the address, a service or PGSSLMODE says otherwise.
    Raises ValueError without any part of the address, since it may contain a password.
    """
    if not re.match("postgres(ql)?://", url):
        raise ValueError("must begin with postgresql://")
    try:
        parts = _parts(url)
    except ProgrammingError:
        raise ValueError("is not an address that PostgreSQL understands") from None
    if _needs_tls(parts):
        parts["sslmode"] = "require"
    return joined(parts)


def joined(parts: Mapping[str, str]) -> str:
    """Return the address with these libpq parameters, the inverse of libpq's parsing."""
    rest = dict(parts)
    # SQLAlchemy takes a database's name literally, so an odd one is a parameter like any other.
    database = rest.pop("dbname", "") if re.fullmatch(r"[\w.-]*", parts.get("dbname", ""), re.ASCII) else ""
    user, password = (quote(rest.pop(name, ""), safe="") for name in ("user", "password"))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    query = "&".join(f"{name}={quote(value, safe='/,')}" for name, value in rest.items())
    return f"postgresql://{login}/{database}" + (f"?{query}" if query else "")


def sibling(url: str, database: str) -> str:
    """Return the address of another database on the same server."""
    return joined(_parts(url) | {"dbname": database})


def has_password(url: str) -> bool:
    """Return whether an address contains a secret."""
    return not _SECRETS.isdisjoint(_parts(url))


def without_secrets(url: str) -> str:
    """Return an address to show to people, with three dots for each secret."""
    return joined({name: "..." if name in _SECRETS else value for name, value in _parts(url).items()})


def is_plain(url: str) -> bool:
    """Return whether SQLAlchemy understands an address, unchanged, as libpq does."""
    import sqlalchemy as sa  # noqa: PLC0415 - a quarter of a second, for one command
    from sqlalchemy.dialects.postgresql import psycopg2  # noqa: PLC0415 - likewise

    try:
        _, arguments = psycopg2.dialect().create_connect_args(sa.make_url(url))  # type: ignore[no-untyped-call]
    except (sa.exc.SQLAlchemyError, ValueError):
        return False
    return {name: str(value) for name, value in arguments.items()} == _parts(url)


_SECRETS = {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}


def _parts(url: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(url).items() if value != ""}


def _needs_tls(parts: Mapping[str, str]) -> bool:
    said = "sslmode" in parts or "service" in parts or parts.get("sslrootcert") == "system"
    if said or os.environ.keys() & {"PGSSLMODE", "PGSERVICE"}:
        return False
    hosts = parts.get("hostaddr") or parts.get("host") or os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST", "")
    return any(not _is_here(host) for host in hosts.split(","))


def _is_here(host: str) -> bool:
    return not host or host.startswith(("/", "@")) or conventions.is_loopback(host)
