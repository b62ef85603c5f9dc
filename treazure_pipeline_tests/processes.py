"""Processes that start at once, and processes that are killed at a chosen place of the code.

They are forked from one in which the product has been imported: to import it and Dagster takes longer than most of
what tests have a process do.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from treazure_pipeline.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["treazure_pipeline_tests.preloaded"])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def started(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start a function of a module in a process of its own."""
    process = _FORKS.Process(target=work, args=arguments)
    process.start()
    return process


def ended(work: Callable[..., object], *arguments: Any, patience: float = 120) -> int:
    """Run a function in a process of its own; returns the exit code, negative for a signal."""
    process = started(work, *arguments)
    process.join(patience)
    assert process.exitcode is not None, f"{work.__qualname__} is not done after {patience:g} s"
    return process.exitcode


def killed(work: Callable[..., object], *arguments: Any) -> bool:
    """Run a function that may have its process killed; tell whether it was, and not done before."""
    code = ended(work, *arguments)
    assert code in {0, -signal.SIGKILL}, code
    return code == -signal.SIGKILL


def die() -> None:
    """End this process as the kernel or a power failure would."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(event: str, name: str, nth: int) -> None:
    """Have this process killed when a function is called or returns (`call`, `return`) for the n-th time.

    The code runs as it is: Python's own hook for profilers tells when it gets there. `name` is the function's
    qualified name.
    """
    reached = itertools.count(1)

    def hook(frame: FrameType, happened: str, _: Any) -> None:
        if (happened, frame.f_code.co_qualname) == (event, name) and next(reached) == nth:
            die()

    threading.setprofile(hook)
    sys.setprofile(hook)


def command(
    *arguments: str, environment: Mapping[str, str], folder: str | Path = "."
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, with this environment and nothing else."""
    with tempfile.TemporaryDirectory() as place:
        out, error = Path(place, "out"), Path(place, "error")
        code = ended(run, main, arguments, dict(environment), folder, out, error)
        return subprocess.CompletedProcess(arguments, code, out.read_text(), error.read_text())


def run(
    program: Callable[[], object],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str | Path,
    out: Path,
    error: Path,
) -> None:
    """Make this process one that was started as this program, in a folder, with this environment and nothing else."""
    for path, stream in ((out, sys.stdout), (error, sys.stderr)):
        with path.open("a") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    program()
