"""The settings as models. Each field is a variable with its bounds and its default."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, SecretStr

from treazure_pipeline.database import embedded
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import values


class Guards(BaseModel):
    """How much one run may change before a person has to approve it. Shares apply from 1,000 known contacts.

    Attributes:
        max_changed_share: The share of known contacts that may change; 1 switches the guard off.
        max_zeroed_share: The share of known contacts that may go to zero; 1 switches the guard off.
        max_total_share: The share of the points total by which it may change; it can be more than 1.
        max_single_change: The points by which one contact's balance may change.
        max_rejected_share: The share of an export's rows that may be rejected, from 10 rows on; never all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    max_changed_share: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.2")
    max_zeroed_share: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.02")
    max_total_share: Annotated[Decimal, Field(ge=0)] = Decimal("0.2")
    max_single_change: Annotated[Decimal, Field(ge=0)] = Decimal(1_000_000)
    max_rejected_share: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.1")


class Programme(BaseModel):
    """A programme in Treazure and the point definition in Engage that follows it.

    Attributes:
        name: Unique. It is part of asset keys and database rows, so it can't be changed later.
        loyalty_id: Treazure's ``loyaltyPointDefinitionId``.
        definition_id: Engage's ``definitionId``.
        beginning: The earliest time to ask Treazure for when nothing has been read yet; aware, UTC.
        decimals: Digits after the point that Engage keeps.
        guards: What a run may change without approval.
        keeps_names: Its keys and jobs stay without its name, as they were before other programmes were added.
        migrated: Its migration is over, or it needs none, so Dagster does not show one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    loyalty_id: Annotated[str, Field(min_length=1, max_length=200)]
    definition_id: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1
    beginning: values.Beginning = datetime(2000, 1, 1, tzinfo=UTC)
    decimals: Annotated[int, Field(ge=0, le=9)] = 2
    guards: Guards = Guards()
    keeps_names: bool = False
    migrated: bool = False


class Storage(BaseModel):
    """Where the ledger and Dagster keep their data. The ``db`` commands need nothing else.

    Attributes:
        home: The folder for everything that the embedded default writes; absolute.
        database_url: The ledger's, in a form that every driver understands; None for the embedded server.
        dagster_postgres_url: Dagster's storage; None for another database on the same server.
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

    home: values.Home = Field(default=Path(".treazure"), validation_alias="TREAZURE_PIPELINE_HOME")
    database_url: values.DatabaseUrl | None = Field(default=None, validation_alias="TREAZURE_PIPELINE_DATABASE_URL")
    dagster_postgres_url: values.DatabaseUrl | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the ledger is in the embedded server, even if its URL was exported by `env`."""
        return embedded.is_at(self.database_url, self.home)


class _Programmes(Storage):
    """The programmes. Their names and both of their identifiers are unique."""

    programmes: tuple[Programme, ...]

    def chosen(self, names: Sequence[str]) -> list[Programme]:
        """Return the programmes with these names, or all if none is named. Raises SettingsError for an unknown name."""
        known = {programme.name: programme for programme in self.programmes}
        if unknown := [name for name in names if name not in known]:
            raise SettingsError(f"There is no programme {unknown[0]!r}; there are: {', '.join(known)}.")
        return [known[name] for name in names] or list(self.programmes)


class LedgerSettings(_Programmes):
    """What is needed to read the ledger and to decide about what is in it: only the database.

    Attributes:
        programmes: Empty if none is set; then the ledger's programmes count.
        treazure_base_url: With Engage's, the systems that the ledger should belong to; None if not set.
        engage_base_url: Likewise.
    """

    programmes: tuple[Programme, ...] = ()
    treazure_base_url: values.BaseUrl | None = None
    engage_base_url: values.BaseUrl | None = None
    treazure_lookup_wait_seconds: float = Field(default=60, gt=0, allow_inf_nan=False)
    approval_lifetime_hours: float = Field(default=24, gt=0, le=24 * 30, allow_inf_nan=False)
    adjustment_long_description: Literal["truncate", "reject"] = "truncate"


class MasterSettings(_Programmes):
    """What is needed to read from Treazure.

    Attributes:
        treazure_base_url: Given, or formed from its parts; without a slash at the end.
        programmes: One or more.
    """

    treazure_base_url: values.BaseUrl = Field(description="Treazure's address")
    treazure_client_id: str = Field(min_length=1, description="the id of the OAuth client in Treazure")
    treazure_client_secret: SecretStr = Field(min_length=1, description="the secret of that OAuth client")
    treazure_max_requests_per_second: int = Field(default=40, ge=0)
    treazure_concurrency: int = Field(default=8, ge=1, le=64)
    treazure_timeout_seconds: float = Field(default=30, gt=0, le=3600, allow_inf_nan=False)
    programmes: tuple[Programme, ...] = Field(min_length=1)


class Settings(MasterSettings):
    """Everything an operator can set. Each field is the variable with its name, unless it has an alias.

    Secrets are :class:`pydantic.SecretStr`, so that no repr and no log shows them.

    Attributes:
        engage_base_url: Given, or formed from its parts; without a slash at the end.
        prefixed: Whether asset keys and job names include the programme's name.
        tenant: A prefix for every key and name, if several retailers share a Dagster instance.
    """

    treazure_lookup_wait_seconds: float = Field(default=60, gt=0, allow_inf_nan=False)
    treazure_lookup_first_after_seconds: float = Field(default=300, gt=0, allow_inf_nan=False)

    engage_base_url: values.BaseUrl = Field(description="Engage's address")
    engage_api_key: SecretStr = Field(min_length=1, description="the API key of Engage")
    engage_api_version: str = Field(default="v2", pattern=r"^v[0-9]+$")
    engage_max_requests_per_second: int = Field(default=45, ge=0)
    engage_batch_size: int = Field(default=1000, ge=1, le=1000)
    engage_concurrency: int = Field(default=8, ge=1, le=64)
    engage_timeout_seconds: float = Field(default=60, gt=0, le=3600, allow_inf_nan=False)

    engage_verify_grace_seconds: float = Field(default=1800, ge=0, allow_inf_nan=False)
    engage_verify_seconds: float = Field(default=2400, gt=0, le=3300, allow_inf_nan=False)
    full_resync_cron: values.Cron = values.WEEKLY
    approval_lifetime_hours: float = Field(default=24, gt=0, le=24 * 30, allow_inf_nan=False)
    ledger_history_days: int = Field(default=400, ge=7)
    text_retention_days: int = Field(default=90, ge=1)
    dagster_run_days: int = Field(default=400, ge=0)
    alert_urls: values.SecretUrls = Field(default=(), validation_alias="TREAZURE_PIPELINE_ALERT_URLS")
    dead_man_url: values.PingUrl = None
    console_url: values.BaseUrl | None = None
    source_url: values.BaseUrl | None = Field(default=None, validation_alias="TREAZURE_PIPELINE_SOURCE_URL")
    adjustment_long_description: Literal["truncate", "reject"] = "truncate"

    migration_delivery_url: SecretStr | None = Field(
        default=None, description="an fsspec URL; None means a folder in the home, where the ledger is embedded"
    )
    replica_url: values.DatabaseUrl | None = Field(
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


class ConsoleSettings(LedgerSettings):
    """What the console needs: the ledger, and how people sign in. Treazure's credentials are used if they are given.

    Attributes:
        master: How to look up an adjustment in Treazure; None without its credentials and both systems' addresses.
        console_auth: How people are identified: not at all (then it only listens on loopback), by a proxy, or by OIDC.
        console_url: Where people reach it. Other host names are refused.
        console_roles: By name or group; `*` means everybody who has signed in.
        console_secret: Signs sessions; if None, this process makes its own.
        console_proxy_addresses: Headers are only trusted from these.
    """

    console_auth: Literal["none", "proxy", "oidc"] = "none"
    console_url: values.BaseUrl | None = None
    console_roles: values.Roles = Field(default_factory=dict)
    console_secret: SecretStr | None = Field(default=None, min_length=32)
    console_session_hours: float = Field(default=8, gt=0, le=24, allow_inf_nan=False)
    console_proxy_addresses: values.Networks = ()
    console_name_header: str = Field(default="X-Forwarded-Email", pattern=r"^[A-Za-z0-9-]+$")
    console_groups_header: str = Field(default="X-Forwarded-Groups", pattern=r"^[A-Za-z0-9-]+$")
    console_oidc_issuer: values.BaseUrl | None = None
    console_oidc_client_id: str | None = None
    console_oidc_client_secret: SecretStr | None = None
    console_oidc_scopes: str = "openid email profile"
    console_name_claim: str = "email"
    console_groups_claim: str = "groups"
    master: MasterSettings | None = None


class ReceiverSettings(Storage):
    """What the webhook receiver needs. It needs neither system's address or credentials.

    Attributes:
        engage_webhook_secret: Several are allowed, so that a secret can be replaced.
        adjustment_answer_within_seconds: How long after its arrival a delivery may wait for the new balance.
            The sender gives up after 15 seconds.
        history_api_key: The key for reading points histories; if None, nobody may read any.
        master: Where the histories come from; None without a key.
    """

    engage_webhook_secret: values.WebhookSecrets = Field(
        min_length=1, description="the signing secret of the webhook endpoint in Engage (whsec_...)"
    )
    adjustment_answer_within_seconds: float = Field(default=0, ge=0, lt=15, allow_inf_nan=False)
    history_api_key: SecretStr | None = None
    master: MasterSettings | None = None
