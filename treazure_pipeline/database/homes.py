"""Where the embedded server's files can be: folders that its user can enter."""

from __future__ import annotations

import os
import stat
from pathlib import Path

SHARED = Path("/var/lib/treazure-pipeline")


def default() -> Path:
    """Return the home if none is set: `.treazure` here, or one below /var/lib for root in a private folder.

    PostgreSQL does not run as root, and the user that it runs as could not enter a private folder.
    """
    here = Path(".treazure").absolute()
    if os.name == "posix" and os.geteuid() == 0 and private_folder(here) is not None:
        return SHARED / str(here.parent).strip("/").replace("/", "-")
    return here


def private_folder(folder: Path) -> Path | None:
    """Return the outermost existing folder on the way to this one that others may not enter."""
    way = [*reversed(folder.parents), folder]
    return next((part for part in way if part.is_dir() and not part.stat().st_mode & stat.S_IXOTH), None)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents for their owner, whatever the umask; existing ones stay as they are.

    Root's folders can be entered by everybody, but listed by nobody else: the server's user has to get through.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
