"""Ctrl-C, SIGTERM and closing the terminal end a command cleanly, with exit code 128 plus the signal's number."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Deferred:
    """Notes signals within the block in the event `stop`, so that work can be finished. `require` raises them."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._number = 0
        self._previous: dict[signal.Signals, signal.Handlers | int | Callable[..., object] | None] = {}

    def __enter__(self) -> Self:
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        self.stop.set()

    def require(self) -> None:
        """Raise StoppedError if a signal has asked to stop."""
        if self._number:
            raise StoppedError(self._number)


class StoppedError(KeyboardInterrupt):
    """A signal has asked to stop. It is not an Exception, so that nothing handles it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def listen() -> None:
    """Raise StoppedError in the main thread at each of the signals, unless it is ignored, as with `nohup`."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Collect the numbers of the signals that arrive within the block, whoever handles them."""
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
