"""A writer that was killed leaves nothing that the next one could not put right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from treazure_pipeline_tests import processes
from treazure_pipeline_tests.point_migration import dying_writer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("die_after", [1, 8])
def test_after_a_kill_the_next_writing_gives_the_files_of_an_undisturbed_one(tmp_path: Path, die_after: int) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    assert processes.killed(dying_writer.write, killed, die_after)
    report = dying_writer.write(killed)
    assert report.files == dying_writer.write(undisturbed).files
    assert sorted(path.name for path in killed.iterdir()) == [file.name for file in report.files]
    for file in report.files:
        assert hashlib.sha256((killed / file.name).read_bytes()).hexdigest() == file.sha256
