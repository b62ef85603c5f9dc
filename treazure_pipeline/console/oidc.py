"""OpenID Connect: people sign in with their provider, and a signed cookie holds who they are for CONSOLE_SESSION_HOURS."""

from __future__ import annotations

import time
import warnings
from http import HTTPStatus
from typing import Any

import httpx
from fastapi import APIRouter, HTTPException, Request
from joserfc.errors import JoseError
from starlette.responses import RedirectResponse, Response

from treazure_pipeline.console.access import Rate, Visitor, name_of, visitor
from treazure_pipeline.settings import ConsoleSettings

with warnings.catch_warnings():  # it warns that it would prefer another HTTP client
    from authlib.deprecate import AuthlibDeprecationWarning

    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.integrations.base_client import OAuthError
    from authlib.integrations.starlette_client import OAuth

PATH = "/sign-in"
_A_MINUTE = 20


class Oidc:
    """The way in, and its addresses."""

    def __init__(self, settings: ConsoleSettings) -> None:
        assert settings.console_oidc_issuer is not None
        assert settings.console_oidc_client_secret is not None
        self._settings = settings
        self._rate = Rate(_A_MINUTE)
        self._client = OAuth().register(
            "provider",
            server_metadata_url=f"{settings.console_oidc_issuer}/.well-known/openid-configuration",
            client_id=settings.console_oidc_client_id,
            client_secret=settings.console_oidc_client_secret.get_secret_value(),
            client_kwargs={"scope": settings.console_oidc_scopes, "code_challenge_method": "S256", "timeout": 10},
        )

    def visitor(self, request: Request) -> Visitor | None:
        """Return who the session belongs to."""
        session = request.session
        if session.get("until", 0) < time.time():
            return None
        return visitor(session["name"], session["groups"], self._settings.console_roles)

    def router(self) -> APIRouter:
        """The addresses of the sign-in."""
        router = APIRouter()
        router.add_api_route(PATH, self.begin, methods=["GET"])
        router.add_api_route(f"{PATH}/done", self.end, methods=["GET"])
        return router

    async def begin(self, request: Request) -> Response:
        """Send the browser to the provider."""
        self._rate.count(request.client.host if request.client else "")
        try:
            answer: Response = await self._client.authorize_redirect(
                request, f"{self._settings.console_url}{PATH}/done"
            )
        except (OAuthError, httpx.HTTPError, ValueError, KeyError):
            raise _unavailable() from None
        return answer

    async def end(self, request: Request) -> Response:
        """Start a session for the person whom the provider names."""
        self._rate.count(request.client.host if request.client else "")
        back = request.session.get("back", "/")
        try:
            token = await self._client.authorize_access_token(request)
        except (OAuthError, JoseError):
            raise HTTPException(
                HTTPStatus.BAD_REQUEST, "The sign-in was cancelled, took too long, or was started in another browser."
            ) from None
        except (httpx.HTTPError, ValueError, KeyError):
            raise _unavailable() from None
        name, groups = self._who(token.get("userinfo") or {})
        request.session.clear()
        request.session.update(
            name=name,
            groups=[group for group in groups if group in self._settings.console_roles],
            until=time.time() + self._settings.console_session_hours * 3600,
        )
        return RedirectResponse(back, HTTPStatus.SEE_OTHER)

    def _who(self, claims: dict[str, Any]) -> tuple[str, list[str]]:
        claim = self._settings.console_name_claim
        name = name_of(str(claims.get(claim) or ""))
        if not name or (claim == "email" and claims.get("email_verified") is False):
            raise HTTPException(HTTPStatus.FORBIDDEN, f"The provider gives no reliable name in the claim {claim}.")
        groups = claims.get(self._settings.console_groups_claim) or []
        return name, [str(group) for group in (groups if isinstance(groups, list) else [groups])]


def _unavailable() -> HTTPException:
    return HTTPException(HTTPStatus.BAD_GATEWAY, "The sign-in provider did not answer as expected; try again.")
