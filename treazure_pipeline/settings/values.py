"""Values of settings: how each kind is read, and how a wrong value is described."""

from __future__ import annotations

import binascii
from base64 import b64decode
from datetime import date, datetime, time
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_core import ErrorDetails

from treazure_pipeline import conventions
from treazure_pipeline.database.urls import canonical

WEEKLY = "37 2 * * 0"
SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Role(IntEnum):
    """What a person may do in the console. Each role may do everything that the roles before it may."""

    VIEWER = 1
    SERVICE = 2
    OPERATOR = 3
    APPROVER = 4


def _base_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("must be an address such as https://example.org")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must not contain a user, password, query or fragment")
    if url.scheme == "http" and not conventions.is_loopback(url.hostname):
        raise ValueError("must begin with https:// (plain http is for this machine only)")
    return value.rstrip("/")


def _database_url(value: SecretStr) -> SecretStr:
    return SecretStr(canonical(value.get_secret_value()))


def _beginning(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be an ISO 8601 date or time, such as 2000-01-01") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.min)
    if isinstance(value, datetime):
        return conventions.in_utc(value)
    return value


def _cron(value: str) -> str:
    if value == WEEKLY or value.lower() == "off":
        return value.lower()
    from dagster._utils.schedules import is_valid_cron_string  # noqa: PLC0415 - takes a second, and hardly anybody needs it

    if not is_valid_cron_string(value):
        raise ValueError("must be off, or five cron fields in UTC, such as 37 2 * * 0 for Sundays at 02:37")
    return value


def _webhook_secrets(value: object) -> object:
    if not isinstance(value, str):
        return value
    secrets = value.replace(",", " ").split()
    for secret in secrets:
        try:
            text = secret.removeprefix("whsec_").rstrip("=")
            key = b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            key = b""
        if not secret.startswith("whsec_") or not key:
            raise ValueError("must be whsec_ and Base64, as Engage shows it; separate several with spaces or commas")
    return secrets


def _split(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(one) for one in value.replace(",", " ").split())
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, separated by spaces or commas") from None


def _roles(value: object) -> object:
    """Read ``WHO=ROLE`` pairs. A name with a comma or an equals sign can't be given."""
    if not isinstance(value, str):
        return value
    pairs = [one.strip().rpartition("=") for one in value.split(",") if one.strip()]
    wrong = [who or role for who, _, role in pairs if not who.strip() or role.strip().upper() not in Role.__members__]
    if wrong or not pairs:
        roles = ", ".join(role.name.lower() for role in Role)
        raise ValueError(f"must be pairs such as loyalty-team=operator, separated by commas; the roles are {roles}")
    return {who.strip(): Role[role.strip().upper()] for who, _, role in pairs}


def _ping_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        url = urlsplit(value.get_secret_value())
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("must be an address such as https://example.org/ping")
        if url.scheme == "http" and not conventions.is_loopback(url.hostname):
            raise ValueError("must begin with https:// (plain http is for this machine only)")
    return value


def _home(value: Path) -> Path:
    return expanded(value).absolute()


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home directory. Raises ValueError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of a user who is not in /etc/passwd, without HOME
        raise ValueError("begins with ~, but there is no such home directory: write the full path") from None


BaseUrl = Annotated[str, AfterValidator(_base_url)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
PingUrl = Annotated[SecretStr | None, AfterValidator(_ping_url)]
SecretUrls = Annotated[tuple[SecretStr, ...], BeforeValidator(_split)]
Beginning = Annotated[datetime, BeforeValidator(_beginning)]
Cron = Annotated[str, AfterValidator(_cron)]
WebhookSecrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_webhook_secrets)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)]
Roles = Annotated[dict[str, Role], BeforeValidator(_roles)]
Home = Annotated[Path, AfterValidator(_home)]


def reason(details: ErrorDetails) -> str:
    """Return what is wrong with a value, as the end of a sentence that starts with its name."""
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "missing":
        return "is missing"
    if details["type"] == "model_type":
        return "must have keys and values"
    if details["type"] == "extra_forbidden":
        return "is not a known key"
    return details["msg"].replace("Input should", "must").replace("String should", "must").replace("Field", "is")
