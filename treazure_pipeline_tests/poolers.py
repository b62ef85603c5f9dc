"""PgBouncer in front of a database of the tests."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
PORT = 6543


@contextmanager
def pooler(url: str, home: Path, **options: object) -> Iterator[sa.URL]:
    """Start one with its socket in `home`, in transaction mode with three sessions; give the address through it.

    Skips the test where PgBouncer isn't installed.
    """
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed (apt-get install pgbouncer)")
    direct = sa.make_url(url)
    home.mkdir(exist_ok=True)
    home.chmod(0o777)
    host = str(direct.host or direct.query["host"])
    (home / "users").write_text(f'"{direct.username}" "{direct.password or ""}"\n')
    settings = {
        "pool_mode": "transaction",
        "default_pool_size": 3,
        "listen_port": PORT,
        "listen_addr": "",
        "unix_socket_dir": home,
        "auth_type": "any",
        "auth_file": home / "users",
    }
    (home / "ini").write_text(
        f"[databases]\n* = host={host} port={direct.port or 5432} user={direct.username}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in (settings | options).items())
    )
    # Not as root, and as somebody who gets to the server's socket.
    owner = Path(host).owner() if Path(host).exists() else "nobody"
    user = ["-u", owner] if getpass.getuser() == "root" else []
    with subprocess.Popen([PGBOUNCER, *user, home / "ini"], stderr=subprocess.DEVNULL) as process:
        try:
            port = (settings | options)["listen_port"]
            while not (home / f".s.PGSQL.{port}").exists():
                assert process.poll() is None, "PgBouncer did not start"
                time.sleep(0.05)
            yield direct.set(host=None, port=None, query={"host": str(home), "port": str(port)})
        finally:
            process.terminate()
