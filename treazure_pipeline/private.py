"""Files with people's data: for their owner alone, whatever the umask: 0600, and folders 0700.

Local ones only; what lies on another host has the rights of that store.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import BinaryIO


def folder(path: Path) -> None:
    """Make a folder of ours and its parents, and close it to others where it was open."""
    _make(path)
    with suppress(PermissionError):  # another user's, who has decided
        path.chmod(0o700)


def opened(path: Path) -> BinaryIO:
    """Open a file for writing, emptied."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "wb")


def write(path: Path, body: bytes | memoryview) -> None:
    """Write a file."""
    with opened(path) as file:
        file.write(body)


def make_folder(system: Any, path: str) -> None:
    """Make a folder of fsspec's file system where there is none; one that is there is its owner's decision."""
    if _is_local(system):
        _make(Path(path))
    else:
        system.makedirs(path, exist_ok=True)


def make_file(system: Any, path: str) -> None:
    """Make an empty file of fsspec's local file system, so that what is written to it is private from the beginning."""
    if _is_local(system):
        write(Path(path), b"")


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415 - who writes no such file need not wait

    return isinstance(system, LocalFileSystem)


def _make(path: Path) -> None:
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
        missing.chmod(0o700)
