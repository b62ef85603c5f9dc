"""The receiver's OpenAPI document."""

from __future__ import annotations

from typing import Any

from treazure_pipeline import __version__, conventions
from treazure_pipeline.points_history.contact_card import DEFAULT_COUNT, LARGEST_COUNT

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_SIGNATURE = "v1,[A-Za-z0-9+/]{43}="
_TEXT = {"type": "string"}


def _answer(description: str, content: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": content}}}


def _header(name: str, description: str, pattern: str) -> dict[str, Any]:
    schema = {**_TEXT, "pattern": pattern}
    return {"name": name, "in": "header", "required": True, "description": description, "schema": schema}


def _status(*values: str) -> dict[str, Any]:
    return {"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "enum": [*values]}}}


_DELIVER = {
    "summary": "Take a delivery from Voyado Engage, signed by Svix over the raw body",
    "operationId": "deliver",
    "parameters": [
        _header(
            "svix-id",
            "The delivery's id; the same when it is tried again. All three headers may also be called `webhook-…`",
            "^[!-~]{1,255}$",
        ),
        _header("svix-timestamp", "Seconds since 1970; at most 5 minutes off", "^[0-9]{1,11}$"),
        _header("svix-signature", "One or more signatures, separated by spaces", f"^{_SIGNATURE}( {_SIGNATURE})*$"),
    ],
    "requestBody": {
        "required": True,
        "description": "At most 256 KiB",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["eventType"],
                    "properties": {
                        "eventType": {"type": "string", "example": "loyalty.addPoints"},
                        "id": _TEXT,
                        "tenant": _TEXT,
                        "isEncrypted": {"type": "boolean"},
                        "payload": {"type": "object"},
                    },
                }
            }
        },
    },
    "responses": {
        "200": _answer(
            "Stored, and already in Treazure (only with ADJUSTMENT_ANSWER_WITHIN_SECONDS)",
            {"type": "object", "required": ["balance"], "properties": {"balance": {"type": "number"}}},
        ),
        "202": _answer(
            "Stored now or by an earlier try, kept as a dead letter, or of a type that is only counted",
            _status("stored", "repeated", "counted", "dead_letter"),
        ),
        "400": _answer("The headers or the body can't be read", _ERROR),
        "401": _answer("Not signed with one of our secrets, too old, or from the future", _ERROR),
        "408": _answer("The body did not arrive in time", _ERROR),
        "413": _answer("The body is too large", _ERROR),
        "503": _answer("It could not be stored: try again later", _ERROR),
    },
}


_FAILURE = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "system": {"type": "string", "enum": ["treazure", "database"], "description": "The side that failed"},
        "requestId": {"type": "string", "description": "What that side calls the request"},
    },
}
_TIME = {"type": "string", "format": "date-time"}
_MAY_MISS = {"type": ["string", "null"]}
_MOVEMENT = {
    "type": "object",
    "required": ["dateTime", "amount", "transactionType", "balance"],
    "properties": {
        "dateTime": _TIME,
        "amount": {"type": "number", "description": "Exact; negative if points are taken"},
        "transactionType": {**_TEXT, "description": "Load, Convert, Redeem, Expire, Transfer, RedeemVoucher, ..."},
        "balance": {"type": "number", "description": "After the movement"},
        "expiresAt": {"type": ["string", "null"], "format": "date-time"},
        **dict.fromkeys(("comment", "operatorId", "shopId", "posId", "receiptNr"), _MAY_MISS),
        "properties": {"type": ["object", "null"]},
    },
}
_LINK = {
    "type": "object",
    "required": ["rel", "href"],
    "properties": {"rel": {"type": "string", "enum": ["next", "prev"]}, "href": _TEXT},
}
_COUNT = {"type": "integer", "minimum": 0}
_LOG = {
    "type": "object",
    "required": ["contactId", "definitionId", "total", "offset", "count", "links", "balance", "items"],
    "properties": {
        "contactId": {"type": "string", "format": "uuid"},
        "definitionId": {"type": "integer"},
        "total": {**_COUNT, "description": "Movements in the log"},
        "offset": _COUNT,
        "count": {**_COUNT, "description": "Movements in this page"},
        "links": {"type": "array", "items": _LINK},
        "balance": {"type": "number", "description": "After the newest movement"},
        "items": {"type": "array", "items": _MOVEMENT, "description": "Newest first"},
    },
}
_CACHING = {"ETag": {"schema": _TEXT, "description": "For If-None-Match"}, "Cache-Control": {"schema": _TEXT}}


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_HISTORY = {
    "summary": "A contact's points log, read from Treazure",
    "description": "Switched on by HISTORY_API_KEY. At most 30 seconds old.",
    "operationId": "history",
    "security": [{"bearer": []}, {"apikey": []}, {"xApiKey": []}],
    "parameters": [
        {
            "name": "contactId", "in": "path", "required": True, "description": "The contact's GUID",
            "schema": {"type": "string", "pattern": f"^{conventions.GUID_PATTERN}$"},
        },
        _query("definitionId", "Engage's point definition; required if there are several",
               {"type": "integer", "minimum": 1, "maximum": 999999999}),
        _query("offset", "Movements to skip", {"type": "integer", "minimum": 0, "maximum": 999999999}),
        _query("count", "Movements in a page",
               {"type": "integer", "minimum": 1, "maximum": LARGEST_COUNT, "default": DEFAULT_COUNT}),
        {"name": "If-None-Match", "in": "header", "required": False, "description": "ETags known", "schema": _TEXT},
    ],
    "responses": {
        "200": {**_answer("One page of the log", _LOG), "headers": _CACHING},
        "304": {"description": "The page with this ETag has not changed", "headers": _CACHING},
        "400": _answer("The id is not a GUID, or a number is invalid or too large", _FAILURE),
        "401": _answer("The key is missing or wrong", _FAILURE),
        "404": _answer("Treazure has no such account, there is no such definition, or histories are off", _FAILURE),
        "502": _answer("Treazure refused, failed, or answered badly", _FAILURE),
        "503": _answer("Treazure's rate is used up, or the database can't be reached: try again later", _FAILURE),
        "504": _answer("Treazure did not answer in time", _FAILURE),
    },
}  # fmt: skip


def document() -> dict[str, Any]:
    """Return the document, as OpenAPI 3.1."""

    def read(summary: str, operation: str, responses: dict[str, Any]) -> dict[str, Any]:
        return {"get": {"summary": summary, "operationId": operation, "responses": responses}}

    unready = {**_status("unavailable"), "properties": {**_status("unavailable")["properties"], "error": _TEXT}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Webhook receiver of treazure-pipeline", "version": __version__},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
                "xApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            }
        },
        "paths": {
            "/webhooks/engage": {"post": _DELIVER},
            "/contacts/{contactId}/points-history": {"get": _HISTORY},
            "/healthz": read("Whether the process is up", "health", {"200": _answer("It is", _status("ok"))}),
            "/readyz": read(
                "Whether deliveries can be stored",
                "ready",
                {"200": _answer("They can", _status("ok")), "503": _answer("Why they can't", unready)},
            ),
            "/metrics": read(
                "Numbers for Prometheus", "metrics", {"200": _answer("Prometheus' text format", _TEXT, "text/plain")}
            ),
            "/openapi.json": read("This document", "openapi", {"200": _answer("It", {"type": "object"})}),
        },
    }
