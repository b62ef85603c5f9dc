"""What an operator sets, read from the environment in one place and checked before any work.

Nothing here is read at import: :func:`load_settings` is called by whoever starts something.
"""

from __future__ import annotations

import binascii
import os
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails

from treazure_pipeline import conventions
from treazure_pipeline.database import embedded, homes
from treazure_pipeline.database.urls import canonical
from treazure_pipeline.errors import SettingsError

_PROGRAMMES_FILE = "TREAZURE_PIPELINE_PROGRAMMES"
_ONE_PROGRAMME = {
    "PROGRAMME_NAME": "name",
    "TREAZURE_LOYALTY_ID": "loyalty_id",
    "ENGAGE_DEFINITION_ID": "definition_id",
    "PROGRAMME_BEGINNING": "beginning",
    "PROGRAMME_DECIMALS": "decimals",
    "PROGRAMME_MIGRATED": "migrated",
}
_WEEKLY = "37 2 * * 0"
_GUARDS = {
    "GUARD_MAX_CHANGED_SHARE": "max_changed_share",
    "GUARD_MAX_ZEROED_SHARE": "max_zeroed_share",
    "GUARD_MAX_TOTAL_SHARE": "max_total_share",
    "GUARD_MAX_SINGLE_CHANGE": "max_single_change",
    "GUARD_MAX_REJECTED_SHARE": "max_rejected_share",
}
_LOYALTY_ID_IS_MISSING = (
    "is missing: set it to the loyaltyPointDefinitionId of the programme in Treazure, "
    f"or set {_PROGRAMMES_FILE} to a YAML file with several programmes"
)
_SWITCH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _base_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("must be an address such as https://example.org")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must hold no user, password, query or fragment")
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
            raise ValueError("must be a date or a time by ISO 8601, such as 2000-01-01") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.min)
    if isinstance(value, datetime):
        return conventions.in_utc(value)
    return value


def _cron(value: str) -> str:
    if value == _WEEKLY or value.lower() == "off":
        return value.lower()
    from dagster._utils.schedules import is_valid_cron_string  # noqa: PLC0415 - takes a second, and hardly anybody needs it

    if not is_valid_cron_string(value):
        raise ValueError("must be off, or five fields of cron in UTC, such as 37 2 * * 0 for Sundays at 02:37")
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
            raise ValueError("must be whsec_ and Base64, as Engage shows it; several with spaces or commas between")
    return secrets


def _split(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(one) for one in value.replace(",", " ").split())
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, with spaces or commas between") from None


def _roles(value: object) -> object:
    """Read ``WHO=ROLE`` pairs; who has a comma or an equals sign in it can't be named."""
    if not isinstance(value, str):
        return value
    pairs = [one.strip().rpartition("=") for one in value.split(",") if one.strip()]
    wrong = [who or role for who, _, role in pairs if not who.strip() or role.strip().upper() not in Role.__members__]
    if wrong or not pairs:
        roles = ", ".join(role.name.lower() for role in Role)
        raise ValueError(f"must be pairs such as loyalty-team=operator, with commas between; roles are {roles}")
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
    return _expanded(value).absolute()


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of a user who is not in /etc/passwd, without HOME
        raise ValueError("begins with ~, and there is no such home directory: write the whole path") from None


BaseUrl = Annotated[str, AfterValidator(_base_url)]
R = TypeVar("R", bound="ReadingSettings")
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]


