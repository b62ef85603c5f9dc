"""Several processes that are started and ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from treazure_pipeline.errors import PipelineError, RunIncompleteError
from treazure_pipeline.terminal import signals

_GRACE_SECONDS = 20


class Family:
    """Processes, each in a group with everything it starts. Leaving the block ends all of them.

    Within the block, signals to stop are noted, and `wait` raises them, so that every process is ended properly.
    """

    def __init__(self, environment: Mapping[str, str], log: Path | None = None) -> None:
        self._environment = environment
        self._log = log
        self._members: dict[str, subprocess.Popen[Any]] = {}
        self._watched: dict[str, subprocess.Popen[Any]] = {}
        self._signals = signals.Deferred()

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In reverse order, since later ones use the earlier ones.
        for member in reversed(self._members.values()):
            _end(member)
        self._signals.__exit__(kind, error, trace)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start another process. If there is a log, its output is appended to it."""
        with nullcontext() if self._log is None else self._log.open("ab") as log:
            self._members[name] = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def watch(self, name: str, process: subprocess.Popen[Any]) -> None:
        """Also watch a process that somebody else started and will end."""
        self._watched[name] = process

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until something is ready, or forever.

        Raises:
            StoppedError: A signal asked to stop.
            RunIncompleteError: One of the processes ended by itself.
        """
        while not self._signals.stop.is_set():
            for name, member in (self._members | self._watched).items():
                if (code := member.poll()) is not None:
                    where = "is above" if self._log is None else f"is at the end of {self._log}"
                    raise RunIncompleteError(
                        f"The {name} has ended unexpectedly (exit code {code}), so everything else was stopped too.",
                        hint=f"Its output {where}.",
                    )
            if ready is not None and ready():
                return
            self._signals.stop.wait(0.2)
        self._signals.require()


def require_free(port: int, what: str, option: str) -> None:
    """Raise PipelineError if a port of this machine is taken. To be called before its address is announced."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise PipelineError(
                f"{what} can't listen on port {port} of this machine: {error.strerror}.",
                hint=f"Choose another: {option}.",
            ) from None


def _end(member: subprocess.Popen[Any]) -> None:
    """End a process and everything in its group, even if it has left some of it behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE_SECONDS
        try:
            os.killpg(member.pid, number)
            while time.monotonic() < deadline:
                member.poll()
                os.killpg(member.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return
