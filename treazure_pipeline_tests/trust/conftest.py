from __future__ import annotations

from treazure_pipeline_tests.orchestration.test_job import execute
from treazure_pipeline_tests.sync.shop import new_shop, one_sandbox, shop

__all__ = ["execute", "new_shop", "one_sandbox", "shop"]
