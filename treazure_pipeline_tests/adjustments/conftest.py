from __future__ import annotations

from treazure_pipeline_tests.adjustments.adjustment_shop import (
    _adjustment_sandbox,
    adjustment_shop,
    new_adjustment_shop,
)

__all__ = ["_adjustment_sandbox", "adjustment_shop", "new_adjustment_shop"]
