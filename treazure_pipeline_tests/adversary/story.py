"""Stories: what vendors, shops, processes and servers do in one seed's order, and the settling after it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from unittest import mock

import psycopg
import sqlalchemy as sa
from psycopg import sql

from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import PipelineError
from treazure_pipeline.ledger import adjustments as queue
from treazure_pipeline.sandbox import Sandbox, adversary, running_sandbox
from treazure_pipeline.sandbox.behaviour import Behaviour
from treazure_pipeline_tests.adjustments.desk import Desk, running_receiver
from treazure_pipeline_tests.adversary import oracle
from treazure_pipeline_tests.adversary.mutants import without
from treazure_pipeline_tests.adversary.oracle import Violation
from treazure_pipeline_tests.sync.dying_run import POINTS, die_at
from treazure_pipeline_tests.verification.watch import Watch

SETTINGS = {
    "ENGAGE_BATCH_SIZE": "5",
    "ENGAGE_CONCURRENCY": "1",
    "TREAZURE_CONCURRENCY": "1",
    "ENGAGE_MAX_REQUESTS_PER_SECOND": str(oracle.MOST_REQUESTS),
    "GUARD_MAX_SINGLE_CHANGE": "1000000000",
}
SWITCHES = {"apply_delay": 0, "export_polls": 0, "webhook_concurrency": 1, "webhook_wait_scale": 0.001}
BUSINESS = ("hour", "give", "give", "give", "sync", "sync", "adjust", "adjust", "verify", "time")
_DEATHS_OF_ADJUSTMENTS = (
    (TreazureClient, "post_transaction", False), (TreazureClient, "post_transaction", True),
    (queue, "settle", False), (queue, "settle", True), (queue, "finish_posted", False),
)  # fmt: skip
_ROUNDS = 12


class Death(BaseException):
    """What a killed process would be, were it not this one."""


@dataclass
class Stage(Desk, Watch):
    """A desk whose points are read back, too, with a server on which its ledger can be dumped and restored."""

    given: list[tuple[str, str]] = field(default_factory=list)
    """Each event given: its own id, and that of its message."""

    def _on_server(self, statement: str, *names: str) -> None:
        server = sa.make_url(self.database_url).set(database="postgres").render_as_string(hide_password=False)
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    @property
    def _name(self) -> str:
        return str(sa.make_url(self.database_url).database)

    def cut(self) -> None:
        """Cut every connection to the ledger."""
        self.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )

    def dump(self, name: str) -> None:  # type: ignore[override]
        """Keep a copy of the ledger."""
        for _ in range(20):
            self.cut()
            with suppress(psycopg.errors.ObjectInUse):
                self._on_server("drop database if exists {} with (force)", name)
                self._on_server("create database {} template {}", name, self._name)
                return
        raise TimeoutError("the ledger could not be dumped: somebody is always connected")

    def restore(self, name: str) -> None:
        """Put a copy of the ledger in its place, as after the loss of its server."""
        self._on_server("drop database if exists {} with (force)", self._name)
        self._on_server("create database {} template {}", self._name, name)

    def drop(self, name: str) -> None:
        """Throw a copy away."""
        self._on_server("drop database if exists {} with (force)", name)

    def time_goes_by(self, hours: float) -> None:
        """Let time pass for all that the ledger remembers."""
        self.time_passes(hours)
        self.later(hours * 3600)
        self.grace_passes(hours * 3600)


@dataclass
class Story:
    """One seed's story. `steps` tells what has happened so far."""

    stage: Stage
    seed: int
    kinds: Sequence[str]
    empty: str
    steps: list[str] = field(default_factory=list)
    undecidable: set[str] = field(default_factory=set)
    blind: bool = False
    dumped_at: int | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - repeatable on purpose
        self.vendor = [kind for kind in self.kinds if kind in adversary.KINDS]
        self.copy = f"{self.stage._name}_dump"  # noqa: SLF001

    def play(self) -> None:
        """Play all steps and settle; raises Violation."""
        members = self.chance.randint(12, 30)
        stage = self.stage
        stage.sandbox.reset(members=members, seed=self.seed, in_step=self.chance.random() < 0.5,
                            behaviour=SWITCHES | {"webhook_url": stage.receiver_url})  # fmt: skip
        stage.restore(self.empty)
        stage.given.clear()
        self._do("sync", self._sync)
        for _ in range(self.chance.randint(10, 25)):
            self._step()
            oracle.safe(stage.sandbox)
        self._settle()

    def _do(self, what: str, act: Callable[[], object]) -> None:
        self.steps.append(what)
        with suppress(PipelineError):
            act()

    def _step(self) -> None:
        own = [kind for kind in self.kinds if kind not in adversary.KINDS]
        choice = self.chance.random()
        if choice < 0.25 and self.vendor:
            trouble = adversary.draw(self.chance, self.vendor)
            self.blind |= trouble.blinds
            self._do(str(trouble), lambda: adversary.make(self.stage.sandbox, trouble))
        elif choice < 0.45 and own:
            kind = self.chance.choice(own)
            getattr(self, f"_{kind}")()
        else:
            getattr(self, f"_{self.chance.choice(BUSINESS)}_step")()

    # What happens every day.

    def _hour_step(self) -> None:
        changes, joins = self.chance.randint(1, 10), self.chance.randint(0, 2)
        self._do(f"hour {changes} {joins}", lambda: self.stage.sandbox.play_hour(changes=changes, joins=joins))

    def _give_step(self) -> None:
        contact = self.chance.choice(self._contacts())
        amount = Decimal(self.chance.randint(1, 20_000)) / 100
        event = f"{self.seed}-{len(self.stage.given)}"
        self.steps.append(f"give {contact} {amount} ({event})")
        given = self.stage.sandbox.give_points(contact, amount, event_id=event)
        self.stage.sandbox.wait_until_delivered()
        self.stage.given.append((event, given["svix_id"]))

    def _sync_step(self) -> None:
        full = self.chance.random() < 0.1
        self._do(f"sync {full=}", lambda: self._sync(full=full))

    def _adjust_step(self) -> None:
        self._do("adjust", self.stage.process)

    def _verify_step(self) -> None:
        self._do("verify", lambda: self.stage.verify(complete=False))

    def _time_step(self) -> None:
        hours = self.chance.choice([0.1, 1.0, 25.0])
        self._do(f"time {hours}", lambda: self.stage.time_goes_by(hours))

    # What goes wrong on this side.

    def _contacts_known(self) -> None:
        contacts = self.chance.sample(self._contacts(), 2)
        known = self.chance.random() < 0.4
        self._do(f"known={known} {contacts}", lambda: self.stage.sandbox.know(contacts, known=known))

    def _again(self) -> None:
        if self.stage.given:
            event, svix_id = self.chance.choice(self.stage.given)
            self._do(f"redelivered {event}", lambda: self._redeliver([svix_id], 2))

    def _death(self) -> None:
        nth = self.chance.randint(1, 3)
        if self.chance.random() < 0.5:
            point = self.chance.choice(sorted(POINTS))
            owner, name, after = POINTS[point]
            work: Callable[[], object] = self._sync
        else:
            owner, name, after = self.chance.choice(_DEATHS_OF_ADJUSTMENTS)
            point, work = f"{name} {after}", self.stage.process
        self.steps.append(f"death at {point} {nth}")

        def die() -> None:
            raise Death

        with mock.patch.object(owner, name, getattr(owner, name)):
            _call_at(owner, name, nth, die, after=after)
            with suppress(Death, PipelineError):
                work()
        self.stage.leases_end()

    def _cut(self) -> None:
        nth = self.chance.randint(1, 3)
        point = self.chance.choice(["before_the_export_is_asked_for", "after_a_batch_was_claimed",
                                    "instead_of_sending", "between_acceptance_and_folding"])  # fmt: skip
        self.steps.append(f"connections cut at {point} {nth}")
        owner, name, _ = POINTS[point]
        with mock.patch.object(owner, name, getattr(owner, name)):
            die_at(point, nth, self.stage.cut)
            with suppress(PipelineError):
                self._sync()

    def _restore(self) -> None:
        if self.dumped_at is None:
            self.dumped_at = len(self.stage.given)
            self._do("dump", lambda: self.stage.dump(self.copy))
            return
        missed = [svix_id for _, svix_id in self.stage.given[self.dumped_at :]]
        self._do("restore", lambda: self.stage.restore(self.copy))
        self.stage.time_goes_by(1)  # a restore takes longer than a request
        self.dumped_at = None
        self._redeliver(missed, 1)

    def _freeze(self) -> None:
        """A run that stands still before it sends, until its leases have ended and another one has done its work."""
        self.steps.append("a thread frozen between claim and send")
        owner, name, _ = POINTS["instead_of_sending"]

        def thaw() -> None:
            self.stage.sql("update lease set expires_at = clock_timestamp() - interval '1 minute'")
            self.stage.leases_end()
            _CLOCK.forward(600)
            self.stage.sandbox.play_hour(changes=10)
            with suppress(PipelineError):
                self._sync()

        with mock.patch.object(owner, name, getattr(owner, name)):
            die_at("instead_of_sending", 1, thaw)
            with suppress(PipelineError):
                self._sync()

    # The end.

    def _settle(self) -> None:
        stage = self.stage
        self.steps.append("settle")
        adversary.calm(stage.sandbox)
        stage.sandbox.wait_until_delivered()
        unknown = [row["contactId"] for row in stage.sandbox.balances(limit=1000) if not row["known"]]
        if unknown:
            stage.sandbox.know(unknown, known=True)
        last: PipelineError | None = None
        for _ in range(_ROUNDS):
            stage.time_goes_by(25)
            try:
                stage.process()
                self._sync()
                stage.verify(complete=False)
                last = None
            except PipelineError as error:
                last = error
                continue
            oracle.safe(stage.sandbox)
            if not self._under_way() and stage.sandbox.differences()["equal"]:
                break
        if last is not None:
            raise Violation("a run fails when nothing is wrong any more", repr(last))
        uncertain = stage.sql("select event_id from adjustment where state = 'uncertain'")
        if self.blind:
            self.undecidable = {event for (event,) in uncertain}
        oracle.settled(stage.sandbox, self.undecidable)

    def _under_way(self) -> bool:
        return bool(self.stage.sql("select 1 from adjustment where finished_at is null limit 1"))

    def _sync(self, *, full: bool = False) -> None:
        self.stage.sync(full=full, complete=False)

    def _contacts(self) -> list[str]:
        return self.stage.sandbox.contact_ids()

    def _redeliver(self, svix_ids: Sequence[str], times: int) -> None:
        for svix_id in svix_ids:
            self.stage.sandbox.redeliver(svix_id, times)
        self.stage.sandbox.wait_until_delivered()


