from __future__ import annotations

from treazure_pipeline_tests.migration.move import move, new_move
from treazure_pipeline_tests.sync.shop import new_shop, one_sandbox, shop

__all__ = ["move", "new_move", "new_shop", "one_sandbox", "shop"]
