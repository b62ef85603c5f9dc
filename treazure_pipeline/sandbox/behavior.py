"""How the two systems behave where their public pages are silent: switches whose defaults are what we assume.

How they spell their answers is in `dialects`.
"""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from treazure_pipeline.sandbox.dialects import Dialects

CLIENT_ID = "sandbox-client"
"""OAuth client id that the sandbox's Treazure accepts."""
CLIENT_SECRET = "sandbox-client-secret"  # noqa: S105 - opens nothing but a sandbox
"""OAuth client secret that the sandbox's Treazure accepts."""
API_KEY = "sandbox-api-key"
"""API key that the sandbox's Engage accepts."""
WEBHOOK_SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="  # noqa: S105 - opens nothing but a sandbox
"""Secret with which the sandbox signs its webhooks."""
LOYALTY_ID = "LOYALTY"
"""`loyaltyPointDefinitionId` of the default programme, paired with Engage's definition 1."""


class Behavior(Dialects):
    """The switches, all times in seconds. ``PATCH /sandbox/behavior`` changes them in a running sandbox."""

    token_life: float = Field(3600, description="Treazure: how long a token is valid")
    export_polls: int = Field(1, ge=0, description="Treazure: how many polls it takes until a result is ready")
    export_wait: float = Field(0, ge=0, description="Treazure: the shortest time an export takes")
    export_retry_after: float | None = Field(0, description="Treazure: Retry-After while not ready, none: no header")
    export_life: float = Field(3600, description="Treazure: after how long a result is gone (410)")
    commit_delay: float = Field(
        0, ge=0, description="Treazure: how long after its stamp a mutation becomes visible (exports, account, history)"
    )
    commit_calls: int = Field(
        0, ge=0, description="Treazure: after how many later export requests a mutation becomes visible"
    )
    history_delay: float = Field(
        0, ge=0, description="Treazure: how long after its stamp a movement appears in the history"
    )
    history_calls: int = Field(
        0, ge=0, description="Treazure: for how many reads of the history a new transaction is missing from it"
    )
    history_missing_first: int = Field(
        0, ge=0, description="Treazure: how many of its first movements the history leaves out"
    )
    history_receipt_length: int | None = Field(
        None, ge=0, description="Treazure: to how many characters a history cuts receipts; 0: it has none; none: whole"
    )
    history_receipt_case: Literal["kept", "lower", "upper"] = Field(
        "kept", description="Treazure: letters of receipts in the history"
    )
    history_backdated: float = Field(
        0, ge=0, description="Treazure: by how much every other movement is backdated in the history"
    )
    points_expire_after: float = Field(0, ge=0, description="Treazure: after how long loaded points expire; 0: never")
    transaction_latency: float = Field(0, ge=0, description="Treazure: how much longer a transaction takes to answer")
    treazure_max_requests_per_second: int = Field(
        0, ge=0, description="Treazure: requests about single accounts allowed in one second, then 429; 0: no limit"
    )
    treazure_clock: float = Field(
        0, description="Treazure: how far its clock (stamps, and the `Date` of its answers) is ahead"
    )
    engage_clock: float = Field(0, description="Engage: how far its clock is ahead")
    time_stamps: Literal["ignore_older", "ignore_older_or_equal", "not_looked_at"] = Field(
        "ignore_older", description="Engage: what happens to a balance with an old timeStamp when it is applied"
    )
    digits: int | None = Field(
        None, ge=0, le=6, description="Engage: to how many digits balances are rounded; none: not rounded"
    )
    apply_delay: float = Field(
        0.2, ge=0, description="Engage: after how long its job applies an accepted row; 0: at once"
    )
    max_rows: int = Field(1000, description="Engage: rows allowed in one request; more are refused with 400")
    max_requests_per_second: int = Field(
        200, description="Engage: requests per API key allowed in one second, then 429; 0: no limit"
    )
    poison: list[str] = Field(
        default_factory=list, description="Engage: contacts whose rows make it refuse the whole request with 400"
    )
    webhook_url: str | None = Field(
        None, pattern=r"^https?://[^/]", description="Engage: where events are sent; none: nowhere"
    )
    webhook_secret: SecretStr = Field(
        SecretStr(WEBHOOK_SECRET), description="Engage: the secret that signs them, whsec_..."
    )
    webhook_timeout: float = Field(15, gt=0, description="Engage: an answer that takes longer counts as none")
    webhook_wait_scale: float = Field(
        1, ge=0, description="Engage: multiplies the waits between the 8 tries (5 s to 10 h, 27.5 h in all)"
    )
    webhook_concurrency: int = Field(
        8,
        ge=1,
        le=100,
        description="Engage: how many are sent at once; 1: one after the other, in order unless one fails",
    )
    balance_events: bool = Field(
        False, description="Engage: sends point.balance.updated when its job changes a balance"
    )
    latency: float = Field(0, ge=0, description="Both: the shortest time an answer takes")
    track_rows: bool = Field(
        True, description="Record what the report says about single rows (overlaps, time stamps); off for benchmarks"
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
