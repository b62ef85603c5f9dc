"""A process that takes adjustments to Treazure, and is killed at a chosen place of the code, as the kernel would do it.

The code runs as it is: Python's own hooks for profilers and debuggers tell when the place is reached.
"""

from __future__ import annotations

import itertools
import sys
import threading
from types import FrameType
from typing import Any

from treazure_pipeline.adjustments import processing, queue
from treazure_pipeline.adjustments.processing import work_of
from treazure_pipeline.balance_sync import push
from treazure_pipeline.connections import Connections
from treazure_pipeline.settings import load_settings
from treazure_pipeline_tests import processes

_FILES = {queue.__file__, processing.__file__, push.__file__}


def killed(environ: dict[str, str], *, place: tuple[str, str, int] | int) -> bool:
    """Process in another process that is killed at `place`; tell whether it was, and not done before.

    A place is a hook (`call` or `return`), a function's qualified name and the number of the call, or the number of a
    line, counted as they are run in all threads.
    """
    return processes.killed(_work, environ, place)


def _work(environ: dict[str, str], place: tuple[str, str, int] | int) -> None:
    settings = load_settings(environ)
    with Connections(settings) as connections:
        work = work_of(connections, settings.programmes, "victim")
        if isinstance(place, int):
            _kill_at_line(place)
        else:
            processes.die_at(*place)
        processing.process(work)


def _kill_at_line(number: int) -> None:
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in _FILES:
            return None
        if event == "line" and next(lines) == number:
            processes.die()
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