class Guards(BaseModel):
    """How much one run may change before a person has to approve it. Shares apply from 1,000 known contacts.

    Attributes:
        max_changed_share: Of the known contacts, how many may change; 1 switches the guard off.
        max_zeroed_share: Of the known contacts, how many may go to zero; 1 switches the guard off.
        max_total_share: By how much of itself the points total may change; it can more than double.
        max_single_change: Points by which one contact's balance may change.
        max_rejected_share: Of an export's rows, how many may be unreadable (from 10 on); never all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    max_changed_share: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.2")
    max_zeroed_share: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.02")
    max_total_share: Annotated[Decimal, Field(ge=0)] = Decimal("0.2")
    max_single_change: Annotated[Decimal, Field(ge=0)] = Decimal(1_000_000)
    max_rejected_share: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.1")


class Programme(BaseModel):
    """One programme of Treazure and the point definition of Engage that follows it.

    Attributes:
        name: Unique; part of keys of assets and of database rows, so never changed later.
        loyalty_id: Treazure's ``loyaltyPointDefinitionId``.
        definition_id: Engage's ``definitionId``.
        beginning: The earliest time asked of Treazure when nothing has been read yet; aware, UTC.
        decimals: Digits after the point that Engage keeps.
        guards: What a run may change without approval.
        keeps_names: Its keys and jobs stay without its name, as they were before another programme joined it.
        migrated: Its migration is over, or it needs none: Dagster shows nothing of a migration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    loyalty_id: Annotated[str, Field(min_length=1, max_length=200)]
    definition_id: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1
    beginning: Annotated[datetime, BeforeValidator(_beginning)] = datetime(2000, 1, 1, tzinfo=UTC)
    decimals: Annotated[int, Field(ge=0, le=9)] = 2
    guards: Guards = Guards()
    keeps_names: bool = False
    migrated: bool = False


class Storage(BaseModel):
    """Where the ledger and Dagster keep what they know; all that the ``db`` commands need.

    Attributes:
        home: Absolute. Everything the embedded default writes.
        database_url: The ledger, written so that every driver understands it; None means the embedded server.
        dagster_postgres_url: Dagster's storage; None means another database of the same server.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        str_strip_whitespace=True,
        hide_input_in_errors=True,
        validate_default=True,
        validate_by_name=True,
        validate_by_alias=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
    )

    home: Annotated[Path, AfterValidator(_home)] = Field(
        default=Path(".treazure"), validation_alias="TREAZURE_PIPELINE_HOME"
    )
    database_url: DatabaseUrl | None = Field(default=None, validation_alias="TREAZURE_PIPELINE_DATABASE_URL")
    dagster_postgres_url: DatabaseUrl | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the ledger is in the embedded server, also where its URL has been exported by `env`."""
        return embedded.is_at(self.database_url, self.home)


class _Programmes(Storage):
    """Which programmes it is about; names and both identifiers are unique."""

    programmes: tuple[Programme, ...]

    def chosen(self, names: Sequence[str]) -> list[Programme]:
        """Return the programmes of these names, all where none is named; raise SettingsError for an unknown one."""
        known = {programme.name: programme for programme in self.programmes}
        if unknown := [name for name in names if name not in known]:
            raise SettingsError(f"There is no programme {unknown[0]!r}; there are: {', '.join(known)}.")
        return [known[name] for name in names] or list(self.programmes)


class ReadingSettings(_Programmes):
    """What reading the ledger needs: the database alone.

    Attributes:
        programmes: None where none is set: those that the ledger has.
        treazure_base_url: With Engage's, whose ledger it should be; None where it is not set.
        engage_base_url: Likewise.
    """

    programmes: tuple[Programme, ...] = ()
    treazure_base_url: BaseUrl | None = None
    engage_base_url: BaseUrl | None = None
    treazure_lookup_wait_seconds: float = Field(default=60, gt=0, allow_inf_nan=False)


class MasterSettings(_Programmes):
    """What reading from Treazure needs.

    Attributes:
        treazure_base_url: Formed from its parts where it was not given; no slash at the end.
        programmes: One or more.
    """

    treazure_base_url: BaseUrl = Field(description="Treazure's address")
    treazure_client_id: str = Field(min_length=1, description="the id of the OAuth client in Treazure")
    treazure_client_secret: SecretStr = Field(min_length=1, description="the secret of that OAuth client")
    treazure_max_requests_per_second: int = Field(default=40, ge=0)
    treazure_concurrency: int = Field(default=8, ge=1, le=64)
    treazure_timeout_seconds: float = Field(default=30, gt=0, le=3600, allow_inf_nan=False)
    programmes: tuple[Programme, ...] = Field(min_length=1)


