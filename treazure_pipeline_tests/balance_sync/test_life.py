"""Random life: changes in the shop, runs, deaths of runs, faults of both systems, clocks, played against a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from treazure_pipeline.balance_sync import push, readings
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline_tests.balance_sync.dying_run import POINTS, die_at
from treazure_pipeline_tests.balance_sync.shop import Shop, account_of, assert_in_step, assert_well_behaved, run_of
from treazure_pipeline_tests.effort import EFFORT

MEMBERS = 60
OUTSIDE_TRANSACTIONS = POINTS.keys() - {"in_the_middle_of_the_export", "in_the_middle_of_the_merge"}
FAULTS = ["lost_before", "lost_after", "server_error", "rate_limited", "truncated", "duplicates", "bad_rows", "html"]

settings.register_profile(
    "life",
    max_examples=6 * EFFORT,
    stateful_step_count=14,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


class Death(BaseException):
    """What a killed process would be, were it not this one."""


class Life(RuleBasedStateMachine):
    """The model is a dictionary: what each contact has in Treazure."""

    shop: Shop
    new_ledger: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Decimal] = {}
        self.contacts: list[str] = []

    @initialize(seed=st.integers(1, 1000), unknown=st.sampled_from([0, 0.05]))
    def begin(self, seed: int, unknown: float) -> None:
        self.shop.sandbox.reset(
            members=MEMBERS, seed=seed, unknown_share=unknown, behavior={"apply_delay": 0, "export_polls": 0}
        )
        type(self).new_ledger()
        self.read_model()

    def read_model(self) -> None:
        rows = self.shop.sandbox.balances(limit=10_000)
        self.contacts = [row["contactId"] for row in rows]
        self.model = {row["contactId"]: Decimal(row["treazure"]) for row in rows if row["treazure"] is not None}

    @rule(changes=st.integers(1, 30), joins=st.integers(0, 3))
    def an_hour_passes(self, changes: int, joins: int) -> None:
        self.shop.sandbox.play_hour(changes=changes, joins=joins)
        self.read_model()

    @rule(which=st.integers(0, MEMBERS - 1), points=st.decimals(0, 10**6, places=2))
    def points_are_set(self, which: int, points: Decimal) -> None:
        contact = self.contacts[which]
        self.shop.sandbox.set_points({contact: points})
        self.model[contact] = points

    @rule(which=st.integers(0, MEMBERS - 1), points=st.decimals("0.01", 1000, places=2))
    def points_are_added(self, which: int, points: Decimal) -> None:
        contact = self.contacts[which]
        self.shop.sandbox.add_points({contact: points})
        self.model[contact] = self.model.get(contact, Decimal(0)) + points

    @rule(name=st.sampled_from(FAULTS), count=st.integers(1, 3), after=st.integers(0, 3))
    def something_goes_wrong(self, name: str, count: int, after: int) -> None:
        parameters = {"seconds": 0} if name == "rate_limited" else {}
        self.shop.sandbox.set_fault(name, count=count, after=after, **parameters)

    @rule(which=st.lists(st.integers(0, MEMBERS - 1), max_size=3))
    def rows_are_poisonous(self, which: list[int]) -> None:
        self.shop.sandbox.behave(poison=[self.contacts[number] for number in which])

    @rule(which=st.integers(0, MEMBERS - 1), known=st.booleans())
    def engage_learns_or_forgets_a_contact(self, which: int, known: bool) -> None:  # noqa: FBT001
        self.shop.sandbox.know([self.contacts[which]], known=known)

    @rule(minutes=st.integers(-90, 90))
    def treazure_s_clock_is_set(self, minutes: int) -> None:
        self.shop.sandbox.behave(treazure_clock=minutes * 60)

    @rule()
    def refused_rows_are_due(self) -> None:
        self.shop.sql("update pending set next_try = now()")

    @rule(full=st.booleans())
    def a_run(self, full: bool) -> None:  # noqa: FBT001
        with suppress(PipelineError):
            self.shop.sync(full=full, complete=False)

    @rule(point=st.sampled_from(sorted(POINTS)), nth=st.integers(1, 3))
    def a_run_that_dies(self, point: str, nth: int) -> None:
        def die() -> None:
            raise Death

        owner, name, _ = POINTS[point]
        with mock.patch.object(owner, name, getattr(owner, name)):
            die_at(point, nth, die)
            with suppress(Death, PipelineError):
                self.shop.sync(complete=False)
        self.shop.leases_end()

    @rule(
        point=st.sampled_from(sorted(OUTSIDE_TRANSACTIONS)),
        nth=st.integers(1, 3),
        which=st.integers(0, MEMBERS - 1),
        points=st.decimals(0, 10**6, places=2),
    )
    def a_run_beside_which_one_contact_is_read_and_sent(
        self, point: str, nth: int, which: int, points: Decimal
    ) -> None:
        contact = self.contacts[which]

        def beside() -> None:
            self.points_are_set(which, points)
            with suppress(PipelineError), self.shop.connect() as other:
                account, asked = account_of(other), other.ledger.now()
                balance = other.treazure.account_balance(contact, account.loyalty_id)
                assert balance is not None
                readings.record_account(other.ledger, account, contact, balance, asked, "other")
                push.push_contacts(run_of(other, account, "other"), [contact])

        owner, name, _ = POINTS[point]
        with mock.patch.object(owner, name, getattr(owner, name)):
            die_at(point, nth, beside)
            with suppress(PipelineError):
                self.shop.sync(complete=False)

    @invariant()
    def nothing_wrong_was_seen(self) -> None:
        if self.contacts:
            assert_well_behaved(self.shop)

    def teardown(self) -> None:
        if not self.contacts:
            return
        sandbox = self.shop.sandbox
        sandbox.clear_faults()
        sandbox.behave(poison=[], treazure_clock=0)
        self.shop.sql("update pending set next_try = now()")
        self.shop.sync(complete=False)
        unknown = [row["contactId"] for row in sandbox.balances(limit=10_000) if not row["known"]]
        sandbox.know(unknown, known=True)
        self.shop.sql("update pending set next_try = now()")
        self.shop.sync()
        assert self.shop.pending() == {}
        assert self.shop.known_master() == self.model
        held = {row["contactId"]: Decimal(row["engage"] or 0) for row in sandbox.balances(limit=10_000)}
        assert {contact: held[contact] for contact in self.model} == self.model
        assert_in_step(self.shop)
        self.shop.sandbox.forget()
        assert self.shop.sync().pushed.requests == 0


@pytest.mark.chance
@pytest.mark.timeout(300 * EFFORT)
def test_whatever_happens_both_systems_agree_in_the_end(
    one_sandbox: Sandbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(one_sandbox, database_url, {"ENGAGE_BATCH_SIZE": "10", "ENGAGE_CONCURRENCY": "3"})
    monkeypatch.setattr(Life, "shop", shop, raising=False)
    monkeypatch.setattr(
        Life,
        "new_ledger",
        staticmethod(
            lambda: shop.sql(
                "truncate programme, observation, ledger, pending, change, reread, vanished, rejection, batch cascade"
            )
        ),
        raising=False,
    )
    run_state_machine_as_test(Life, settings=settings.get_profile("life"))
