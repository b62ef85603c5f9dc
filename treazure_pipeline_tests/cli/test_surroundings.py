"""What the environment gets wrong is one sentence with what to do, and never called a mistake of ours."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from treazure_pipeline.errors import PipelineError, SettingsError
from treazure_pipeline.surroundings import understood
from treazure_pipeline_tests import roles
from treazure_pipeline_tests.cli.conftest import COMMAND, SYSTEMS, Run


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        ({"ALL_PROXY": "socks://user:pass-word@proxy.invalid:1"}, "The proxy that the environment names (ALL_PROXY)"),
        ({"NO_PROXY": "[::1]"}, "The proxy that the environment names (NO_PROXY)"),
        ({"SSL_CERT_FILE": "/nowhere.pem", "SSL_CERT_DIR": ""}, "certificates that SSL_CERT_FILE"),
        ({"DAGSTER_HOME": "somewhere"}, "DAGSTER_HOME (somewhere) must be an absolute path"),
    ],
)
def test_the_doctor_names_what_the_environment_gets_wrong(run: Run, surroundings: dict[str, str], said: str) -> None:
    result = run("doctor", "--json", **SYSTEMS, **surroundings)

    assert result.returncode == 5, result.stderr
    details = [check["detail"] for check in json.loads(result.stdout)["checks"] if check["status"] == "failed"]
    assert any(said in detail for detail in details)
    assert "pass-word" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, 2, "is not a folder"),
        ("storage: [", 2, "can't be opened"),
        ("nonsense: 1", 2, "can't be opened"),
        ("storage: {postgres: {postgres_url: 'postgresql://127.0.0.1:1/none'}}", 5, "Dagster's storage can't be used"),
    ],
)
def test_a_dagster_home_that_is_missing_or_broken_is_named(
    run: Run, database_url: str, empty_database_url: str, tmp_path: Path, content: str | None, code: int, said: str
) -> None:
    home = tmp_path / "own"
    if content is not None:
        home.mkdir()
        (home / "dagster.yaml").write_text(content)
    given = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "DAGSTER_POSTGRES_URL": empty_database_url}

    result = run("run", "adjustments", **SYSTEMS, **given, DAGSTER_HOME=str(home))

    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Unexpected" not in result.stderr


def test_dagsters_storage_without_rights_is_named(run: Run, database_url: str) -> None:
    """The runtime role may make no tables in the ledger's database but in the ledger's schema."""
    given = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "DAGSTER_POSTGRES_URL": database_url}
    assert roles.RUNTIME in database_url

    result = run("run", "adjustments", **SYSTEMS, **given)

    assert result.returncode == 5
    assert "Dagster's storage can't be used: its role may not create tables there" in result.stderr


def test_a_home_that_can_not_be_made_is_named(run: Run) -> None:
    result = run("db", "start", TREAZURE_PIPELINE_HOME="/dev/null/home")

    assert result.returncode == 2
    assert "TREAZURE_PIPELINE_HOME (/dev/null/home) cannot be made or used" in result.stderr


def test_a_terminal_of_another_encoding_shows_what_it_can(
    environment: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    home = tmp_path / "\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE}"
    surroundings = environment(TREAZURE_PIPELINE_HOME=str(home), PYTHONIOENCODING="latin-1")

    result = subprocess.run([*COMMAND, "db", "stop"], env=surroundings, capture_output=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "\N{LATIN SMALL LETTER E WITH ACUTE} \\U0001f600 is stopped" in result.stdout.decode("latin-1")


def caused(by: BaseException) -> BaseException:
    error = RuntimeError("too many retries")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/file"), "no room left on the disk (/data/file). Make"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "no room left on the disk. Make"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "may not do that with a file (/data)"),
        (OSError(errno.EROFS, "Read-only", "/data"), "The disk can only be read (/data)"),
        (OSError(errno.EMFILE, "Too many open files"), "no more files or connections. Raise"),
        (MemoryError(), "not enough memory"),
        (
            caused(sa.exc.OperationalError("select 1", {}, Exception("no\nway"))),
            "Dagster's storage can't be used: no way.",
        ),
        (caused(SettingsError("A setting is wrong.")), "A setting is wrong."),
    ],
)
def test_what_is_not_our_mistake_is_a_sentence(error: BaseException, said: str) -> None:
    found = understood(error)

    assert isinstance(found, PipelineError)
    assert said in str(found)


@pytest.mark.parametrize("error", [KeyError("key"), ValueError("value"), FileNotFoundError(errno.ENOENT, "No", "x")])
def test_our_mistakes_stay_unexpected(error: Exception) -> None:
    assert understood(error) is None