class Settings(MasterSettings):
    """Everything an operator can set; each field is the variable of its name unless an alias is given.

    Secrets are :class:`pydantic.SecretStr`, so that no repr and no log shows them.

    Attributes:
        engage_base_url: Formed from its parts where it was not given; no slash at the end.
        prefixed: Whether keys of assets and names of jobs carry the programme's name.
        tenant: What stands before every key and name, for several retailers on one Dagster instance.
    """

    treazure_lookup_wait_seconds: float = Field(default=60, gt=0, allow_inf_nan=False)
    treazure_lookup_first_after_seconds: float = Field(default=300, gt=0, allow_inf_nan=False)

    engage_base_url: BaseUrl = Field(description="Engage's address")
    engage_api_key: SecretStr = Field(min_length=1, description="the API key of Engage")
    engage_api_version: str = Field(default="v2", pattern=r"^v[0-9]+$")
    engage_max_requests_per_second: int = Field(default=45, ge=0)
    engage_batch_size: int = Field(default=1000, ge=1, le=1000)
    engage_concurrency: int = Field(default=8, ge=1, le=64)
    engage_timeout_seconds: float = Field(default=60, gt=0, le=3600, allow_inf_nan=False)

    engage_verify_grace_seconds: float = Field(default=1800, ge=0, allow_inf_nan=False)
    engage_verify_seconds: float = Field(default=2400, gt=0, le=3300, allow_inf_nan=False)
    full_resync_cron: Annotated[str, AfterValidator(_cron)] = _WEEKLY
    approval_lifetime_hours: float = Field(default=24, gt=0, le=24 * 30, allow_inf_nan=False)
    ledger_history_days: int = Field(default=400, ge=7)
    text_retention_days: int = Field(default=90, ge=1)
    dagster_run_days: int = Field(default=400, ge=0)
    alert_urls: Annotated[tuple[SecretStr, ...], BeforeValidator(_split)] = Field(
        default=(), validation_alias="TREAZURE_PIPELINE_ALERT_URLS"
    )
    dead_man_url: Annotated[SecretStr | None, AfterValidator(_ping_url)] = None
    console_url: BaseUrl | None = None
    source_url: BaseUrl | None = Field(default=None, validation_alias="TREAZURE_PIPELINE_SOURCE_URL")
    adjustment_long_description: Literal["truncate", "reject"] = "truncate"

    migration_delivery_url: SecretStr | None = Field(
        default=None, description="an fsspec URL; None means a folder in the home, where the ledger is embedded"
    )
    replica_url: DatabaseUrl | None = Field(
        default=None, validation_alias="TREAZURE_PIPELINE_REPLICA_URL", description="a replica of the ledger"
    )

    migration_report_url: SecretStr | None = Field(
        default=None, description="an fsspec URL; None means a folder in the home, where the ledger is embedded"
    )
    migration_mode: Literal["log", "balance"] = "log"
    migration_key_type: Literal["ContactId", "MemberNumber", "ExternalId"] = "ContactId"
    migration_shards: int = Field(default=16, ge=1, le=256)

    retry_scale: float = Field(default=1, ge=0, allow_inf_nan=False, validation_alias="TREAZURE_PIPELINE_RETRY_SCALE")
    prefixed: bool = False
    tenant: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)] | None = Field(
        default=None, validation_alias="TREAZURE_PIPELINE_TENANT"
    )


class Role(IntEnum):
    """What a person may do in the console; each role may do all that those before it may."""

    VIEWER = 1
    SERVICE = 2
    OPERATOR = 3
    APPROVER = 4


