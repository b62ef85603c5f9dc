from __future__ import annotations

from treazure_pipeline_tests.balance_sync.shop import new_shop, one_sandbox, shop
from treazure_pipeline_tests.point_migration.migration_shop import migration_shop, new_migration_shop

__all__ = ["migration_shop", "new_migration_shop", "new_shop", "one_sandbox", "shop"]
