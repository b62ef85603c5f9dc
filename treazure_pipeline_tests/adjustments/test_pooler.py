from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from treazure_pipeline.errors import BusyError
from treazure_pipeline_tests.adjustments.adjustment_shop import AdjustmentShop, assert_each_once
from treazure_pipeline_tests.balance_sync.shop import account_of

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")


@pytest.fixture
def database_url(database_url: str, home: Path) -> Iterator[str]:
    """The ledger behind PgBouncer: each transaction may get another session, and three have to do for all."""
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed (apt-get install pgbouncer)")
    direct = sa.make_url(database_url)
    home.mkdir()
    home.chmod(0o777)
    host = str(direct.host or direct.query["host"])
    (home / "users").write_text(f'"{direct.username}" "{direct.password or ""}"\n')
    (home / "ini").write_text(
        f"[databases]\n{direct.database} = host={host} port={direct.port or 5432} user={direct.username}\n"
        "[pgbouncer]\npool_mode = transaction\ndefault_pool_size = 3\nlisten_port = 6543\n"
        f"listen_addr =\nunix_socket_dir = {home}\nauth_type = any\nauth_file = {home}/users\n"
    )
    # Not as root, and as somebody who gets to the server's socket.
    owner = Path(host).owner() if Path(host).exists() else "nobody"
    user = ["-u", owner] if getpass.getuser() == "root" else []
    with subprocess.Popen([PGBOUNCER, *user, home / "ini"], stderr=subprocess.DEVNULL) as pooler:
        try:
            while not (home / ".s.PGSQL.6543").exists():
                assert pooler.poll() is None, "PgBouncer did not start"
                time.sleep(0.05)
            through = direct.set(host=None, port=None, query={"host": str(home), "port": "6543"})
            yield through.render_as_string(hide_password=False)
        finally:
            pooler.terminate()


def test_the_whole_job_works_behind_a_pooler_in_transaction_mode(
    new_adjustment_shop: Callable[..., AdjustmentShop], database_url: str
) -> None:
    adjustment_shop = new_adjustment_shop(environ={"ENGAGE_MAX_REQUESTS_PER_SECOND": "20"})
    with psycopg.connect(database_url, autocommit=True) as other:  # what somebody else leaves in a session
        other.execute("set search_path to nowhere")
    assert adjustment_shop.sync().pushed.sent == 20
    with adjustment_shop.connect() as connections:
        connections.ledger.hold(account_of(connections))
        with pytest.raises(BusyError):
            adjustment_shop.sync()
    for contact in adjustment_shop.contacts(15):
        adjustment_shop.sandbox.give_points(contact, "5")
    ready = adjustment_shop.receiver_url.replace("/webhooks/engage", "/readyz")
    assert {httpx.get(ready, timeout=30).status_code for _ in range(10)} == {200}
    adjustment_shop.sandbox.wait_until_delivered()
    assert adjustment_shop.process().posted == 15
    assert adjustment_shop.sync().pushed.error is None
    assert_each_once(adjustment_shop)
