"""Dialects: what the vendors' public pages leave open, one switch for each. All of their values are legal.

Each field is also a switch of `Behavior`. Its values, its default (what we assume) and its meaning are defined here.
Anything that breaks the contract is a fault, not a dialect.
"""

from __future__ import annotations

import random
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Dialects(BaseModel):
    """How the two systems spell their answers."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, hide_input_in_errors=True)

    href: Literal["href", "hRef", "links.href", "links.hRef", "absolute", "location"] = Field(
        "href",
        description="Treazure: where the answer has the export's address, and how it is spelled; "
        "location: only in the header",
    )
    export_not_ready: Literal[202, 204, 404, 409, 425, "empty", "status"] = Field(
        202, description="Treazure: the answer while a result isn't ready; empty, status: 200 with such a body"
    )
    export_delivery: Literal["body", 301, 302, 303, 307, 308] = Field(
        "body", description="Treazure: a result that is ready comes directly, or through a redirect to a storage host"
    )
    account_key: Literal["accountNumber", "contactId"] = Field(
        "accountNumber", description="Treazure: name of the contact's field in an export"
    )
    mutated_at: bool = Field(True, description="Treazure: whether export rows have a mutatedAt")
    upper_case: bool = Field(False, description="Treazure: GUIDs in upper case in exports")
    numbers: Literal["number", "text"] = Field(
        "number", description="Treazure: how points are written in exports, accounts, transactions and histories"
    )
    transaction_answer: Literal["account", "balance", "neither"] = Field(
        "account",
        description='Treazure: a transaction answers with the account, a bare {"balance": ...}, or without a balance',
    )
    movement_nothing: Literal["null", "empty", "dotnet"] = Field(
        "null",
        description="Treazure: how a history says that a movement has no expiry and no comment: null, an empty "
        "text, or the year 9999 of .NET (for the expiry)",
    )
    movement_digits: Literal[6, 7] = Field(6, description="Treazure: digits of a history's seconds; .NET writes seven")
    movement_ids: Literal["text", "number"] = Field(
        "text", description="Treazure: shopId and posId in a history as texts, or as numbers"
    )
    movement_properties: Literal["object", "list", "null"] = Field(
        "object", description="Treazure: the properties of a movement that has none"
    )
    movement_text: Literal["plain", "half_emoji", "nul"] = Field(
        "plain", description="Treazure: what ends each comment in a history: half a surrogate pair, a NUL"
    )
    informational: bool = Field(
        False, description="Treazure: histories begin with a RedeemVoucher without amount and balance"
    )
    token_expires: Literal["number", "text", "missing"] = Field(
        "number", description="Treazure: how a token says how long it is valid"
    )
    accept_status: Literal[200, 201, 202, 204] = Field(
        202, description="Engage: status of an accepted balance request; 204 has no body unless rows are refused"
    )
    transaction_id: Literal[
        "transactionId", "id", "batchId", "TransactionId", "BATCHID", "number", "bare", "none", "empty"
    ] = Field(
        "transactionId",
        description="Engage: how an accepted balance request names its transaction; none: only empty lists, "
        "empty: no body unless rows are refused",
    )
    paging: Literal["count", "totalCount", "page"] = Field(
        "count", description="Engage: how a page says how many accounts there are: by `count`, by `totalCount`, or not"
    )
    content_type: Literal["with_body", "always"] = Field(
        "with_body",
        description="Engage: which requests need a Content-Type; the SDK sends none on GET, the pages ask for it",
    )
    event_headers: Literal["svix", "webhook"] = Field(
        "svix", description="Engage: names of a webhook's headers: Svix's own, or those from Standard Webhooks"
    )
    event_names: Literal["id", "eventId", "pascal"] = Field(
        "id", description="Engage: a webhook's names: with `id`, with `eventId`, or all in PascalCase"
    )
    event_type: Literal["lower", "pascal"] = Field(
        "lower", description="Engage: loyalty.addPoints, or Loyalty.AddPoints"
    )
    event_text: Literal["plain", "half_emoji", "nul"] = Field(
        "plain", description="Engage: what ends each description in a webhook: half a surrogate pair, a NUL"
    )
    cookies: bool = Field(False, description="Both: every answer sets a cookie; one that comes back is a problem")
    bom: bool = Field(False, description="Both: every body begins with a byte order mark")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_of_a_command_line(cls, value: object, info: Any) -> object:
        known = _values(info.field_name) if info.field_name in Dialects.model_fields else ()
        return next((one for one in known if not isinstance(one, bool) and str(one) == value), value)


def _values(name: str) -> tuple[Any, ...]:
    kind = Dialects.model_fields[name].annotation
    return (False, True) if kind is bool else get_args(kind)


DIALECTS: dict[str, tuple[Any, ...]] = {name: _values(name) for name in Dialects.model_fields}
"""Every dialect with its values."""


def draw(seed: int) -> dict[str, Any]:
    """Draw one value of each dialect. Adding a dialect does not change what is drawn for the others."""
    return {name: random.Random(f"{seed} {name}").choice(values) for name, values in DIALECTS.items()}  # noqa: S311 - repeatable on purpose
