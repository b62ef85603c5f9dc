"""What commands read: the ledger, with nothing set but its database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from treazure_pipeline.database import embedded, schema
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import owner
from treazure_pipeline.ledger.store import Account, Ledger
from treazure_pipeline.settings import Programme, ReadingSettings, load_reading
from treazure_pipeline.terminal import instance


@dataclass(frozen=True)
class Reading:
    """An open ledger, and the settings that say which part of it is asked for."""

    ledger: Ledger
    settings: ReadingSettings

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
def reading(settings: ReadingSettings | None = None, *, connections: int = 2) -> Iterator[Reading]:
    """Open the ledger for what needs no system; the embedded server is started where that is used.

    Args:
        settings: Those of the environment, unless given.
        connections: How many the ledger may open.

    Raises:
        SettingsError: What is set is wrong, or the ledger belongs to other systems than those that are set.
        DatabaseError: The ledger can't be used.
    """
    settings = settings or load_reading()
    url = instance.locate(settings).ledger_url
    if settings.is_embedded:
        embedded.start(settings.home)
        schema.upgrade(url)
    with Ledger(url, connections=connections) as ledger:
        if settings.treazure_base_url and settings.engage_base_url:
            owner.check(ledger, owner.systems(settings.treazure_base_url, settings.engage_base_url))
        yield Reading(ledger, settings)


def run_url(run_id: str | None) -> str | None:
    """Return where the Dagster UI shows a run; None where nobody has said where the UI is."""
    base = os.environ.get("DAGSTER_WEBSERVER_URL", "").rstrip("/")
    return f"{base}/runs/{run_id}" if base and run_id else None
