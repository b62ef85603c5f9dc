"""A verification whose process is killed (SIGKILL) at a chosen place of the code.

``python -m treazure_pipeline_tests.verification.dying_verification EVENT NAME NTH``, with the settings in the
environment. EVENT is `call` or `return`, NAME a function's qualified name.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from treazure_pipeline.connections import Connections
from treazure_pipeline.orchestration.verification import work_of
from treazure_pipeline.settings import load_settings
from treazure_pipeline.sync.verification import verify


def main(wanted: str, name: str, nth: int) -> None:
    """Verify the first programme, and die when the place is reached for the n-th time."""
    reached = itertools.count(1)

    def hook(frame: FrameType, event: str, _: Any) -> None:
        if (event, frame.f_code.co_qualname) == (wanted, name) and next(reached) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = load_settings()
    with Connections(settings) as connections:
        work = work_of(connections, settings.programmes[0], "victim")
        threading.setprofile(hook)
        sys.setprofile(hook)
        verify(work)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
