"""A disk on which there is no room left: a sentence, and once there is room all goes on where it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from treazure_pipeline.sandbox import Sandbox, running_sandbox
from treazure_pipeline_tests.cli.conftest import Run
from treazure_pipeline_tests.cli.test_doctor import settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=False).returncode:
        pytest.skip("only root can mount a small file system, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
