from __future__ import annotations

from treazure_pipeline_tests.balance_sync.shop import one_sandbox
from treazure_pipeline_tests.verification.watch import new_watch, watch

__all__ = ["new_watch", "one_sandbox", "watch"]
