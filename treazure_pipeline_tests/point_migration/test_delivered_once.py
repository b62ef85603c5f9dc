"""Each file reaches the importer once, wherever the process dies and whatever the ledger has forgotten."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from treazure_pipeline.connections import Connections
from treazure_pipeline.point_migration import backfill
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline.point_migration.delivery import Delivered, Left, deliver, what_is_left
from treazure_pipeline.point_migration.file_store import File
from treazure_pipeline.point_migration.shards import body_of
from treazure_pipeline.point_migration.target import DeliveryError, Place, Target
from treazure_pipeline_tests.balance_sync.shop import account_of
from treazure_pipeline_tests.point_migration.migration_shop import SHARDS, MigrationShop
from treazure_pipeline_tests.point_migration.sftp import serving

FIRST_CHANGES = 5
"""Changes at the target, each of which is tried: those of the first file, and the first of the next; and the last."""


class KilledError(BaseException):
    """The process is gone."""


@dataclass
class Death:
    """Comes after the change of that number, or in the middle of it; before it, where it can't be done by halves."""

    change: int
    moment: str
    changes: int = 0

    def meets(self, change: Callable[..., None], half: Callable[[], None] | None, *given: Any) -> None:
        self.changes += 1
        if self.changes != self.change:
            change(*given)
            return
        if self.moment == "half" and half is not None:
            half()
        elif self.moment == "after":
            change(*given)
        raise KilledError


