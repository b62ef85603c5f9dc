"""Several processes that live and die together."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Self

from treazure_pipeline.errors import RunIncompleteError

_GRACE_SECONDS = 20


class Family:
    """Processes, each in a group of its own with whatever it starts; leaving the block ends all of them.

    While the block lasts, SIGTERM does what Ctrl-C does.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._members: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._previous: dict[signal.Signals, signal.Handlers | int | Callable[..., object] | None] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In the reverse order: what is used last is stopped last.
        for member in reversed(self._members.values()):
            _end(member)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start one more."""
        self._members[name] = subprocess.Popen(  # noqa: S603 - our own commands
            command, env=dict(self._environment), stdin=subprocess.DEVNULL, start_new_session=True
        )

    def wait(self, ready: Callable[[], bool] | None = None) -> bool:
        """Wait until something is ready, or for ever; return whether it is, False after Ctrl-C or SIGTERM.

        Raises:
            RunIncompleteError: One of the processes ended by itself.
        """
        while not self._stopping.is_set():
            for name, member in self._members.items():
                if (code := member.poll()) is not None:
                    raise RunIncompleteError(
                        f"The {name} has ended by itself (exit code {code}), so all else was stopped too.",
                        hint="What it said stands above.",
                    )
            if ready is not None and ready():
                return True
            self._stopping.wait(0.2)
        return False

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()


def _end(member: subprocess.Popen[bytes]) -> None:
    """End a process and all in its group, also what it has left behind."""
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