class ConsoleSettings(ReadingSettings):
    """What the console needs: the ledger, and how people sign in. Treazure's credentials are used where they are given.

    Attributes:
        master: How to look an adjustment up in Treazure; None without its credentials and both systems' addresses.
        console_auth: Who says who somebody is: nobody (then the console listens on loopback only), a proxy, or OIDC.
        console_url: Where people reach it; other host names are refused.
        console_roles: By name or group; `*` is everybody who has signed in.
        console_secret: Signs sessions; None: one of this process alone.
        console_proxy_addresses: From these the headers are believed, from no other.
    """

    approval_lifetime_hours: float = Field(default=24, gt=0, le=24 * 30, allow_inf_nan=False)
    console_auth: Literal["none", "proxy", "oidc"] = "none"
    console_url: BaseUrl | None = None
    console_roles: Annotated[dict[str, Role], BeforeValidator(_roles)] = Field(default_factory=dict)
    console_secret: SecretStr | None = Field(default=None, min_length=32)
    console_session_hours: float = Field(default=8, gt=0, le=24, allow_inf_nan=False)
    console_proxy_addresses: Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)] = ()
    console_name_header: str = Field(default="X-Forwarded-Email", pattern=r"^[A-Za-z0-9-]+$")
    console_groups_header: str = Field(default="X-Forwarded-Groups", pattern=r"^[A-Za-z0-9-]+$")
    console_oidc_issuer: BaseUrl | None = None
    console_oidc_client_id: str | None = None
    console_oidc_client_secret: SecretStr | None = None
    console_oidc_scopes: str = "openid email profile"
    console_name_claim: str = "email"
    console_groups_claim: str = "groups"
    master: MasterSettings | None = None


