from __future__ import annotations

from treazure_pipeline_tests.adjustments.adjustment_shop import (
    _adjustment_sandbox,
    adjustment_shop,
    new_adjustment_shop,
)
from treazure_pipeline_tests.alerts.conftest import new_target, target

__all__ = ["_adjustment_sandbox", "adjustment_shop", "new_adjustment_shop", "new_target", "target"]
