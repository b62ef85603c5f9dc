"""Stories: what vendors, shops, processes and servers do in one seed's order, and the settling after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from unittest import mock

from treazure_pipeline.adjustments import queue
from treazure_pipeline.balance_sync import merge, push, staging
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.sandbox import adversary, dialects
from treazure_pipeline_tests.adversary import oracle
from treazure_pipeline_tests.adversary.oracle import Violation
from treazure_pipeline_tests.adversary.stage import Death, Dump, Stage
from treazure_pipeline_tests.balance_sync.dying_run import POINTS

SETTINGS = {
    "ENGAGE_BATCH_SIZE": "5",
    "ENGAGE_CONCURRENCY": "1",
    "TREAZURE_CONCURRENCY": "1",
    "TREAZURE_TIMEOUT_SECONDS": "30",
    "TREAZURE_LOOKUP_WAIT_SECONDS": "60",
    "ENGAGE_VERIFY_GRACE_SECONDS": "1800",
    "GUARD_MAX_SINGLE_CHANGE": "1000000000",
}
SWITCHES = {"apply_delay": 0, "export_polls": 0, "webhook_concurrency": 1, "webhook_wait_scale": 0.0001,
            "max_requests_per_second": 0}  # fmt: skip
BUSINESS = ("hour", "give", "give", "give", "sync", "sync", "adjust", "adjust", "verify", "time")
OWN_KINDS = (
    "contacts_known", "again", "same_id", "poison", "tardy", "death", "cut", "restore", "rollback", "freeze", "crowd",
    "overlap", "ledger_clock", "rate",
)  # fmt: skip
KINDS = (*adversary.KINDS, *OWN_KINDS)
SLOW_RATE = 10
_DEATHS_OF_ADJUSTMENTS = (
    (TreazureClient, "post_transaction", False), (TreazureClient, "post_transaction", True),
    (queue, "settle", False), (queue, "settle", True), (queue, "finish_posted", False),
)  # fmt: skip
_FROZEN = (
    (push, "encode_balances"), (EngageClient, "set_balances"), (TreazureClient, "post_transaction"),
)  # fmt: skip
_WITHIN_AN_EXPORT: Sequence[tuple[Any, str, bool]] = (
    (TreazureClient, "request_balances", True), (staging, "stage", False), (staging, "stage", True),
    (merge, "_merge_slice", True),
)  # fmt: skip
_ROUNDS = 12
_HOUR = 3600.0
_OVERLAP_HOURS = 2.0


@dataclass
class Story:
    """One seed's story. `steps` tells what has happened so far; `watchful`: the oracle is asked after each step."""

    stage: Stage
    seed: int
    kinds: Sequence[str]
    watchful: bool = False
    steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - repeatable on purpose
        self.vendor = [kind for kind in self.kinds if kind in adversary.KINDS]
        self.own = [kind for kind in self.kinds if kind in OWN_KINDS and kind != "rate"]
        self.given: list[tuple[str, str]] = []
        self.blind = self.needs_reading = self.tardy = self.hidden = self.clock_moved = self.rolled_back = self.died = (
            False
        )
        self.dumped: tuple[Dump, int] | None = None
        self.restored = 0
        slow = "rate" in self.kinds and self.chance.random() < (0.07 if len(self.kinds) > 1 else 1)
        self.limit = SLOW_RATE if slow else 0
        # It heals whatever windows and rereads have missed: mostly they have to do without.
        self.weekly = {} if self.chance.random() < 0.3 else {"FULL_RESYNC_CRON": "off"}

    def play(self) -> None:
        """Play all steps and settle; raises Violation."""
        stage, chance = self.stage, self.chance
        members = chance.randint(12, 30)
        behavior = dialects.draw(self.seed) | SWITCHES | {"webhook_url": stage.receivers[0]}
        stage.sandbox.reset(members=members, seed=self.seed, in_step=chance.random() < 0.5, behavior=behavior)
        stage.empty()
        self._set_rate()
        self._do("sync", stage.sync)
        if chance.random() < 0.9:
            self._prove()
        else:
            self.blind = True
        for _ in range(chance.randint(10, 25)):
            self._step()
            if self.watchful:
                oracle.safe(stage.sandbox, self.limit)
        oracle.safe(stage.sandbox, self.limit)
        self._settle()

    def _set_rate(self) -> None:
        environ = SETTINGS | self.weekly | {
            "ENGAGE_MAX_REQUESTS_PER_SECOND": str(self.limit), "TREAZURE_MAX_REQUESTS_PER_SECOND": str(self.limit)
        }  # fmt: skip
        if environ != self.stage.environ:
            self.stage.end_all()
            self.stage.environ = environ

    def _prove(self) -> None:
        """An adjustment as there are many: since then the ledger knows that receipts come back."""
        self._give_step()
        self.stage.process()
        self.stage.clocks.forward(120)
        self.stage.process()

    def _do(self, what: str, act: Callable[[], object]) -> None:
        self.steps.append(what)
        with suppress(PipelineError):
            act()

    def _step(self) -> None:
        choice = self.chance.random()
        if choice < 0.25 and self.vendor:
            trouble = adversary.draw(self.chance, self.vendor)
            self.blind |= trouble.blinds
            self.needs_reading |= trouble.needs_reading
            self.hidden |= trouble.kind == "lagging"
            self._do(str(trouble), lambda: adversary.make(self.stage.sandbox, trouble))
            if trouble.kind == "missing" and self.chance.random() < 0.5:
                self._look_within_a_spell()
        elif choice < 0.45 and self.own:
            getattr(self, f"_{self.chance.choice(self.own)}")()
        else:
            getattr(self, f"_{self.chance.choice(BUSINESS)}_step")()

    def _look_within_a_spell(self) -> None:
        """A call that is lost, and both looks for it, before the spell of 404 is over."""
        self._give_step()
        for _ in range(3):
            self._do("adjust", self.stage.process)
            self._do("time 600", lambda: self.stage.clocks.forward(600))

    # What happens every day.

    def _hour_step(self) -> None:
        changes, joins = self.chance.randint(1, 10), self.chance.randint(0, 2)
        self._do(f"hour {changes} {joins}", lambda: self.stage.sandbox.play_hour(changes=changes, joins=joins))

    def _give_step(self) -> None:
        self._give(f"{self.seed}-{len(self.given)}")

    def _give(self, event: str, contact: str | None = None) -> None:
        contact = contact or self.chance.choice(self._contacts())
        amount = Decimal(self.chance.randint(1, 20_000)) / 100
        self.steps.append(f"give {contact} {amount} ({event})")
        if self.chance.random() < 0.3:
            self.stage.sandbox.behave(webhook_url=self.chance.choice(self.stage.receivers))
        given = self.stage.sandbox.give_points(contact, amount, event_id=event)
        self.stage.sandbox.wait_until_delivered()
        self.given.append((event, given["svix_id"]))

    def _sync_step(self) -> None:
        full = self.chance.random() < 0.1
        self._do(f"sync {full=}", lambda: self.stage.sync(full=full))

    def _adjust_step(self) -> None:
        self._do("adjust", self.stage.process)

    def _verify_step(self) -> None:
        self._do("verify", self.stage.verify)

    def _time_step(self) -> None:
        hours = self.chance.choice([0.02, 0.1, 1.0, 25.0])
        self._do(f"time {hours}", lambda: self.stage.clocks.forward(hours * _HOUR))

    # What goes wrong on this side.

    def _contacts_known(self) -> None:
        contacts = self.chance.sample(self._contacts(), 2)
        known = self.chance.random() < 0.4
        self._do(f"known={known} {contacts}", lambda: self.stage.sandbox.know(contacts, known=known))

    def _again(self) -> None:
        if self.given:
            event, svix_id = self.chance.choice(self.given)
            both = self.chance.random() < 0.5
            again = self.stage.deliver_to_both if both else self.stage.redeliver
            self._do(f"redelivered {event}, to {both=}", lambda: again(svix_id))

    def _same_id(self) -> None:
        if self.given:
            self._give(self.chance.choice(self.given)[0])

    def _poison(self) -> None:
        contacts = self.chance.sample(self._contacts(), 1)
        self._do(f"poison {contacts}", lambda: self.stage.sandbox.behave(poison=contacts))

    def _tardy(self) -> None:
        """Changes that Treazure commits so late that only a full export has them; or just within the overlap."""
        hours, changes = self.chance.choice([1.5, 1.5, 1.5, 3.0, 30.0]), self.chance.randint(1, 5)
        behind = max(0.0, -self.stage.sandbox.behave()["treazure_clock"]) / _HOUR  # the changes carry that clock's time
        self.tardy |= hours + behind > _OVERLAP_HOURS
        self._do(f"an hour of {hours} hours ago, {changes=}",
                 lambda: self.stage.sandbox.play_hour(changes=changes, late=hours * _HOUR))  # fmt: skip

    def _death(self) -> None:
        nth = self.chance.randint(1, 3)
        if self.chance.random() < 0.5:
            owner, name, after = POINTS[self.chance.choice(sorted(POINTS))]
            work: Callable[[], object] = self.stage.sync
        else:
            owner, name, after = self.chance.choice(_DEATHS_OF_ADJUSTMENTS)
            work = self.stage.process
        self.steps.append(f"death at {name} {after=} {nth=}")
        self.died = True
        with self.stage.mortal(), at(owner, name, nth, self.stage.die, after=after), suppress(Death, PipelineError):
            work()
        if self.chance.random() < 0.7:
            self.stage.clocks.forward(60)

    def _cut(self) -> None:
        nth = self.chance.randint(1, 3)
        point = self.chance.choice(["before_the_export_is_asked_for", "after_a_batch_was_claimed", "instead_of_sending",
                                    "between_acceptance_and_folding", "post_transaction"])  # fmt: skip
        self.steps.append(f"connections cut at {point} {nth}")
        self.died = True
        owner, name, after = POINTS.get(point, (TreazureClient, point, self.chance.random() < 0.5))
        with at(owner, name, nth, self.stage.cut, after=after), suppress(PipelineError):
            (self.stage.process if owner is TreazureClient else self.stage.sync)()

    def _restore(self) -> None:
        if self.clock_moved:
            return
        if self.dumped is None:
            self.steps.append("dump")
            self.dumped = self.stage.dump(), len(self.given)
            return
        dump, count = self.dumped
        self.steps.append("restore")
        self.dumped, self.died = None, True
        self.restored += 1
        self.stage.restore(dump, f"server {self.restored}")
        self.stage.clocks.forward(_HOUR)  # a restore takes longer than a request
        for _, svix_id in self.given[count:]:
            self.stage.redeliver(svix_id)

    def _rollback(self) -> None:
        """The disk of the ledger's server is put back to what it held some runs ago; the ledger can't know.

        What Engage was sent since then only a reading tells.
        """
        if self.clock_moved:
            return
        self.steps.append("rollback")
        self.died = self.rolled_back = self.needs_reading = True
        dump = self.stage.dump()
        for work in self.chance.choices([self.stage.process, self.stage.sync], k=2):
            with suppress(PipelineError):
                work()
        self.stage.restore(dump)
        self.stage.clocks.forward(_HOUR)

    def _freeze(self) -> None:
        """A run that stands still before it sends, until its leases have ended and another one has done its work."""
        owner, name = self.chance.choice(_FROZEN)
        self.steps.append(f"a thread frozen before {name}")
        self.died = True
        work = self.stage.process if owner is TreazureClient else self.stage.sync

        def thaw() -> None:
            self.stage.clocks.forward(600)
            self.stage.sandbox.play_hour(changes=10)
            with suppress(PipelineError):
                self.stage.elsewhere("another", work)

        with at(owner, name, 1, thaw), suppress(PipelineError):
            work()

    def _crowd(self) -> None:
        """Several processes at the same moment."""
        stage = self.stage
        self._give_step()
        works = self.chance.choices([stage.sync, stage.process, stage.process, stage.verify], k=3)
        self.steps.append(f"at once: {', '.join(work.__name__ for work in works)}")

        def alone(work: Callable[[], object]) -> None:
            with suppress(PipelineError):
                work()

        stage.at_once(*(lambda work=work: alone(work) for work in works))

    def _overlap(self) -> None:
        """An adjustment and the shops' sales while an export is under way; the same contact gets another one later."""
        contact, full = self.chance.choice(self._contacts()), self.chance.random() < 0.5
        owner, name, after = self.chance.choice(_WITHIN_AN_EXPORT)
        self._give(f"{self.seed}-{len(self.given)}", contact)
        self.steps.append(f"an adjustment and sales while an export is under way, {name} {full=}")

        def meanwhile() -> None:
            self.stage.sandbox.play_hour(changes=5)
            with suppress(PipelineError):
                self.stage.elsewhere("another", self.stage.process)

        with at(owner, name, 1, meanwhile, after=after), suppress(PipelineError):
            self.stage.sync(full=full)
        self._give(f"{self.seed}-{len(self.given)}", contact)

    def _ledger_clock(self) -> None:
        # A ledger that forgot its time stamps and then goes back in time can't know that it does.
        minutes = self.chance.choice([10, 90] if self.rolled_back else [-90, -10, 10, 90])
        self.clock_moved, self.dumped = True, None
        self._do(f"the ledger's clock steps by {minutes} minutes",
                 lambda: self.stage.clocks.move_ledger(60 * minutes))  # fmt: skip
        self.stage.clocks.forward(1.1)  # the second in which it steps forward may see more requests than allowed

    # The end.

    def _settle(self) -> None:
        stage = self.stage
        self.steps.append("settle")
        shown = stage.sandbox.behave()
        adversary.calm(stage.sandbox)
        if shown["history_receipt_length"] != 0:  # how a history shows receipts is no trouble that passes
            stage.sandbox.behave(**{name: shown[name] for name in ("history_receipt_length", "history_receipt_case")})
        stage.clocks.set_right()
        stage.sandbox.wait_until_delivered()
        unknown = [row["contactId"] for row in stage.sandbox.balances(limit=1000) if not row["known"]]
        if unknown:
            stage.sandbox.know(unknown, known=True)
        self._until_equal([stage.process, lambda: stage.sync(full=self.tardy)], "runs")
        self._until_equal([stage.verify, stage.sync, stage.process], "reading back")
        oracle.settled(stage.sandbox, self.limit)

    def _until_equal(self, works: Sequence[Callable[[], object]], by: str) -> None:
        last: PipelineError | None = None
        for _ in range(_ROUNDS):
            self.stage.clocks.forward(25 * _HOUR)
            try:
                for work in works:
                    work()
                last = None
            except PipelineError as error:
                last = error
                continue
            self._decide()
            if not self._under_way() and self.stage.sandbox.differences()["equal"]:
                return
        if last is not None:
            raise Violation("a run fails when nothing is wrong any more", repr(last))
        oracle.safe(self.stage.sandbox, self.limit)
        if by == "reading back" or not self.needs_reading:
            states = self.stage.sql("select event_id, contact, state, reason from adjustment where finished_at is null")
            raise Violation(f"{by} did not make the systems equal", (self.stage.sandbox.differences(), states))

    def _decide(self) -> None:
        """Decide, as a person who can look into Treazure, what nobody else could; where it was decidable, complain."""
        rows = self.stage.sql(
            "select id, event_id, contact::text, amount, state, reason from adjustment "
            "where state in ('uncertain', 'rejected')"
        )
        if not rows:
            return
        # Another event under an id goes by names of its own, at the sandbox and in the queue.
        given = self.stage.sandbox.adjustment_report(every=True)["events"].values()
        events = {(_id(one["event_id"]), one["contactId"], Decimal(one["amount"])): one for one in given}
        for number, event, contact, amount, state, reason in rows:
            found = events.get((_id(event), contact, amount))
            touched = self.died or found is None or found["unanswered"]
            if not (self.blind and touched if state == "uncertain" else self.hidden and "No such account" in reason):
                raise Violation(f"an event is {state} without need", (event, reason, found))
            with self.stage.connect() as connections:
                if found is not None and found["booked"]:
                    queue.discard(connections.ledger, number, "already booked in Treazure", posted=True)
                else:
                    queue.retry(connections.ledger, number)

    def _under_way(self) -> bool:
        return bool(self.stage.sql("select 1 from adjustment where finished_at is null limit 1"))

    def _contacts(self) -> list[str]:
        return self.stage.sandbox.contact_ids()


def _id(event: str) -> str:
    return event.partition("#")[0]


@contextmanager
def at(owner: Any, name: str, nth: int, act: Callable[[], None], *, after: bool = False) -> Iterator[None]:
    """Have something happen at the n-th call of a function, before it or after it."""
    original, left = getattr(owner, name), [nth]

    def passing(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        turn = left[0] == 0
        if turn and not after:
            act()
        result = original(*arguments, **keywords)
        if turn and after:
            act()
        return result

    with mock.patch.object(owner, name, passing):
        yield
