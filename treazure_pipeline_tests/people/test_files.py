"""Files that hold people's data are their owner's alone, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from treazure_pipeline import private
from treazure_pipeline.points_history import store
from treazure_pipeline.points_history.export import export
from treazure_pipeline.points_history.refresh import refresh
from treazure_pipeline.settings import load_storage
from treazure_pipeline.terminal import instance
from treazure_pipeline_tests.balance_sync.shop import account_of, new_shop, one_sandbox
from treazure_pipeline_tests.point_migration.conftest import new_migration_shop
from treazure_pipeline_tests.point_migration.migration_shop import SHARDS, MigrationShop

__all__ = ["new_migration_shop", "new_shop", "one_sandbox"]


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("_umask", [0o000], indirect=True)
@pytest.mark.usefixtures("_umask")
def test_a_migration_and_an_export_of_the_history_are_private(
    new_migration_shop: Callable[..., MigrationShop], tmp_path: Path
) -> None:
    migration_shop = new_migration_shop(members=20)
    migration_shop.prepare()
    for shard in range(SHARDS):
        migration_shop.fetch(shard)
        migration_shop.write(shard)
    migration_shop.deliver()
    migration_shop.import_files()
    migration_shop.audit()
    with migration_shop.connect() as connections:
        account = account_of(connections)
        refresh(connections.ledger, connections.treazure, account, everybody=True)
        assert store.state(connections.ledger, account).rows
        export(connections.ledger, account, str(tmp_path / "made" / "exported"))

    written = [path for path in migration_shop.home.rglob("*") if path.suffix in {".csv", ".html", ".json"}]
    assert len(written) > SHARDS
    assert list((tmp_path / "made").rglob("*.parquet"))
    assert [path for folder in migration_shop.home.iterdir() for path in open_to_others(folder)] == []
    assert open_to_others(tmp_path / "made") == []


@pytest.mark.usefixtures("_umask")
def test_what_was_open_is_closed_and_a_folder_of_somebody_else_s_choice_is_not(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a" / "ours", tmp_path / "theirs"
    ours.mkdir(parents=True)
    theirs.mkdir()
    ours.chmod(0o755)
    theirs.chmod(0o750)
    (ours / "old").write_text("x")
    (ours / "old").chmod(0o644)

    private.folder(ours)
    private.write(ours / "old", b"y")
    private.write(ours / "new", b"y")
    private.make_folder(LocalFileSystem(), str(theirs))

    assert open_to_others(ours) == []
    assert theirs.stat().st_mode & 0o777 == 0o750


@pytest.mark.usefixtures("_umask")
def test_the_home_is_no_place_for_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    storage = load_storage({"TREAZURE_PIPELINE_HOME": str(home), "TREAZURE_PIPELINE_DATABASE_URL": "postgresql://h/d"})
    instance.write_dagster_home(instance.locate(storage))

    assert (home / "dagster").stat().st_mode & 0o777 == 0o700
    assert home.stat().st_mode & 0o066 == 0, "a root's is passed through by the server's user, and no more"
