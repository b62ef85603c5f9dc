"""What the process has imported from which the others are forked; none of it is looked through for garbage again."""

from __future__ import annotations

import gc
from importlib import import_module

gc.disable()
for _name in (
    "treazure_pipeline.cli",
    "treazure_pipeline.cli.doctor",
    "treazure_pipeline.cli.run",
    "treazure_pipeline.definitions",
    "treazure_pipeline_tests.adjustments.victim",
    "treazure_pipeline_tests.points_history.dying_refresh",
    "treazure_pipeline_tests.point_migration.victim",
    "treazure_pipeline_tests.balance_sync.dying_run",
    "treazure_pipeline_tests.verification.dying_verification",
):
    import_module(_name)
gc.freeze()
gc.enable()
