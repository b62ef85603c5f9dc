"""A host that is cut off from everything in mid-work, and comes back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from treazure_pipeline.cli import main
from treazure_pipeline.errors import BusyError
from treazure_pipeline_tests import processes
from treazure_pipeline_tests.balance_sync.shop import Shop, assert_in_step
from treazure_pipeline_tests.networks import LOCAL, Network, needs_networks, outside

DATABASE = 5432


def server(url: str) -> socket.socket:
    """Connect to the socket of a database's server."""
    query = sa.make_url(url).query
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{query['host']}/.s.PGSQL.{query.get('port', DATABASE)}")
    return connection


def from_the_host(url: str) -> str:
    """The URL of a database as the host sees it."""
    parts = sa.make_url(url)
    return f"postgresql://{parts.username}@{LOCAL}:{DATABASE}/{parts.database}"


def take_over(shop: Shop) -> None:
    """Sync as soon as the lease of the other host is over."""
    patience = time.monotonic() + 150
    while True:
        try:
            shop.sync()
        except BusyError:
            assert time.monotonic() < patience
            time.sleep(1)
        else:
            return


@needs_networks
@pytest.mark.timeout(600)
def test_a_sync_whose_host_is_cut_off_is_taken_over_and_does_no_harm_when_it_is_back(
    new_shop: Callable[..., Shop], database_url: str, empty_database_url: str, home: Path, tmp_path: Path
) -> None:
    shop = new_shop(
        members=40,
        environ={"ENGAGE_BATCH_SIZE": "2", "ENGAGE_CONCURRENCY": "2", "ENGAGE_TIMEOUT_SECONDS": "5"},
    )
    shop.sync()
    contacts = shop.sandbox.contact_ids(limit=30)
    shop.sandbox.add_points(dict.fromkeys(contacts, 5))
    shop.sandbox.set_fault("slow", on=["set_balances"], seconds=0.5, count=None)
    before = shop.sandbox.report()["requests"]["set_balances"]
    vendors = urlsplit(shop.sandbox.base_url).port
    assert vendors is not None
    environment = {
        **os.environ, **shop.variables, "TREAZURE_PIPELINE_HOME": str(home),
        "TREAZURE_PIPELINE_DATABASE_URL": from_the_host(database_url),
        "DAGSTER_POSTGRES_URL": from_the_host(empty_database_url),
    }  # fmt: skip
    reach = {vendors: partial(outside, vendors), DATABASE: partial(server, database_url)}
    said = tmp_path / "said"
    with Network(reach) as network:
        cut_off = network.start(processes.run, main, ["run", "balance-sync"], environment, ".", said, said)
        try:
            while shop.sandbox.report()["requests"]["set_balances"] < before + 3:
                assert cut_off.is_alive()
                time.sleep(0.05)
            network.cut()
            shop.sandbox.clear_faults()
            shop.sandbox.add_points(dict.fromkeys(contacts[:10], 7))
            take_over(shop)
            assert_in_step(shop)
            assert cut_off.is_alive()
            network.mend()
            cut_off.join(240)
            assert cut_off.exitcode == 5
        finally:
            cut_off.kill()
    shop.sync()
    assert_in_step(shop)
