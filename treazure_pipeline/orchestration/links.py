"""Links on an asset's page in Dagster to its runbook, its page in the console, and its code.

The addresses come from the settings. Without them, the runbook is shown as a path in the repository, and the code is
not linked.
"""

import warnings
from typing import Any

import dagster as dg
from dagster_shared.record import copy

from treazure_pipeline.settings import Settings


def linked(definitions: dg.Definitions, settings: Settings, capability: str, page: str, console: str) -> dg.Definitions:
    """Add the links to every asset: a `page` of docs/, a path of the console, and the capability's definitions."""
    metadata: dict[str, Any] = {"runbook": f"docs/{page}"}
    if (source := settings.source_url) is not None:
        metadata["runbook"] = dg.MetadataValue.url(f"{source}/docs/{page}")
        code = f"treazure_pipeline/{capability}/definitions.py"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # the version of Dagster is pinned
            reference = dg.UrlCodeReference(url=f"{source}/{code}", label=code)
            metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(code_references=[reference])
    if settings.console_url is not None:
        metadata["console"] = dg.MetadataValue.url(settings.console_url + console)
    assets: Any = definitions.assets
    return copy(definitions, assets=dg.map_asset_specs(lambda spec: spec.merge_attributes(metadata=metadata), assets))
