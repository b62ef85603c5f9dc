"""The application: its routes, sessions and error pages."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from treazure_pipeline.console import (
    adjustments,
    contact,
    dead_letters,
    health,
    lookups,
    migration,
    oidc,
    plans,
    rejections,
)
from treazure_pipeline.console.access import READING, Rate, UnknownVisitorError, protected
from treazure_pipeline.console.desk import Desk
from treazure_pipeline.console.pages import page
from treazure_pipeline.console.shield import HEALTH, READY, Shield
from treazure_pipeline.console.sign_in import way_in
from treazure_pipeline.errors import DatabaseError, PipelineError, SettingsError

_STATIC = Path(__file__).parent / "static"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_app(at: Desk) -> FastAPI:
    """Make the application."""
    settings = at.settings
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, dependencies=[Depends(protected)]
    )
    app.state.desk = at
    app.state.lookups = Rate(lookups.A_MINUTE)
    app.state.sign_in = way_in(settings)
    app.state.signs_out = settings.console_auth == "oidc"
    _routes(app)
    if isinstance(app.state.sign_in, oidc.Oidc):
        app.include_router(app.state.sign_in.router())
    for error in (StarletteHTTPException, RequestValidationError, PipelineError, UnknownVisitorError):
        app.add_exception_handler(error, _refused)
    tls = (settings.console_url or "").startswith("https:")
    given = settings.console_secret
    app.add_middleware(
        SessionMiddleware,
        secret_key=given.get_secret_value() if given else secrets.token_urlsafe(32),
        session_cookie="__Host-console" if tls else "console",
        max_age=round(settings.console_session_hours * 3600),
        same_site="lax",
        https_only=tls,
    )
    named = urlsplit(settings.console_url or "").hostname
    app.add_middleware(Shield, hosts=(*_LOOPBACK, *([named] if named else [])), tls=tls)
    return app


def _routes(app: FastAPI) -> None:
    app.add_api_route(HEALTH, alive, methods=["GET"])
    app.add_api_route(READY, ready, methods=["GET"])
    app.add_api_route("/console.css", stylesheet, methods=["GET"])
    app.add_api_route("/sign-out", sign_out, methods=["POST"])
    for module in (health, contact, plans, adjustments, dead_letters, rejections, migration, lookups):
        app.include_router(module.router)


async def alive() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "ok"}


def ready(request: Request) -> Response:
    """Say whether pages can be read, and if not, why."""
    try:
        request.app.state.desk.check()
    except DatabaseError as error:
        return JSONResponse({"status": "unavailable", "error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)
    return JSONResponse({"status": "ok"})


async def stylesheet() -> Response:
    """Send the only stylesheet."""
    return FileResponse(_STATIC / "console.css", headers={"Cache-Control": "max-age=300"})


async def sign_out(request: Request) -> Response:
    """End the session."""
    request.session.clear()
    return page(request, "message.html", title="Signed out", text="You are signed out of the console.")


async def _refused(request: Request, error: Exception) -> Response:
    """Turn an error into a page in our words."""
    if isinstance(error, UnknownVisitorError):
        if request.method in READING and request.app.state.signs_out:
            request.session["back"] = request.url.path
            return RedirectResponse(oidc.PATH, HTTPStatus.SEE_OTHER)
        error = HTTPException(HTTPStatus.UNAUTHORIZED, "Your session is over; nothing was done. Sign in again.")
    if isinstance(error, PipelineError):
        found = isinstance(error, SettingsError)
        status = HTTPStatus.UNPROCESSABLE_ENTITY if found else HTTPStatus.SERVICE_UNAVAILABLE
        return page(request, "message.html", status, title="That did not work", text=str(error))
    if isinstance(error, RequestValidationError):
        error = HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "Something in the form was missing or wrong.")
    assert isinstance(error, StarletteHTTPException)
    status = HTTPStatus(error.status_code)
    text = (
        "This page does not exist."
        if status is HTTPStatus.NOT_FOUND and error.detail == status.phrase
        else error.detail
    )
    return page(request, "message.html", status, title=status.phrase, text=text)
