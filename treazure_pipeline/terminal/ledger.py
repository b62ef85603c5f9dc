"""The ledger, for commands that only read or decide. They call neither system, and only need the database's address."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from treazure_pipeline.database import embedded, schema
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import owner
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.settings import LedgerSettings, Programme, load_ledger
from treazure_pipeline.terminal import instance


@dataclass(frozen=True)
class AtLedger:
    """An open ledger, and the settings that say which part of it to use."""

    ledger: Ledger
    settings: LedgerSettings

    def programmes(self, names: Sequence[str]) -> list[Programme]:
        """Return the programmes with these names, or all: those in the settings, or else those in the ledger.

        Raises SettingsError for an unknown name, or if there are no programmes at all.
        """
        settings = self.settings
        if not settings.programmes:
            settings = settings.model_copy(update={"programmes": tuple(self.ledger.programmes())})
        if not settings.programmes:
            raise SettingsError(
                "The ledger has no programme yet.", hint="Run a sync first: `treazure-pipeline run balance-sync`."
            )
        return settings.chosen(names)

    def accounts(self, names: Sequence[str]) -> list[Account]:
        """Return these programmes as the ledger knows them. One that is not in the ledger yet is added."""
        return [self.ledger.find(programme) or self.ledger.account(programme) for programme in self.programmes(names)]


@contextmanager
def at_ledger(settings: LedgerSettings | None = None, *, connections: int = 2) -> Iterator[AtLedger]:
    """Open the ledger for work that needs neither system. If the embedded server is used, it is started.

    Args:
        settings: By default, those of the environment.
        connections: How many connections the ledger may open.

    Raises:
        SettingsError: The settings are wrong, or the ledger belongs to other systems.
        DatabaseError: The ledger can't be used, or its schema does not fit this version.
    """
    settings = settings or load_ledger()
    with Ledger(ready(settings), connections=connections) as ledger:
        if (systems := systems_of(settings)) is not None:
            owner.check(ledger, systems)
        yield AtLedger(ledger, settings)


def ready(settings: LedgerSettings) -> str:
    """Return the URL of the ledger, with a schema that fits. If the embedded server is used, it is started."""
    url = instance.locate(settings).ledger_url
    if settings.is_embedded:
        instance.say_where(settings.home)
        embedded.start(settings.home)
        schema.upgrade(url)
    else:
        schema.check(url)
    return url


def systems_of(settings: LedgerSettings) -> owner.Systems | None:
    """Return the two systems in the settings; None if one is missing."""
    if settings.treazure_base_url is None or settings.engage_base_url is None:
        return None
    return owner.systems(settings.treazure_base_url, settings.engage_base_url)


def run_url(run_id: str | None) -> str | None:
    """Return where the Dagster UI shows a run; None if DAGSTER_WEBSERVER_URL is not set."""
    base = os.environ.get("DAGSTER_WEBSERVER_URL", "").rstrip("/")
    return f"{base}/runs/{run_id}" if base and run_id else None
