"""What commands that read or decide work on: the ledger, with nothing set but its database.

Belongs here: whatever asks neither system. Does not: what calls one, or runs in Dagster, and so needs all settings.
"""

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
    """An open ledger, and the settings that say which part of it is asked for."""

    ledger: Ledger
    settings: LedgerSettings

    def programmes(self, names: Sequence[str]) -> list[Programme]:
        """Return the programmes of these names, or all: of the settings, else those that the ledger has.

        Raises SettingsError for a name that is none of them, and where there is none at all.
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
        """Return these programmes as the ledger has them; one of the settings that it has not gets its row."""
        return [self.ledger.find(programme) or self.ledger.account(programme) for programme in self.programmes(names)]


@contextmanager
def at_ledger(settings: LedgerSettings | None = None, *, connections: int = 2) -> Iterator[AtLedger]:
    """Open the ledger for what needs no system; the embedded server is started where that is used.

    Args:
        settings: Those of the environment, unless given.
        connections: How many the ledger may open.

    Raises:
        SettingsError: What is set is wrong, or the ledger belongs to other systems than those that are set.
        DatabaseError: The ledger can't be used, or its schema is not one of this version.
    """
    settings = settings or load_ledger()
    with Ledger(ready(settings), connections=connections) as ledger:
        if (systems := systems_of(settings)) is not None:
            owner.check(ledger, systems)
        yield AtLedger(ledger, settings)


def ready(settings: LedgerSettings) -> str:
    """Return the ledger's URL, its schema fit for this version; the embedded server is started where that is used."""
    url = instance.locate(settings).ledger_url
    if settings.is_embedded:
        instance.say_where(settings.home)
        embedded.start(settings.home)
        schema.upgrade(url)
    else:
        schema.check(url)
    return url


def systems_of(settings: LedgerSettings) -> owner.Systems | None:
    """Return the two systems that are set, None where one is not."""
    if settings.treazure_base_url is None or settings.engage_base_url is None:
        return None
    return owner.systems(settings.treazure_base_url, settings.engage_base_url)


def run_url(run_id: str | None) -> str | None:
    """Return where the Dagster UI shows a run; None where nobody has said where the UI is."""
    base = os.environ.get("DAGSTER_WEBSERVER_URL", "").rstrip("/")
    return f"{base}/runs/{run_id}" if base and run_id else None