@dataclass(frozen=True)
class DyingPlace(Place):
    death: Death

    def write(self, path: str, body: bytes) -> None:
        def half() -> None:
            self.system.pipe_file(path, body[: len(body) // 2])

        self.death.meets(super().write, half if self.renames else None, path, body)

    def rename(self, old: str, new: str) -> None:
        self.death.meets(super().rename, None, old, new)


@dataclass
class Stage:
    """A migration with written files, and its target."""

    migration_shop: MigrationShop
    connections: Connections
    target: Target

    def deliver(self, death: Death | None = None, **how: Any) -> Delivered:
        ledger, account = self.connections.ledger, account_of(self.connections)
        migration = backfill.opened(ledger, account)

        def body(file: File) -> bytes:
            return body_of(ledger, account, migration, file, self.migration_shop.home)

        target: Any = self.target if death is None else _Dying(self.target, death)
        return deliver(ledger, account, migration, body, target, **how)

    def forget(self) -> None:
        """Let the ledger be that of before the delivery."""
        with self.connections.ledger.transaction() as connection:
            connection.execute("update migration_file set state = 'written', delivered_at = null")
            connection.execute("update migration set state = 'ready', delivered_by = null, delivered_to = null")

    def taken(self) -> Counter[str]:
        """Let the importer take what is there."""
        with self.target.opened() as place:
            there = place.listed(place.folder)
            for name in there:
                place.remove(f"{place.folder}/{name}")
        return Counter(list(there))

    def clear(self) -> None:
        with self.target.opened() as place:
            for folder in (place.folder, place.beside):
                for name in place.listed(folder):
                    place.remove(f"{folder}/{name}")


@dataclass
class _Dying:
    target: Target
    death: Death

    @contextmanager
    def opened(self) -> Iterator[Place]:
        with self.target.opened() as place:
            yield DyingPlace(place.system, place.folder, place.beside, place.renames, self.death)


@pytest.fixture
def written(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    migration_shop = new_migration_shop(members=20, environ={"MIGRATION_MODE": "balance"})
    migration_shop.prepare()
    migration_shop.shards()
    return migration_shop


@pytest.fixture(params=["file", "sftp", "memory"])
def stage(request: pytest.FixtureRequest, written: MigrationShop, tmp_path: Path) -> Iterator[Stage]:
    with written.connect() as connections:
        if request.param != "sftp":
            yield Stage(written, connections, Target(f"{request.param}://{tmp_path}/engage/in"))
            return
        with serving(tmp_path / "served") as server:
            (tmp_path / "known_hosts").write_text(server.known_host)
            yield Stage(written, connections, Target(server.url, [tmp_path / "known_hosts"]))


def test_killed_at_any_change_each_file_arrives_once_also_where_the_ledger_has_forgotten(stage: Stage) -> None:
    names = {name for (name,) in stage.migration_shop.shop.sql("select name from migration_file")}
    assert len(names) == SHARDS
    asked = 0
    whole = Death(0, "never")  # counts
    stage.deliver(whole)
    worlds = [(True, True)] if str(stage.target).startswith("sftp") else itertools.product((True, False), repeat=2)
    for (importer_is_quick, forgets), moment in itertools.product(worlds, ("half", "after")):
        for change in (*range(1, FIRST_CHANGES + 1), whole.changes):
            stage.forget()
            stage.clear()
            with pytest.raises(KilledError):
                stage.deliver(Death(change, moment))
            arrived = stage.taken() if importer_is_quick else Counter()
            if forgets:
                stage.forget()
            try:
                stage.deliver()
            except DeliveryError as error:
                asked += 1
                (open_file,) = [name for name in names if name in str(error)]
                stage.deliver(uncertain_are_taken=open_file in arrived)
            arrived += stage.taken()
            assert arrived == Counter(names), (change, moment, importer_is_quick, forgets)
            stage.forget()
            assert stage.deliver().sent == 0
            assert not stage.taken()
    with stage.target.opened() as place:
        assert (asked == 0) is place.renames


def file(state: str = "written") -> File:
    return File(0, "a.csv", 1, Decimal(1), 10, "digest", state)


@pytest.mark.parametrize(
    ("there", "beside", "state", "blind", "renames", "left"),
    [
        ({}, [], "written", False, "both", "write"),
        ({}, [], "written", True, "both", "undecided"),
        ({}, [], "uploaded", False, "both", "undecided"),
        ({}, [".part"], "written", False, "renaming", "write"),
        ({}, [".part", ".sending"], "uploaded", False, "renaming", "write"),
        ({}, [".sending"], "uploaded", False, "renaming", "nothing"),
        ({}, [".sending"], "written", False, "renaming", "nothing"),
        ({}, [".sending"], "uploaded", False, "writing", "undecided"),
        ({}, [".sending"], "written", False, "writing", "undecided"),
        ({}, [".sending", ".delivered"], "written", False, "both", "nothing"),
        ({"a.csv": 10}, [], "written", True, "both", "nothing"),
        ({"a.csv": 10}, [".sending"], "uploaded", False, "both", "nothing"),
        ({"a.csv": 9}, [".sending"], "uploaded", False, "both", "other"),
        ({"b.csv": 10}, [], "written", False, "both", "write"),
    ],
)
def test_what_lies_at_the_target_decides(
    there: dict[str, int], beside: list[str], state: str, *, blind: bool, renames: str, left: Left
) -> None:
    notes = {f"a.csv{note}": 1 for note in beside}
    for each in {"both": (True, False), "renaming": (True,), "writing": (False,)}[renames]:
        assert what_is_left(file(state), there, notes, renames=each, blind=blind) == left


@pytest.fixture
def folder(written: MigrationShop, tmp_path: Path) -> Iterator[Stage]:
    with written.connect() as connections:
        yield Stage(written, connections, Target((tmp_path / "engage" / "in").as_uri()))


def test_a_restored_ledger_that_finds_no_note_asks_before_it_delivers(folder: Stage) -> None:
    folder.migration_shop.shop.sql("update migration set ledger = 'a server that is gone'")
    with pytest.raises(DeliveryError, match="Of 3 files nobody can tell"):
        folder.deliver()
    assert not folder.taken()
    assert folder.deliver(uncertain_are_taken=False).sent == SHARDS
    folder.forget()
    assert folder.deliver().sent == 0


@pytest.mark.parametrize(
    "note", ["points-1-000-0001-0123456789ab.csv.sending", "points-7-000-0001-0123456789ab.csv.delivered"]
)
def test_a_note_of_a_file_that_the_ledger_does_not_know_ends_the_delivery(folder: Stage, note: str) -> None:
    with folder.target.opened() as place:
        place.write(f"{place.beside}/gold-{note}", b"")
        place.write(f"{place.beside}/{note}", b"")
    with pytest.raises(MigrationError, match=f"does not know were delivered to .*: {note.rpartition('.')[0]}."):
        folder.deliver()
    assert not folder.taken()


def test_another_file_under_a_name_of_ours_is_named_and_left_alone(folder: Stage) -> None:
    ((name,),) = folder.migration_shop.shop.sql("select name from migration_file where shard = 1")
    with folder.target.opened() as place:
        place.write(f"{place.folder}/{name}", b"something else")
    with pytest.raises(DeliveryError, match=f"{name} stands at .* with other content"):
        folder.deliver()
    assert len(folder.taken()) == SHARDS
    assert folder.deliver(again=True).sent == SHARDS
