from __future__ import annotations

import signal
import subprocess

import httpx
import pytest

from treazure_pipeline_tests.cli.conftest import COMMAND, Run, environment, run

__all__ = ["environment", "run"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - refused
def test_without_a_way_in_no_other_host_than_loopback_is_bound(run: Run, host: str) -> None:
    result = run("console", "--host", host)

    assert result.returncode == 2
    assert "CONSOLE_AUTH is none" in result.stderr
    assert host in result.stderr


def test_the_command_needs_the_database_alone_and_ends_at_sigterm(database_url: str) -> None:
    variables = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen([*COMMAND, "console", "--port", "0"], env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/healthz", timeout=60).json() == {"status": "ok"}
        assert "nothing has been synced" in httpx.get(url, timeout=60).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    finally:
        process.kill()
        process.communicate()
