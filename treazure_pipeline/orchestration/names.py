"""The names of things in Dagster: first the tenant, then the programme if there are several.

Two retailers on one Dagster instance share nothing, since none of their keys, jobs, pools or groups have the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from treazure_pipeline.settings import Programme, Settings

# How runs queue: adjustments before syncs, and both before background work, of which dagster.yaml limits the number.
FIRST = {"dagster/priority": "10"}
BACKGROUND = {"dagster/priority": "-10", "treazure_pipeline/background": "1"}
# Marks runs whose process is a command, which Dagster's run monitoring can't watch.
FOREGROUND = {"treazure_pipeline/foreground": "1"}


def at_most(**duration: float) -> dict[str, str]:
    """Return the tag that makes Dagster end a run after some `hours` or `days`, long after it should have ended."""
    return {"dagster/max_runtime": str(round(timedelta(**duration).total_seconds()))}


OF_RUNS = frozenset({*at_most(hours=1), *BACKGROUND})


@dataclass(frozen=True)
class Names:
    """Puts a tenant and a programme before every name. Either may be missing."""

    tenant: str | None = None
    programme: str | None = None

    @property
    def parts(self) -> list[str]:
        """The prefixes of each name."""
        return [part for part in (self.tenant, self.programme) if part]

    @property
    def shared(self) -> Names:
        """The names for what all programmes of the tenant share."""
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
        """Return the name of a group of assets: the programme's if there are several, otherwise the capability's."""
        return "_".join(self.parts) if self.programme else self.of(name)


def names_of(settings: Settings, programme: Programme | None = None) -> Names:
    """Return the names for a programme, or for what all programmes share."""
    named = programme is not None and settings.prefixed and not programme.keeps_names
    return Names(settings.tenant, programme.name if programme is not None and named else None)
