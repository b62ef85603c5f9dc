"""What the handlers of both systems share: exact JSON answers, documented request bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import Request

    from treazure_pipeline.sandbox.middleware import Call
    from treazure_pipeline.sandbox.world import World

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_TEXTS = msgspec.json.Encoder(decimal_format="string")


def answer(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None, *, texts: bool = False
) -> Response:
    """A JSON answer in which decimals are exact numbers or texts."""
    return Response((_TEXTS if texts else _ENCODER).encode(value), status, headers, "application/json")


_ENDS = {"plain": b"", "half_emoji": b"\\ud83d", "nul": b"\\u0000"}


def ended(text: str, ending: str) -> msgspec.Raw:
    """A JSON text with an ending that no encoder would write."""
    return msgspec.Raw(msgspec.json.encode(text)[:-1] + _ENDS[ending] + b'"')


def world_of(request: Request) -> World:
    """The sandbox's state."""
    world: World = request.app.state.world
    return world


def call_of(request: Request) -> Call:
    """The request as the middleware read it."""
    call: Call = request.state.call
    return call


def documented_body(example: object, content_type: str = "application/json") -> dict[str, Any]:
    """OpenAPI for a request body that the handler reads itself, from an example."""
    return {"requestBody": {"required": True, "content": {content_type: {"example": example}}}}
