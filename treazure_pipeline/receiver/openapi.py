"""The receiver's OpenAPI document."""

from __future__ import annotations

from typing import Any

from treazure_pipeline import __version__

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
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
    "summary": "Take a delivery of Voyado Engage, signed by Svix over the raw body",
    "operationId": "deliver",
    "parameters": [
        _header("svix-id", "The delivery; the same each time that it is tried again", "^[!-~]{1,255}$"),
        _header("svix-timestamp", "Seconds since 1970; at most 5 minutes off", "^[0-9]{1,11}$"),
        _header("svix-signature", "One or more signatures, parted by spaces", f"^{_SIGNATURE}( {_SIGNATURE})*$"),
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
        "401": _answer("Not signed with a secret of ours, or too old, or from the future", _ERROR),
        "408": _answer("The body did not come in time", _ERROR),
        "413": _answer("The body is too large", _ERROR),
        "503": _answer("It could not be stored: try again later", _ERROR),
    },
}


def document() -> dict[str, Any]:
    """Return the document, as OpenAPI 3.1."""

    def read(summary: str, operation: str, responses: dict[str, Any]) -> dict[str, Any]:
        return {"get": {"summary": summary, "operationId": operation, "responses": responses}}

    unready = {**_status("unavailable"), "properties": {**_status("unavailable")["properties"], "error": _TEXT}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Webhook receiver of treazure-pipeline", "version": __version__},
        "paths": {
            "/webhooks/engage": {"post": _DELIVER},
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
