from __future__ import annotations

from treazure_pipeline_tests.balance_sync.shop import new_shop, one_sandbox, shop

__all__ = ["new_shop", "one_sandbox", "shop"]
