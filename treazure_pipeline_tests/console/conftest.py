"""A console on loopback, over a ledger of this test."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from treazure_pipeline.console.app import build_app
from treazure_pipeline.console.desk import Desk, looking
from treazure_pipeline.database import schema
from treazure_pipeline.settings import load_console
from treazure_pipeline.terminal.ledger import at_ledger
from treazure_pipeline_tests.adjustments.conftest import _adjustment_sandbox, adjustment_shop, new_adjustment_shop
from treazure_pipeline_tests.balance_sync.shop import new_shop, one_sandbox, shop
from treazure_pipeline_tests.console.provider import CLIENT, SECRET, Provider, provider
from treazure_pipeline_tests.console.serving import served
from treazure_pipeline_tests.point_migration.migration_shop import migration_shop, new_migration_shop

__all__ = [
    "_adjustment_sandbox",
    "adjustment_shop",
    "migration_shop",
    "new_adjustment_shop",
    "new_migration_shop",
    "new_shop",
    "one_sandbox",
    "shop",
]

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TOKEN = re.compile(r'name="form" value="([^"]+)"')


@dataclass(frozen=True)
class Browser:
    """What a browser does without showing anything: it keeps cookies and follows redirects."""

    url: str
    client: httpx.Client

    def get(self, path: str = "/", headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.client.get(f"{self.url}{path}", headers=headers)

    def post(self, path: str, page: str = "/", **fields: str | list[str]) -> httpx.Response:
        """Send the form of a page of the console."""
        token = _TOKEN.search(self.get(page).text)
        assert token, "the page has no form"
        return self.client.post(f"{self.url}{path}", data={"form": token[1], **fields})


Console = Callable[..., Browser]


@pytest.fixture
def console(database_url: str) -> Iterator[Console]:
    """Starts consoles with these settings, and returns a browser for each."""
    with ExitStack() as stack:

        def start(headers: Mapping[str, str] | None = None, **settings: str) -> Browser:
            def make(url: str) -> object:
                given = {"TREAZURE_PIPELINE_DATABASE_URL": database_url, "CONSOLE_URL": url, **settings}
                read = load_console(given)
                opened = stack.enter_context(at_ledger(read, connections=4))
                treazure = stack.enter_context(looking(read, opened.ledger))
                return build_app(Desk(opened, read, partial(schema.check, database_url), treazure))

            url = stack.enter_context(served(make))  # type: ignore[arg-type]
            client = httpx.Client(verify=_NO_TLS, follow_redirects=True, headers=headers, timeout=60)
            return Browser(url, stack.enter_context(client))

        yield start


@pytest.fixture
def as_role(console: Console) -> Callable[..., Browser]:
    """Starts a console behind a proxy that says somebody has this role; returns their browser."""

    def start(role: str, **settings: str) -> Browser:
        return console(
            {"X-Forwarded-Email": f"{role}@shop.example"},
            CONSOLE_AUTH="proxy",
            CONSOLE_PROXY_ADDRESSES="127.0.0.1",
            CONSOLE_ROLES=f"{role}@shop.example={role}",
            **settings,
        )

    return start


@pytest.fixture
def oidc() -> Iterator[Provider]:
    with provider() as made:
        yield made


def oidc_settings(made: Provider, **more: str) -> dict[str, str]:
    return {
        "CONSOLE_AUTH": "oidc",
        "CONSOLE_OIDC_ISSUER": made.url,
        "CONSOLE_OIDC_CLIENT_ID": CLIENT,
        "CONSOLE_OIDC_CLIENT_SECRET": SECRET,
        "CONSOLE_ROLES": "loyalty=operator, anna@shop.example=approver",
        **more,
    }
