"""What an operator can set, read from the environment in one place and checked before any work.

`models` has the settings, `values` the kinds of values, `programmes` the one programme or those of the YAML file, and
`loading` reads them. Nothing is read at import; whoever starts something calls :func:`load_settings`.
"""

from treazure_pipeline.settings.loading import load_console, load_ledger, load_receiver, load_settings, load_storage
from treazure_pipeline.settings.models import (
    ConsoleSettings,
    Guards,
    LedgerSettings,
    MasterSettings,
    Programme,
    ReceiverSettings,
    Settings,
    Storage,
)
from treazure_pipeline.settings.values import Role

__all__ = [
    "ConsoleSettings",
    "Guards",
    "LedgerSettings",
    "MasterSettings",
    "Programme",
    "ReceiverSettings",
    "Role",
    "Settings",
    "Storage",
    "load_console",
    "load_ledger",
    "load_receiver",
    "load_settings",
    "load_storage",
]
