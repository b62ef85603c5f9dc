"""Delivers migration files to Engage's importer, each only once, since every import adds points.

In the folder `manifest` beside the importer's, notes say how far each file has got. They outlive the ledger:

    NAME.part        if files can be renamed: the file, before it is put in place
    NAME.sending     it is about to be put in place
    NAME.delivered   it was put in place, and the importer may have taken it

A name contains the digest of the content, so a file with that name is that file. After a crash, or a restore of the ledger, the notes decide. If
they leave something open, a person is asked, and nothing is written again by guessing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from treazure_pipeline import phrases
from treazure_pipeline.point_migration import backfill, file_store
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline.point_migration.target import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.backfill import Migration
    from treazure_pipeline.point_migration.file_store import File
    from treazure_pipeline.point_migration.target import Place, Target

PART, SENDING, DELIVERED = ".part", ".sending", ".delivered"
Left = Literal["nothing", "write", "undecided", "other"]


@dataclass(frozen=True)
class Delivered:
    """What a delivery did: files and rows it sent, files sent before, and how many of those are no longer there."""

    target: str
    files: int
    sent: int
    sent_before: int
    taken: int
    rows: int
    total: str

    @property
    def figures(self) -> dict[str, Any]:
        """What a run shows of it."""
        return {
            "target": self.target, "files": self.files, "sent": self.sent, "sent_before": self.sent_before,
            "no_longer_there": self.taken, "rows": self.rows, "points": self.total,
        }  # fmt: skip

    @property
    def sentence(self) -> str:
        """How many files are where."""
        before = phrases.some(had_been_delivered_before=self.sent_before, of_these_no_longer_there=self.taken)
        told = (
            f"{phrases.counted(self.sent, 'file')} with {phrases.counted(self.rows, 'row')} delivered to {self.target}"
        )
        return "; ".join(part for part in (told, phrases.sentence(before)) if part)


def what_is_left(
    file: File, there: Mapping[str, int], beside: Mapping[str, int], *, renames: bool, blind: bool = False
) -> Left:
    """Tell from what lies in both folders (names, sizes) whether a file is still to be written.

    `renames`: a part that is gone has been renamed. `blind`: the ledger may not know what it did before, and no note
    tells of its migration. `other`: something else stands under its name.
    """
    if file.name in there:
        return "nothing" if there[file.name] == file.size else "other"
    if file.name + DELIVERED in beside:
        return "nothing"
    if file.name + PART in beside:
        return "write"
    if file.name + SENDING in beside:
        return "nothing" if renames else "undecided"
    return "undecided" if blind or file.state == "uploaded" else "write"


def deliver(
    ledger: Ledger,
    account: Account,
    migration: Migration,
    body: Callable[[File], bytes],
    target: Target,
    *,
    again: bool = False,
    uncertain_are_taken: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Delivered:
    """Bring every file of the migration to the target once, and a manifest beside it; `body` gives a file's bytes.

    `uncertain_are_taken` is a person's decision on files of which nobody can tell. `again` sends all of them once more,
    by a person's decision too: an import adds points each time it is done. Raises DeliveryError, after all others were
    sent, where some files are undecided.
    """
    files = written_files(ledger, migration)
    if file_store.has_requests(ledger, migration):
        raise MigrationError("Rows of this migration have gone to Engage by API. A file would add them again.")
    with target.opened() as place:
        if again:
            files = _forget(ledger, migration, files, place)
        there, beside = place.listed(place.folder), place.listed(place.beside)
        known = _require_known(ledger, account, migration, files, beside, target)
        blind = not known and file_store.ledger_has_moved(ledger, migration)
        left = [file for file in files if file.state != "delivered"]
        taken = sum(file.name not in there for file in files if file.state == "delivered")
        open_files: list[File] = []
        sent = []
        for file in left:
            what = what_is_left(file, there, beside, renames=place.renames, blind=blind)
            if what == "undecided" and uncertain_are_taken is not None:
                what = "nothing" if uncertain_are_taken else "write"
            if what in {"undecided", "other"}:
                open_files.append(file)
                continue
            if what == "write":
                _write(ledger, migration, file, body(file), place)
                sent.append(file)
            if file.name + DELIVERED not in beside:
                place.write(f"{place.beside}/{file.name}{DELIVERED}", _note(file))
            file_store.mark_file(ledger, migration, file.name, "delivered")
            if progress is not None:
                progress(file.rows, sum(each.rows for each in left))
        if open_files:
            raise DeliveryError(_told(open_files, there, target, blind=blind), hint=_OPEN_HINT)
        place.write(f"{place.beside}/{manifest_name(account, migration)}", manifest(account, migration, files))
    file_store.complete_delivery(ledger, migration, by="files", to=str(target))
    total = sum((file.total for file in files), start=files[0].total * 0) if files else 0
    return Delivered(str(target), len(files), len(sent), len(files) - len(sent), taken,
                     sum(file.rows for file in sent), f"{total:f}")  # fmt: skip


_OPEN_HINT = (
    "Read some of its contacts in Engage: has it been imported? Then run finish_migration again with "
    "uncertain_are_taken: true or false. It is not written again before."
)


def _told(files: Sequence[File], there: Mapping[str, int], target: Target, *, blind: bool) -> str:
    names = ", ".join(file.name for file in files[:5])
    others = [file.name for file in files if file.name in there]
    if others:
        return f"{', '.join(others[:5])} stands at {target} with other content; remove it or bring it to its end."
    why = " The ledger has been restored or failed over since, and nothing there tells of this migration." * blind
    return f"Of {len(files)} files nobody can tell whether they have reached {target}: {names}.{why}"


def written_files(ledger: Ledger, migration: Migration) -> list[File]:
    """Return the files of all shards. Raises MigrationError if a shard has none."""
    backfill.require(migration, "ready", "delivered")
    state = backfill.progress(ledger, migration)
    if state.shards_written < migration.shards:
        raise MigrationError(
            f"{migration.shards - state.shards_written} of {migration.shards} shards have no files yet.",
            hint="Run point_migration for them. Dagster's backfill page shows which they are.",
        )
    return file_store.files(ledger, migration)


def manifest_name(account: Account, migration: Migration) -> str:
    """Return the name of the manifest."""
    return f"{account.name}-{migration.id}-manifest.json"


def manifest(account: Account, migration: Migration, files: Sequence[File]) -> bytes:
    """Return what was delivered, as JSON: the same files give the same bytes."""
    content = {
        "programme": account.name,
        "pointDefinitionId": account.definition_id,
        "migration": migration.id,
        "cutOff": migration.cut_off.isoformat(),
        "mode": migration.mode,
        "keyType": migration.key_type,
        "rows": sum(file.rows for file in files),
        "total": f"{sum((file.total for file in files), start=files[0].total * 0) if files else 0:f}",
        "files": [
            {"name": f.name, "rows": f.rows, "total": f"{f.total:f}", "size": f.size, "sha256": f.sha256} for f in files
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _note(file: File) -> bytes:
    return json.dumps({"name": file.name, "size": file.size, "sha256": file.sha256}).encode()


def _write(ledger: Ledger, migration: Migration, file: File, body: bytes, place: Place) -> None:
    """Put a file in place, after its note."""
    there, beside = f"{place.folder}/{file.name}", f"{place.beside}/{file.name}"
    if place.renames:
        place.write(beside + PART, body)
    place.write(beside + SENDING, _note(file))
    file_store.mark_file(ledger, migration, file.name, "uploaded")
    if place.renames:
        place.rename(beside + PART, there)
    else:
        place.write(there, body)


def _require_known(
    ledger: Ledger,
    account: Account,
    migration: Migration,
    files: Sequence[File],
    beside: Mapping[str, int],
    target: Target,
) -> bool:
    """Return whether notes tell of this migration; raise MigrationError where some tell what the ledger doesn't know."""
    names = {file.name for file in files}
    numbers = file_store.numbers(ledger, account)
    pattern = re.compile(rf"({re.escape(account.name)}-([0-9]+)-.*\.csv)\.(?:sending|delivered)")
    notes = {(found[1], int(found[2])) for note in beside if (found := pattern.fullmatch(note))}
    strange = sorted(
        name for name, number in notes if number not in numbers or (number == migration.id and name not in names)
    )
    if strange:
        raise MigrationError(
            f"Files that this ledger does not know were delivered to {target}: {', '.join(strange[:5])}.",
            hint="The ledger is older than the files, or their shards were written again. If Engage has imported "
            "them, abandon the migration, and the sync sets the balances. If it will not import them, "
            "remove them and their notes.",
        )
    return any(number == migration.id for _, number in notes)


def _forget(ledger: Ledger, migration: Migration, files: Sequence[File], place: Place) -> list[File]:
    """Set all files back to written."""
    for file in files:
        file_store.mark_file(ledger, migration, file.name, "written")
    for file in files:
        for note in (DELIVERED, SENDING):
            place.remove(f"{place.beside}/{file.name}{note}")
    return file_store.files(ledger, migration)
