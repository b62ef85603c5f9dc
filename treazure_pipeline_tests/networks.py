"""A network for one host: it sees the ports that it is given, at this machine's own address, and can be cut off.

A network namespace of Linux; only root may make one in a process that has threads.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from treazure_pipeline_tests import processes

_CLONE_NEWNET, _SIOCSIFFLAGS, _IFF_UP = 0x40000000, 0x8914, 0x1
LOCAL = "127.0.0.1"

POSSIBLE = (
    sys.platform == "linux"
    and os.geteuid() == 0
    and subprocess.run(["unshare", "--net", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
)
needs_networks = pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root on Linux")


def name(process: int | str | None = "self") -> str:
    """Name the network that a process is in."""
    return str(Path(f"/proc/{process}/ns/net").readlink())


def outside(port: int) -> socket.socket:
    """Reach what listens at this machine's own address."""
    return socket.create_connection((LOCAL, port))


class Network:
    """What listens in it is led outside: by `reach`, how to get to what each port stands for."""

    def __init__(self, reach: Mapping[int, Callable[[], socket.socket]]) -> None:
        self._reach = reach
        self._listeners: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._whole = threading.Event()
        self._whole.set()
        self._inside = ThreadPoolExecutor(1, initializer=self._move_in)

    def __enter__(self) -> Self:
        self._inside.submit(int).result()
        for port, listener in self._listeners.items():
            self._run(self._serve, listener, self._reach[port])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._whole.set()
        for listener in self._listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for listener in self._listeners.values():
            listener.close()
        self._inside.shutdown()

    def start(self, work: Callable[..., object], *arguments: Any) -> BaseProcess:
        """Start a function of a module in a process on the host; returns once that is there."""
        process = processes.started(_moved_in, self._place, work, *arguments)
        while name(process.pid) == name():
            time.sleep(0.01)
        return process

    def cut(self) -> None:
        """Let nothing through any more; connections stand still, as they do when a cable is pulled."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything through again, but for what was on the way meanwhile: its connections are gone."""
        self._whole.set()

    def _move_in(self) -> None:
        """Give this thread a network of its own, which others find at `_place`."""
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace")
        self._place = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
        self._listeners = {port: socket.create_server((LOCAL, port)) for port in self._reach}

    def _serve(self, listener: socket.socket, reach: Callable[[], socket.socket]) -> None:
        with suppress(OSError):
            while True:
                self._run(self._lead, listener.accept()[0], reach)

    def _lead(self, inside: socket.socket, reach: Callable[[], socket.socket]) -> None:
        with inside, suppress(OSError):
            self._whole.wait()
            with reach() as outside:
                back = self._run(self._pass_on, outside, inside)
                self._pass_on(inside, outside)
                back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._whole.is_set():
                    self._whole.wait()
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _run(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread


def _moved_in(place: Path, work: Callable[..., object], *arguments: Any) -> None:
    with place.open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no way into the network namespace")
    work(*arguments)
