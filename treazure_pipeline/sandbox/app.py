"""The sandbox as one ASGI application, and the server that runs it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from treazure_pipeline.sandbox import control, engage, treazure
from treazure_pipeline.sandbox.middleware import RequestMiddleware
from treazure_pipeline.sandbox.world import Seed, World

if TYPE_CHECKING:
    from treazure_pipeline.sandbox.behavior import Behavior

_KEEP_ALIVE_SECONDS = 120
_BACKLOG = 2048


def build_app(seed: Seed | None = None, behavior: Behavior | None = None) -> FastAPI:
    """Both systems and the control endpoints, with the seeded state in ``app.state.world``."""
    app = FastAPI(
        title="Sandbox of Treazure and Voyado Engage",
        description="A stateful stand-in for both systems, with faults and switches under `/sandbox`.",
    )
    app.state.world = World(seed or Seed(), behavior)
    app.include_router(treazure.router)
    for version in ("v2", "v3"):
        app.include_router(engage.router, prefix=f"/api/{version}")
    app.include_router(control.router)
    for error in control.REFUSED:
        app.add_exception_handler(error, control.refused)
    return app


def bind(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket (port 0: any free one) and the URL it has; raises OSError.

    asyncio sets TCP_NODELAY only if the protocol is named; without it every answer takes 40 ms.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    return listener, f"http://{host}:{listener.getsockname()[1]}"


def server(app: FastAPI) -> uvicorn.Server:
    """A server for the application behind its middleware; run it on a socket of `bind`.

    Idle connections stay open longer than any client keeps them: a connection that the server closes just as
    it is used again would look like a lost answer.
    """
    config = uvicorn.Config(
        RequestMiddleware(app),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        date_header=False,  # the middleware sends each system's own
    )
    return uvicorn.Server(config)
