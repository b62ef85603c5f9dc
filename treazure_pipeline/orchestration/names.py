"""What Dagster's things are called: the tenant first, then the programme where there are several.

Two retailers on one Dagster instance share nothing, since no key, job, pool or group of theirs is called alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from treazure_pipeline.settings import Programme, Settings

# How runs queue: adjustments before syncs, and both before what has time, of which dagster.yaml lets only some run.
FIRST = {"dagster/priority": "10"}
BACKGROUND = {"dagster/priority": "-10", "treazure_pipeline/background": "1"}
# Marks runs whose process is a command, which Dagster's run monitoring can't watch.
FOREGROUND = {"treazure_pipeline/foreground": "1"}


def at_most(**duration: float) -> dict[str, str]:
    """Return the tag by which Dagster ends a run after so many `hours` or `days`, long after it should have ended."""
    return {"dagster/max_runtime": str(round(timedelta(**duration).total_seconds()))}


@dataclass(frozen=True)
class Names:
    """Puts a tenant, and a programme, before every name; either may be missing."""

    tenant: str | None = None
    programme: str | None = None

    @property
    def parts(self) -> list[str]:
        """What stands before each name."""
        return [part for part in (self.tenant, self.programme) if part]

    @property
    def shared(self) -> Names:
        """The names of what all programmes of the tenant share."""
        return Names(self.tenant)

    def key(self, name: str) -> dg.AssetKey:
        """Return an asset's key."""
        return dg.AssetKey([*self.parts, name])

    def of(self, name: str) -> str:
        """Return the name of a job, a schedule, a sensor or a pool."""
        return "_".join([*self.parts, name])

    def op(self, asset: str) -> str:
        """Return the name under which run config finds an asset."""
        return "__".join([*self.parts, asset])

    def url(self, ui: str, *asset: str) -> str:
        """Return where Dagster shows these assets, or one of them."""
        return "/".join([ui, "assets", *self.parts, *asset])

    def group(self, name: str) -> str:
        """Return the name of a group of assets: the programme's where there are several, else the capability's."""
        return "_".join(self.parts) if self.programme else self.of(name)


def names_of(settings: Settings, programme: Programme | None = None) -> Names:
    """Return the names of a programme's things, or of what all programmes share."""
    named = programme is not None and settings.prefixed and not programme.keeps_names
    return Names(settings.tenant, programme.name if programme is not None and named else None)
