"""How the two systems behave where their public pages are silent: switches, by default at what is assumed.

How they spell their answers stands in `dialects`.
"""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from treazure_pipeline.sandbox.dialects import Dialects

CLIENT_ID = "sandbox-client"
"""OAuth client id that the sandbox's Treazure takes."""
CLIENT_SECRET = "sandbox-client-secret"  # noqa: S105 - opens nothing but a sandbox
"""OAuth client secret that the sandbox's Treazure takes."""
API_KEY = "sandbox-api-key"
"""API key that the sandbox's Engage takes."""
WEBHOOK_SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="  # noqa: S105 - opens nothing but a sandbox
"""Secret with which the sandbox signs its webhooks."""
LOYALTY_ID = "LOYALTY"
"""`loyaltyPointDefinitionId` of the default programme, paired with Engage's definition 1."""


class Behavior(Dialects):
    """The switches, all times in seconds. ``PATCH /sandbox/behavior`` changes them in a running sandbox."""

    token_life: float = Field(3600, description="Treazure: how long a token is valid")
    export_polls: int = Field(1, ge=0, description="Treazure: how often a result is asked for before it is ready")
    export_wait: float = Field(0, ge=0, description="Treazure: how long an export takes at least")
    export_retry_after: float | None = Field(0, description="Treazure: Retry-After while not ready, none: no header")
    export_life: float = Field(3600, description="Treazure: after how long a result is gone (410)")
    commit_delay: float = Field(
        0,
        ge=0,
        description="Treazure: a mutation is visible (exports, account, history) so long after its stamp",
    )
    commit_calls: int = Field(
        0, ge=0, description="Treazure: a mutation is visible only after so many later export requests"
    )
    history_delay: float = Field(
        0, ge=0, description="Treazure: a movement stands in the history only so long after its stamp"
    )
    history_calls: int = Field(
        0, ge=0, description="Treazure: a transaction is missing from the history the first so many times it is read"
    )
    history_missing_first: int = Field(
        0, ge=0, description="Treazure: the history comes without its first so many movements"
    )
    history_receipt_length: int | None = Field(
        None, ge=0, description="Treazure: receipts come back cut to so many characters; 0: not at all; none: whole"
    )
    history_receipt_case: Literal["kept", "lower", "upper"] = Field(
        "kept", description="Treazure: letters of receipts in the history"
    )
    history_backdated: float = Field(
        0, ge=0, description="Treazure: every other movement stands in the history with a time so much earlier"
    )
    points_expire_after: float = Field(
        0, ge=0, description="Treazure: points that are loaded expire so long after; 0: never"
    )
    transaction_latency: float = Field(0, ge=0, description="Treazure: a transaction takes so much longer to answer")
    treazure_max_requests_per_second: int = Field(
        0, ge=0, description="Treazure: more for single accounts in one second get 429; 0: no limit"
    )
    treazure_clock: float = Field(
        0, description="Treazure: its clock (stamps, and the `Date` of its answers) is ahead by so much"
    )
    engage_clock: float = Field(0, description="Engage: its clock is ahead by so much")
    time_stamps: Literal["ignore_older", "ignore_older_or_equal", "not_looked_at"] = Field(
        "ignore_older", description="Engage: what a balance with an old timeStamp does when it is applied"
    )
    digits: int | None = Field(
        None, ge=0, le=6, description="Engage: rounds balances to so many digits; none: keeps all"
    )
    apply_delay: float = Field(
        0.2, ge=0, description="Engage: its job applies an accepted row so much later; 0: at once"
    )
    max_rows: int = Field(1000, description="Engage: rows in one request; more are refused with 400")
    max_requests_per_second: int = Field(
        200, description="Engage: more in one second get 429, per API key; 0: no limit"
    )
    poison: list[str] = Field(
        default_factory=list,
        description="Engage: contacts whose row makes it refuse the whole request with 400",
    )
    webhook_url: str | None = Field(
        None, pattern=r"^https?://[^/]", description="Engage: where events are sent; none: nowhere"
    )
    webhook_secret: SecretStr = Field(SecretStr(WEBHOOK_SECRET), description="Engage: what signs them, whsec_...")
    webhook_timeout: float = Field(15, gt=0, description="Engage: an answer that takes longer counts as none")
    webhook_wait_scale: float = Field(
        1, ge=0, description="Engage: multiplies the waits between the 8 tries (5 s to 10 h, 27.5 h together)"
    )
    webhook_concurrency: int = Field(
        8,
        ge=1,
        le=100,
        description="Engage: so many are sent at once; 1: one after the other, in order unless one fails",
    )
    balance_events: bool = Field(
        False, description="Engage: sends point.balance.updated when its job changes a balance"
    )
    latency: float = Field(0, ge=0, description="Both: every answer takes at least so long")
    track_rows: bool = Field(
        True,
        description="Keep what the report says of single rows (overlaps, time stamps); off for benchmarks",
    )
    track_amounts: bool = Field(
        True, description="Check each amount sent to Engage against Treazure's history; off for benchmarks"
    )

    @field_validator("webhook_secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr) -> SecretStr:
        prefix, _, key = secret.get_secret_value().partition("_")
        try:
            good = prefix == "whsec" and base64.b64decode(key + "==")
        except ValueError:
            good = b""
        if not good:
            raise ValueError("it should be whsec_ and base64")
        return secret
