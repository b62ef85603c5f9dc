from __future__ import annotations

from treazure_pipeline_tests.cli.conftest import environment, run

__all__ = ["environment", "run"]
