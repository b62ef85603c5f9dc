"""Whose ledger: it refuses other systems than those of its first use (I13)."""

from __future__ import annotations

import pytest

from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import owner
from treazure_pipeline.settings import Settings, load_settings


def settings(database_url: str, treazure: str, engage: str) -> Settings:
    return load_settings(
        {
            "TREAZURE_BASE_URL": treazure, "TREAZURE_CLIENT_ID": "client", "TREAZURE_CLIENT_SECRET": "secret",
            "TREAZURE_LOYALTY_ID": "LOYALTY", "ENGAGE_BASE_URL": engage, "ENGAGE_API_KEY": "key",
            "TREAZURE_PIPELINE_DATABASE_URL": database_url,
        }
    )  # fmt: skip


A = ("https://a.posengine.prod.cloud", "https://a.voyado.com")


@pytest.mark.parametrize(
    "other",
    [("https://b.posengine.prod.cloud", A[1]), (A[0], "https://b.voyado.com"), (A[0], "https://a.staging.voyado.com"),
     ("https://a.posengine.prod.cloud/b", A[1]), ("http://127.0.0.1:8790", "http://127.0.0.1:8790")],
)  # fmt: skip
def test_a_ledger_refuses_other_systems_until_it_is_told_that_they_moved(
    database_url: str, other: tuple[str, str]
) -> None:
    with Connections(settings(database_url, *A)) as connections:
        connections.ledger.now()
    with Connections(settings(database_url, *other)) as connections:
        with pytest.raises(SettingsError, match=r"belongs to a\.posengine\.prod\.cloud and a\.voyado\.com") as caught:
            _ = connections.ledger
        assert "db adopt" in str(caught.value)
    with Connections(settings(database_url, *A)) as connections:
        owner.adopt(connections.ledger, owner.systems(*other))
    with Connections(settings(database_url, *other)) as connections:
        connections.ledger.now()


@pytest.mark.parametrize("same", [("https://A.Posengine.prod.cloud:443/", A[1]), (A[0], "https://a.voyado.com./")])
def test_the_same_address_written_otherwise_is_the_same_system(database_url: str, same: tuple[str, str]) -> None:
    with Connections(settings(database_url, *A)) as connections:
        connections.ledger.now()
    with Connections(settings(database_url, *same)) as connections:
        connections.ledger.now()


def test_addresses_of_this_machine_are_one_system(database_url: str) -> None:
    for address in ("http://127.0.0.1:1", "http://localhost:2", "http://[::1]:3/sandbox"):
        with Connections(settings(database_url, address, address)) as connections:
            connections.ledger.now()
