"""Writes the files of `logs()` and kills itself, as a power failure would, when so many parts have been read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from treazure_pipeline.clients.wire import Movement
from treazure_pipeline.point_migration import files
from treazure_pipeline.point_migration.files import FilesReport
from treazure_pipeline.point_migration.parts import encode, roster
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.point_migration import small_treazure
from treazure_pipeline_tests.point_migration.small_treazure import CUT_OFF, contact

PARTS = 12


def write(folder: Path, die_after: int | None = None) -> FilesReport:
    files.CHUNK_ROWS = 50

    def parts() -> Iterator[bytes]:
        for number in range(PARTS):
            if number == die_after:
                processes.die()
            times = (CUT_OFF - timedelta(days=50 - day) for day in range(50))
            log = [Movement(time, Decimal(2), "Load", Decimal(2 * at)) for at, time in enumerate(times, start=1)]
            yield encode({contact(number): log})

    blocks = [roster([(contact(number), Decimal(100), None) for number in range(PARTS)])]
    return small_treazure.write(parts(), blocks, folder, rows_per_file=60)