class ReceiverSettings(Storage):
    """What the webhook receiver needs; neither system's address nor credentials are among it.

    Attributes:
        engage_webhook_secret: Any of them may have signed a delivery, so that a secret can be replaced.
        adjustment_answer_within_seconds: How long after its arrival a delivery may wait for the new balance.
            The sender gives up after 15 seconds.
        history_api_key: What a reader of points histories has to show; None: nobody may read any.
        master: Where the histories come from; there only with a key.
    """

    engage_webhook_secret: Annotated[tuple[SecretStr, ...], BeforeValidator(_webhook_secrets)] = Field(
        min_length=1, description="the signing secret of the webhook endpoint in Engage (whsec_...)"
    )
    adjustment_answer_within_seconds: float = Field(default=0, ge=0, lt=15, allow_inf_nan=False)
    history_api_key: SecretStr | None = None
    master: MasterSettings | None = None


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings.

    Args:
        environ: Where to look instead of the process's environment. An empty value counts as not set.

    Raises:
        SettingsError: One message that names every variable that is missing or wrong and what to do;
            it never shows a secret.
    """
    given = _given(environ)
    problems: dict[str, str] = {}
    _read_files(Settings, given, problems)
    values = _values(Settings, given)
    _form_treazure_base_url(given, values, problems)
    _form_engage_base_url(given, values, problems)
    programmes = _programmes(given, problems)
    values["PROGRAMMES"] = programmes or _PLACEHOLDER
    values["PREFIXED"] = len(programmes) > 1

    settings = _validated(Settings, values, problems)
    if settings and settings.treazure_lookup_wait_seconds < settings.treazure_timeout_seconds:
        problems["TREAZURE_LOOKUP_WAIT_SECONDS"] = (
            f"({settings.treazure_lookup_wait_seconds:g}) must not be shorter than "
            f"TREAZURE_TIMEOUT_SECONDS ({settings.treazure_timeout_seconds:g})"
        )
    if settings is None or problems:
        raise _error(problems)
    return settings


def load_storage(environ: Mapping[str, str] | None = None) -> Storage:
    """Read and check only where data is kept, for what works without the two systems.

    Args:
        environ: As for :func:`load_settings`.

    Raises:
        SettingsError: As from :func:`load_settings`.
    """
    problems: dict[str, str] = {}
    given = _given(environ)
    _read_files(Storage, given, problems)
    storage = _validated(Storage, _values(Storage, given), problems)
    if storage is None or problems:
        raise _error(problems)
    return storage


def load_reading(environ: Mapping[str, str] | None = None) -> ReadingSettings:
    """Read and check what reading the ledger needs. Programmes and addresses may be missing; what is set is checked.

    Args:
        environ: As for :func:`load_settings`.

    Raises:
        SettingsError: As from :func:`load_settings`.
    """
    return _reading(ReadingSettings, _given(environ), {})


def load_console(environ: Mapping[str, str] | None = None) -> ConsoleSettings:
    """Read and check what the console needs; the ledger's part as :func:`load_reading`.

    Args:
        environ: As for :func:`load_settings`.

    Raises:
        SettingsError: As from :func:`load_settings`.
    """
    given = _given(environ)
    needed = _CONSOLE_NEEDS.get(given.get("CONSOLE_AUTH", "none"), {})
    missing = {
        variable: f"is missing: set it to {what}"
        for variable, what in needed.items()
        if not given.keys() & {variable, f"{variable}_FILE"}
    }
    problems = missing
    credentials = ("TREAZURE_CLIENT_ID", "TREAZURE_CLIENT_SECRET")
    master = None
    if all(given.keys() & {name, f"{name}_FILE"} for name in credentials) and given.keys() & {
        "ENGAGE_BASE_URL",
        "ENGAGE_CLIENT",
    }:
        master = _master(given, problems, _PLACEHOLDER)
    return _reading(ConsoleSettings, given, problems).model_copy(update={"master": master})


def _reading(model: type[R], given: dict[str, str], problems: dict[str, str]) -> R:
    _read_files(model, given, problems)
    values = _values(model, given)
    missing: dict[str, str] = {}
    _form_treazure_base_url(given, values, missing)
    _form_engage_base_url(given, values, missing)
    if given.keys() & {"TREAZURE_LOYALTY_ID", _PROGRAMMES_FILE}:
        values["PROGRAMMES"] = _programmes(given, problems) or _PLACEHOLDER
    settings = _validated(model, values, problems)
    if settings is None or problems:
        raise _error(problems)
    return settings


def load_receiver(environ: Mapping[str, str] | None = None) -> ReceiverSettings:
    """Read and check what the webhook receiver needs.

    Args:
        environ: As for :func:`load_settings`.

    Raises:
        SettingsError: As from :func:`load_settings`.
    """
    given = _given(environ)
    problems: dict[str, str] = {}
    _read_files(ReceiverSettings, given, problems)
    settings = _validated(ReceiverSettings, _values(ReceiverSettings, given), problems)
    master = None
    if "HISTORY_API_KEY" in given:
        _judge_history_key(given, problems)
        master = _master(given, problems, _programmes(given, problems) or _PLACEHOLDER)
    if settings is None or problems:
        raise _error(problems)
    return settings.model_copy(update={"master": master})


def _judge_history_key(given: dict[str, str], problems: dict[str, str]) -> None:
    if not re.fullmatch(r"[!-~]{32,}", given["HISTORY_API_KEY"]):
        problems["HISTORY_API_KEY"] = (
            "must have at least 32 visible ASCII characters, without spaces; `openssl rand -hex 32` makes one"
        )


def _master(
    given: dict[str, str], problems: dict[str, str], programmes: tuple[Programme, ...]
) -> MasterSettings | None:
    """What reading single accounts of Treazure needs."""
    _read_files(MasterSettings, given, problems)
    values = _values(MasterSettings, given)
    _form_treazure_base_url(given, values, problems)
    values["PROGRAMMES"] = programmes
    return _validated(MasterSettings, values, problems)


# Stands in for programmes that are wrong themselves, so that the other settings are checked all the same.
_PLACEHOLDER = (Programme(name="placeholder", loyalty_id="placeholder"),)
_FORMED = ("TREAZURE_BASE_URL", "ENGAGE_BASE_URL")

_ADDRESS_AND_ROLES = {
    "CONSOLE_URL": "the address at which people reach the console",
    "CONSOLE_ROLES": "who may do what, such as loyalty-team=operator, *=viewer",
}
_CONSOLE_NEEDS = {
    "proxy": {"CONSOLE_PROXY_ADDRESSES": "the addresses of the proxy that signs people in", **_ADDRESS_AND_ROLES},
    "oidc": {
        "CONSOLE_OIDC_ISSUER": "the issuer's address, below which /.well-known/openid-configuration is",
        "CONSOLE_OIDC_CLIENT_ID": "the id of the console's client there",
        "CONSOLE_OIDC_CLIENT_SECRET": "the secret of that client",
        **_ADDRESS_AND_ROLES,
    },
}

S = TypeVar("S", bound=Storage)


def _given(environ: Mapping[str, str] | None) -> dict[str, str]:
    environ = os.environ if environ is None else environ
    return {name: value.strip() for name, value in environ.items() if value.strip()}


def _read_files(model: type[Storage], given: dict[str, str], problems: dict[str, str]) -> None:
    """Take the secrets and addresses of databases whose ``NAME_FILE`` is set from these files."""
    for variable, field in _variables(model).items():
        path = given.get(f"{variable}_FILE")
        if path is None or "SecretStr" not in repr(model.model_fields[field].annotation):
            continue
        if variable in given:
            problems[f"{variable}_FILE"] = f"must not be set beside {variable}: it is one or the other"
            continue
        try:
            given[variable] = _expanded(path).read_text(encoding="utf-8").strip()
            del given[f"{variable}_FILE"]  # read once, also where several models have the field
        except OSError as error:
            problems[f"{variable}_FILE"] = f"({path!r}) cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            problems[f"{variable}_FILE"] = f"({path!r}) is not UTF-8 text"
        except ValueError as error:
            problems[f"{variable}_FILE"] = f"({path!r}) {error}"
        else:
            if not given[variable]:
                problems[f"{variable}_FILE"] = f"({path!r}) is empty"


def _variables(model: type[Storage]) -> dict[str, str]:
    """The field that each variable sets."""
    fields = model.model_fields.items()
    return {
        str(field.validation_alias or name.upper()): name
        for name, field in fields
        if name not in {"programmes", "prefixed", "master"}
    }


def _values(model: type[Storage], given: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {variable: given[variable] for variable in _variables(model) if variable in given}
    if "TREAZURE_PIPELINE_DATABASE_URL" not in values:
        values.setdefault("TREAZURE_PIPELINE_HOME", homes.default())
    return values


def _validated(model: type[S], values: dict[str, Any], problems: dict[str, str]) -> S | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for details in error.errors():
            variable = str(details["loc"][0])
            if variable in _FORMED and details["type"] == "missing":
                continue  # what it would be formed from is among the problems already
            field = model.model_fields[_variables(model)[variable]]
            if details["type"] == "missing":
                problems[variable] = f"is missing: set it to {field.description}"
                continue
            value = str(values.get(variable, ""))
            secret = "SecretStr" in repr(field.annotation) or "@" in value
            problems[variable] = ("" if secret else f"({value!r}) ") + _reason(details)
        return None


def _error(problems: Mapping[str, str]) -> SettingsError:
    # What a file should have held is not missing as well.
    problems = {variable: problem for variable, problem in problems.items() if f"{variable}_FILE" not in problems}
    heading = "1 setting needs" if len(problems) == 1 else f"{len(problems)} settings need"
    lines = "".join(f"\n  {variable} {problem}." for variable, problem in problems.items())
    return SettingsError(f"{heading} to be fixed before anything can run:{lines}")


def _reason(details: ErrorDetails) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "missing":
        return "is missing"
    if details["type"] == "model_type":
        return "must have keys and values"
    if details["type"] == "extra_forbidden":
        return "is not a known key"
    return details["msg"].replace("Input should", "must").replace("String should", "must").replace("Field", "is")


def _form_treazure_base_url(given: Mapping[str, str], values: dict[str, Any], problems: dict[str, str]) -> None:
    if "TREAZURE_BASE_URL" in given:
        return
    parts = ("TREAZURE_CLIENT", "TREAZURE_ENVIRONMENT")
    if not any(part in given for part in parts):
        problems["TREAZURE_BASE_URL"] = (
            "is missing: set it to Treazure's address, or set TREAZURE_CLIENT and TREAZURE_ENVIRONMENT, which form it"
        )
        return
    for part in parts:
        if part not in given:
            problems[part] = "is missing: TREAZURE_CLIENT and TREAZURE_ENVIRONMENT together form Treazure's address"
        elif not _is_label(given[part]):
            problems[part] = f"({given[part]!r}) must be one part of a host name: letters, digits and hyphens"
    if not any(part in problems for part in parts):
        client, environment = (given[part] for part in parts)
        values["TREAZURE_BASE_URL"] = f"https://{client}.posengine.{environment}.cloud"


def _form_engage_base_url(given: Mapping[str, str], values: dict[str, Any], problems: dict[str, str]) -> None:
    staging = _SWITCH.get(given.get("ENGAGE_STAGING", "0").lower())
    if staging is None:
        problems["ENGAGE_STAGING"] = f"({given['ENGAGE_STAGING']!r}) must be 1 or 0"
    if "ENGAGE_BASE_URL" in given:
        return
    client = given.get("ENGAGE_CLIENT")
    if client is None:
        problems["ENGAGE_BASE_URL"] = (
            "is missing: set it to Engage's address, or set ENGAGE_CLIENT (and ENGAGE_STAGING=1), which form it"
        )
    elif not _is_label(client):
        problems["ENGAGE_CLIENT"] = f"({client!r}) must be one part of a host name: letters, digits and hyphens"
    else:
        values["ENGAGE_BASE_URL"] = f"https://{client}{'.staging' if staging else ''}.voyado.com"


def _is_label(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", value) is not None


def _programmes(given: Mapping[str, str], problems: dict[str, str]) -> tuple[Programme, ...]:
    if _PROGRAMMES_FILE in given:
        for variable in _ONE_PROGRAMME.keys() & given.keys():
            problems[variable] = f"must not be set beside {_PROGRAMMES_FILE}, which holds it for each programme"
        try:
            return _read_programmes(_expanded(given[_PROGRAMMES_FILE]), _guards(given))
        except ValueError as error:
            problems[_PROGRAMMES_FILE] = f"({given[_PROGRAMMES_FILE]!r}) {error}"
            return ()
    fields: dict[str, Any] = {"name": "points", "guards": _guards(given)}
    fields |= {field: given[variable] for variable, field in _ONE_PROGRAMME.items() if variable in given}
    try:
        return (Programme.model_validate(fields),)
    except ValidationError as error:
        variables = {field: variable for variable, field in (_ONE_PROGRAMME | _GUARDS).items()}
        for details in error.errors():
            variable = variables[str(details["loc"][-1])]
            problems[variable] = (
                _LOYALTY_ID_IS_MISSING if details["type"] == "missing" else f"({given[variable]!r}) {_reason(details)}"
            )
        return ()


def _guards(given: Mapping[str, str]) -> dict[str, str]:
    return {field: given[variable] for variable, field in _GUARDS.items() if variable in given}


def _read_programmes(path: Path, guards: Mapping[str, str]) -> tuple[Programme, ...]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, list) or not content:
        raise ValueError("must be a YAML list of programmes, each with at least name and loyalty_id")

    wrong: list[str] = []
    programmes: list[Programme] = []
    for number, entry in enumerate(content, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            programmes.append(Programme.model_validate(_with_guards(entry, guards)))
        except ValidationError as error:
            wrong.extend(
                f"programme {number}{f' ({name})' if name else ''}: {_key(details)} {_reason(details)}"
                for details in error.errors()
            )
    for key in ("name", "loyalty_id", "definition_id"):
        values = [getattr(programme, key) for programme in programmes]
        wrong.extend(
            f"{key} {value!r} stands at more than one programme"
            for value in dict.fromkeys(values)
            if values.count(value) > 1
        )
    if sum(programme.keeps_names for programme in programmes) > 1:
        wrong.append("keeps_names stands at more than one programme; only the first one of an installation has them")
    if wrong:
        raise ValueError("has mistakes: " + "; ".join(wrong))
    return tuple(programmes)


def _with_guards(entry: Any, guards: Mapping[str, str]) -> Any:
    """Let a programme's own guards go before those of the environment, which are for all."""
    own = entry.get("guards") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or (own is not None and not isinstance(own, dict)):
        return entry
    return entry | {"guards": {**guards, **(own or {})}}


def _key(details: ErrorDetails) -> str:
    return ".".join(map(str, details["loc"])) or "it"
