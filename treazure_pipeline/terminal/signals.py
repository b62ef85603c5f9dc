"""Ctrl-C, SIGTERM and a terminal that is closed: all three end a command in order, with 128 and the signal's number."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Deferred:
    """Notes the signals within the block in the event `stop`, so that what is under way is finished first.

    `require` raises what was noted.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._number = 0
        self._previous: dict[signal.Signals, signal.Handlers | int | Callable[..., object] | None] = {}

    def __enter__(self) -> Self:
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        self.stop.set()

    def require(self) -> None:
        """Raise StoppedError where a signal has asked for the end."""
        if self._number:
            raise StoppedError(self._number)


class StoppedError(KeyboardInterrupt):
    """A signal has asked for the end. Not an Exception, so that nothing takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def listen() -> None:
    """Raise StoppedError in the main thread at each of the signals, unless it is ignored, as after `nohup`."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Collect the numbers of the signals that arrive in the block, whoever handles them there."""
    found: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield found
    finally:
        signal.set_wakeup_fd(previous)
        with suppress(BlockingIOError):
            found += [number for number in os.read(reader, 512) if number in ENDING]
        os.close(reader)
        os.close(writer)