OWN_KINDS = ("contacts_known", "again", "death", "cut", "restore", "freeze")
KINDS = (*(kind for kind in adversary.KINDS), *OWN_KINDS)
HOLDING = ("lost", "burst", "webhooks", "clock", "again", "death")
"""The kinds that CI plays."""
_NEEDS = {"receipts": "history_receipt_length", "backdated": "history_backdated"}


def playable(kinds: Sequence[str] = KINDS) -> list[str]:
    """Return those of these kinds that the sandbox can play."""
    return [kind for kind in kinds if kind not in _NEEDS or _NEEDS[kind] in Behaviour.model_fields]


class Player:
    """Plays stories, one after the other, on one sandbox, one receiver and one database of an empty ledger."""

    def __init__(self, sandbox: Sandbox, database_url: str, receiver_url: str) -> None:
        self.stage = Stage(sandbox, database_url, SETTINGS, receiver_url)
        self._empty = f"{self.stage._name}_empty"  # noqa: SLF001
        self.stage.dump(self._empty)

    def play(self, seed: int, kinds: Sequence[str], part: str | None = None) -> str | None:
        """Play one story; return what went wrong, ready to be read, or None."""
        story = Story(self.stage, seed, playable(kinds), self._empty)
        try:
            with without(part):
                story.play()
        except (Violation, PipelineError, AssertionError, psycopg.Error) as error:
            told = "\n  ".join(story.steps)
            again = f"python -m treazure_pipeline_tests.adversary --seed {seed} --kinds {','.join(kinds)}"
            return f"seed {seed}: {type(error).__name__}: {error}\n  {told}\nagain: {again}"
        return None

    def close(self) -> None:
        """Throw the copies away."""
        self.stage.drop(self._empty)
        self.stage.drop(f"{self.stage._name}_dump")  # noqa: SLF001


@contextmanager
def player(database_url: str) -> Iterator[Player]:
    """A player on an empty ledger, with a sandbox and a receiver of its own."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(running_sandbox(members=0))
        stack.enter_context(_CLOCK.running())
        receiver_url = stack.enter_context(running_receiver(database_url))
        playing = Player(sandbox, database_url, receiver_url)
        try:
            yield playing
        finally:
            playing.close()
            sandbox.reset(members=0)


class _Clock:
    """The monotonic clock of this process, which can jump: what a process that stood still would read."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def forward(self, seconds: float) -> None:
        self._ahead += seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        import time  # noqa: PLC0415

        real = time.monotonic

        def shown() -> float:
            return real() + self._ahead

        with mock.patch.object(time, "monotonic", shown):
            yield


_CLOCK = _Clock()


def _call_at(owner: Any, name: str, nth: int, die: Callable[[], None], *, after: bool) -> None:
    original = getattr(owner, name)
    left = [nth]

    def passing(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            die()
        result = original(*arguments, **keywords)
        if left[0] == 0 and after:
            die()
        return result

    setattr(owner, name, passing)


def fresh_seed() -> int:
    """A seed that nobody has played."""
    return uuid.uuid4().int % 10**9
