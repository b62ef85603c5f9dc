"""Checks that only read the ledger. Each can be run on its own after a repair, without a request to either system.

Each capability decides what they check (`definitions`). A check of what one run did (for example, that its rows add up)
stays with the asset, which yields the result.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import dagster as dg

from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.orchestration import failures


@dataclass(frozen=True)
class LedgerChecks:
    """An asset's checks, which `look` evaluates. `described`: name → description."""

    asset: dg.AssetKey
    described: Mapping[str, str]
    look: Callable[[Ledger], Iterable[dg.AssetCheckResult]]

    def definition(self) -> dg.AssetChecksDefinition:
        """Return them for Dagster, which runs them after the asset, or on their own when asked to."""

        @dg.multi_asset_check(
            name="__".join([*self.asset.path, "checks"]),
            specs=[
                dg.AssetCheckSpec(name, asset=self.asset, description=text) for name, text in self.described.items()
            ],
            can_subset=True,
        )
        def checks(
            context: dg.AssetCheckExecutionContext, connections: dg.ResourceParam[Connections]
        ) -> Iterator[dg.AssetCheckResult]:
            asked = {key.name for key in context.selected_asset_check_keys}
            with failures.shown(connections.listener):
                yield from [result for result in self.look(connections.ledger) if result.check_name in asked]

        return checks

    @contextmanager
    def also_if_it_fails(self, context: dg.AssetExecutionContext, connections: Connections) -> Iterator[None]:
        """Evaluate them even if the asset's step, this block, fails. Dagster would skip them."""
        try:
            yield
        except dg.Failure:
            with suppress(PipelineError):
                for result in self.look(connections.ledger):
                    context.instance.report_runless_asset_event(
                        dg.AssetCheckEvaluation(
                            asset_key=self.asset,
                            check_name=str(result.check_name),
                            passed=result.passed,
                            metadata=result.metadata,
                            severity=result.severity,
                            description=result.description,
                        )
                    )
            raise
