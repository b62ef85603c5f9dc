"""Creates files with people's data so that only their owner can read them, whatever the umask: 0600, and folders 0700.

This only applies to local files. Other stores have their own access rights.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import BinaryIO


def folder(path: Path) -> None:
    """Make one of our folders and its parents. If it was open to others, close it."""
    _make(path)
    with suppress(PermissionError):  # it belongs to another user, who decides
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
    """Make a folder in an fsspec file system, if there is none. An existing one is left as it is."""
    if _is_local(system):
        _make(Path(path))
    else:
        system.makedirs(path, exist_ok=True)


def make_file(system: Any, path: str) -> None:
    """Make an empty file if the fsspec file system is local, so that it is private from the start."""
    if _is_local(system):
        write(Path(path), b"")


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415 - slow, and only needed by those who write such files

    return isinstance(system, LocalFileSystem)


def _make(path: Path) -> None:
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
        missing.chmod(0o700)
