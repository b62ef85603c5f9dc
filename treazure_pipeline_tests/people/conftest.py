from __future__ import annotations

from treazure_pipeline_tests.adjustments.desk import _desk_sandbox, desk, new_desk
from treazure_pipeline_tests.alerts.conftest import new_target, target

__all__ = ["_desk_sandbox", "desk", "new_desk", "new_target", "target"]
