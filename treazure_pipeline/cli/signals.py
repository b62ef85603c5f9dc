"""Ctrl-C, SIGTERM and a terminal that is closed: all three end a command in order, with 128 and the signal's number."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
