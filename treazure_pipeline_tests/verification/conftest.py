from __future__ import annotations

from treazure_pipeline_tests.balance_sync.shop import one_sandbox
from treazure_pipeline_tests.verification.verification_shop import new_verification_shop, verification_shop

__all__ = ["new_verification_shop", "one_sandbox", "verification_shop"]
