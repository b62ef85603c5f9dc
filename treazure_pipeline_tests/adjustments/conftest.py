from __future__ import annotations

from treazure_pipeline_tests.adjustments.desk import _desk_sandbox, desk, new_desk

__all__ = ["_desk_sandbox", "desk", "new_desk"]
