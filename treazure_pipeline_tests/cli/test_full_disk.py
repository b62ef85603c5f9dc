"""A disk on which there is no room left: a sentence, and once there is room all goes on where it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
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
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("only root can mount a small file system, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=20) as running:
        yield running


def test_a_full_disk_is_a_sentence_and_all_goes_on_once_there_is_room(
    run: Run, sandbox: Sandbox, small_disk: Path, database_url: str, empty_database_url: str
) -> None:
    given = settings(sandbox) | {
        "TREAZURE_PIPELINE_HOME": str(small_disk / "home"),
        "TREAZURE_PIPELINE_DATABASE_URL": database_url,
        "DAGSTER_POSTGRES_URL": empty_database_url,
    }
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))

    full = run("run", "balance-sync", **given)

    assert full.returncode == 5, full.stderr
    assert "no room left on the disk" in full.stderr
    assert "Unexpected" not in full.stderr

    filler.unlink()
    assert run("run", "balance-sync", **given).returncode == 0
    assert sandbox.differences()["equal"]
