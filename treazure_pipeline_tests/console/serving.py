"""Applications on loopback, in a thread, with the server that the product runs them with."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp

from treazure_pipeline.service.app import bind, server


@contextmanager
def served(make: Callable[[str], ASGIApp]) -> Iterator[str]:
    """Run what `make` returns for the address that it will have; yields that address."""
    listener, url = bind("127.0.0.1", 0)
    running = server(make(url))
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listener])))
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive(), "the application did not start"
            time.sleep(0.01)
        yield url
    finally:
        running.should_exit = True
        thread.join()
