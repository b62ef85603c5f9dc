"""A verification whose process is killed (SIGKILL) at a chosen place of the code."""

from __future__ import annotations

from treazure_pipeline.connections import Connections, Run
from treazure_pipeline.settings import load_settings
from treazure_pipeline.verification.read_back import verify
from treazure_pipeline_tests import processes


def killed(environ: dict[str, str], place: tuple[str, str, int]) -> bool:
    """Verify the first programme in another process that is killed at a place; tell whether it was."""
    return processes.killed(_work, environ, place)


def _work(environ: dict[str, str], place: tuple[str, str, int]) -> None:
    settings = load_settings(environ)
    with Connections(settings) as connections:
        run = Run.of(connections, settings.programmes[0], "victim")
        processes.die_at(*place)
        verify(run)
