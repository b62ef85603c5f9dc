"""A shop whose points are read back from Engage, an hour after the other or at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from treazure_pipeline.connections import Run
from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline.verification import rounds
from treazure_pipeline.verification.read_back import MOST_CONTACTS, Verified, verify
from treazure_pipeline.verification.rounds import Standing
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of

AT_ONCE = {"ENGAGE_VERIFY_GRACE_SECONDS": "0"}


@dataclass
class VerificationShop(Shop):
    """A shop with runs of the verification, by default without a grace time."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that works here."""
        return {**super().variables, **AT_ONCE, **self.environ}

    def verify(self, *, complete: bool = True, most: int = MOST_CONTACTS, **changes: str) -> Verified:
        """Run the verification once, as the job does; look at so many contacts."""
        with self.connect("verification_connections", **changes) as connections:
            run = Run.of(connections, connections.settings.programmes[0], uuid.uuid4().hex)
            verified = verify(run, most_contacts=most)
        if complete:
            assert verified.error is None
        return verified

    def standing(self) -> Standing:
        """What is outstanding."""
        with self.connect() as connections:
            return rounds.standing(connections.ledger, account_of(connections))

    def grace_passes(self, seconds: float = 3600) -> None:
        """Let so much time pass for what Engage has accepted."""
        self.sql("update batch set answered_at = answered_at - %s", timedelta(seconds=seconds))

    def marked(self) -> dict[str, Decimal]:
        """The contacts that are marked for sending again, and with which balance."""
        return dict(self.sql("select contact::text, master from pending where marked order by 1"))

    def verdicts(self) -> dict[str, str]:
        """The last verdict on each contact."""
        return dict(self.sql("select contact::text, verdict from verification"))

    def members(self, count: int) -> list[str]:
        """So many members with points."""
        rows = self.sandbox.balances(limit=1000)
        return [row["contactId"] for row in rows if Decimal(row["treazure"] or 0) > 0 and row["known"]][:count]

    def drift_by_hand(self, count: int = 5, points: str = "1.23") -> list[str]:
        """Change what Engage holds of some members, in Engage."""
        contacts = self.sandbox.contact_ids(count)
        self.sandbox.set_engage_balances(dict.fromkeys(contacts, points))
        return contacts


@pytest.fixture
def new_verification_shop(one_sandbox: Sandbox, database_url: str) -> Callable[..., VerificationShop]:
    """Makes the shop of a test: `members` and other seeds, switches of the sandbox as `behavior`."""

    def new(
        *,
        members: int = 80,
        environ: dict[str, str] | None = None,
        behavior: dict[str, Any] | None = None,
        **seed: Any,
    ) -> VerificationShop:
        switches = {"apply_delay": 0, "export_polls": 0, "max_requests_per_second": 0}
        one_sandbox.reset(members=members, behavior=switches | (behavior or {}), **seed)
        return VerificationShop(one_sandbox, database_url, environ or {})

    return new


@pytest.fixture
def verification_shop(new_verification_shop: Callable[..., VerificationShop]) -> VerificationShop:
    """A shop of 80 members whose points have been synced."""
    shop = new_verification_shop()
    shop.sync()
    return shop
