from __future__ import annotations

from treazure_pipeline_tests.balance_sync.shop import new_shop, one_sandbox, shop
from treazure_pipeline_tests.orchestration.test_job import execute

__all__ = ["execute", "new_shop", "one_sandbox", "shop"]
