"""What protects every answer: headers, the host name, the size of forms, and errors that give nothing away."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEALTH, READY = "/healthz", "/readyz"
LARGEST_FORM = 64 * 1024
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

log = logging.getLogger(__name__)


class Shield:
    """Wraps the application.

    `hosts`: the names under which it may be called, without port. Any other name is a foreign page that resolves to us.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], *, tls: bool) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._headers = _HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if tls else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or let the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def shielded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(Headers(scope=scope), scope)
        try:
            await (refused or self._app)(scope, receive, shielded)
        except Exception as error:
            route = getattr(scope.get("route"), "path", "no route")
            log.error("Unexpected %s at %s", type(error).__name__, route)  # noqa: TRY400 - its text may contain personal data
            log.debug("", exc_info=True)
            if begun:
                raise
            page = "This is a bug in treazure-pipeline. `treazure-pipeline --debug console` logs where."
            await PlainTextResponse(page, HTTPStatus.INTERNAL_SERVER_ERROR)(scope, receive, shielded)

    def _refused(self, headers: Headers, scope: Scope) -> ASGIApp | None:
        if scope["path"] in {HEALTH, READY}:
            return None
        if _name_of(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("Unknown host name. CONSOLE_URL sets it.", HTTPStatus.MISDIRECTED_REQUEST)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdecimal() or int(length) > LARGEST_FORM:
            return PlainTextResponse(
                "The form is too large.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"connection": "close"}
            )
        return None


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdecimal() else host
    return name.strip("[]").lower()
