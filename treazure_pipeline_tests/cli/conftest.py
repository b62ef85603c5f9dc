"""The command line as an operator has it: processes with an environment and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from treazure_pipeline_tests import processes

COMMAND = [sys.executable, "-c", "from treazure_pipeline.cli import main; main()"]
SYSTEMS = {
    "TREAZURE_BASE_URL": "https://treazure.invalid",
    "TREAZURE_CLIENT_ID": "client",
    "TREAZURE_CLIENT_SECRET": "treazure-secret",
    "TREAZURE_LOYALTY_ID": "LOYALTY",
    "ENGAGE_BASE_URL": "https://engage.invalid",
    "ENGAGE_API_KEY": "engage-secret",
}


class Run(Protocol):
    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def environment(home: Path) -> Callable[..., dict[str, str]]:
    """The environment of a command: this one, a home of its own, and what the test adds."""

    def make(**more: str) -> dict[str, str]:
        return {**os.environ, "TREAZURE_PIPELINE_HOME": str(home), **more}

    return make


@pytest.fixture
def run(environment: Callable[..., dict[str, str]], tmp_path: Path) -> Run:
    """Run the command line in an empty folder."""

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return processes.command(*arguments, environment=environment(**more), folder=tmp_path)

    return call
