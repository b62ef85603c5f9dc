from __future__ import annotations

from treazure_pipeline_tests.balance_sync.shop import new_shop, one_sandbox, shop
from treazure_pipeline_tests.point_migration.move import move, new_move

__all__ = ["move", "new_move", "new_shop", "one_sandbox", "shop"]
