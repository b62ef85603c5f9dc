"""Trouble that the vendors make, drawn from a seed: faults and switches of the sandbox, by kind.

This module covers what the vendors do. What the product does meanwhile is in `treazure_pipeline_tests.adversary`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from treazure_pipeline.sandbox.behavior import Behavior

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from treazure_pipeline.sandbox.client import Sandbox


@dataclass(frozen=True)
class Trouble:
    """Faults to set, and switches to change.

    `blinds`: the outcome of an unanswered call may stay undecidable; `needs_reading`: only reading back shows it.
    """

    kind: str
    faults: tuple[Mapping[str, Any], ...] = ()
    switches: Mapping[str, Any] = field(default_factory=dict)
    blinds: bool = False
    needs_reading: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {[dict(one) for one in self.faults] or ''}{dict(self.switches) or ''}"


def _lost(chance: random.Random) -> Trouble:
    on = chance.choice(["transaction", "transaction", "set_balances", "export_request", "history", "account"])
    return Trouble("lost", (_some(chance, chance.choice(["lost_before", "lost_after"]), on),))


def _burst(chance: random.Random) -> Trouble:
    name = chance.choice(["server_error", "rate_limited", "html"])
    on = chance.choice(["transaction", "set_balances", "account", "history", "export_result", "read_accounts"])
    more = {"seconds": 0} if name == "rate_limited" else {}
    if name == "server_error":
        more = {"status": chance.choice([500, 502, 503, 504]), "effect": chance.random() < 0.3}
    return Trouble("burst", (_some(chance, name, on) | more,))


def _missing(chance: random.Random) -> Trouble:
    """A lost answer, and a gateway that finds neither the history nor the account for a while."""
    spell = {"name": "server_error", "on": ["history", "account"], "status": 404, "count": chance.choice([2, 12, 60])}
    lost = {"name": chance.choice(["lost_before", "lost_after"]), "on": ["transaction"], "count": 1}
    return Trouble("missing", (lost, spell), blinds=True)


def _rubbish(chance: random.Random) -> Trouble:
    name = chance.choice(["bad_rows", "duplicates", "truncated", "rubbish", "empty", "not_array", "export_expired"])
    if name == "rubbish":
        rows = ['{"accountNumber":"?","balance":"?"}'] * chance.randint(1, 5)
        return Trouble("rubbish", ({"name": "bad_rows", "raw_rows": rows, "count": 1},))
    return Trouble("rubbish", ({"name": name, "count": chance.randint(1, 2)},))


def _late(chance: random.Random) -> Trouble:
    """Histories that lag behind their accounts."""
    switches = {"history_calls": chance.randint(0, 2), "history_delay": chance.choice([0, 90, 600])}
    return Trouble("late", switches=switches)


def _lagging(chance: random.Random) -> Trouble:
    """Replicas that show a change only after a while. Only the transaction's own answer has it at once."""
    return Trouble("lagging", switches={"commit_delay": chance.choice([0, 5, 20])})


def _slow(chance: random.Random) -> Trouble:
    """Engage's job runs late, and leaves out some of what was accepted."""
    swallowed: dict[str, Any] = {"name": "swallowed", "share": chance.choice([0.5, 1]), "count": chance.randint(1, 3)}
    faults = (swallowed,) if chance.random() < 0.5 else ()
    return Trouble("slow", faults, {"apply_delay": chance.choice([0, 60, 1500])}, needs_reading=bool(faults))


def _token(chance: random.Random) -> Trouble:
    on = chance.choice(["export_request", "export_result", "account", "transaction", "history"])
    return Trouble("token", (_some(chance, "token_expired", on),))


def _clock(chance: random.Random) -> Trouble:
    clock = chance.choice(["treazure_clock", "engage_clock"])
    return Trouble("clock", switches={clock: chance.randint(-90, 90) * 60})


def _receipts(chance: random.Random) -> Trouble:
    length, case = chance.choice([None, 20, 0]), chance.choice(["kept", "lower", "upper"])
    lost = {"name": chance.choice(["lost_before", "lost_after"]), "on": ["transaction"], "count": 1}
    switches = {"history_receipt_length": length, "history_receipt_case": case}
    return Trouble("receipts", (lost,), switches, blinds=length == 0)


def _backdated(chance: random.Random) -> Trouble:
    lost = {"name": chance.choice(["lost_before", "lost_after"]), "on": ["transaction"], "count": 1}
    return Trouble("backdated", (lost,), {"history_backdated": chance.choice([60, 3600, 86400])})


def _webhooks(chance: random.Random) -> Trouble:
    name = chance.choice(["delivered_twice", "webhook_answer_lost"])
    return Trouble("webhooks", ({"name": name, "count": chance.randint(1, 3)},))


def _some(chance: random.Random, name: str, on: str) -> dict[str, Any]:
    return {"name": name, "on": [on], "count": chance.randint(1, 4), "after": chance.randint(0, 2)}


_DRAWN: dict[str, Callable[[random.Random], Trouble]] = {
    "lost": _lost, "burst": _burst, "missing": _missing, "rubbish": _rubbish, "late": _late, "lagging": _lagging,
    "slow": _slow,    "token": _token, "clock": _clock, "receipts": _receipts, "backdated": _backdated,
    "webhooks": _webhooks,
}  # fmt: skip
KINDS = tuple(_DRAWN)
"""All kinds of trouble."""
_CALM = (
    "history_calls", "history_delay", "commit_delay", "apply_delay", "treazure_clock", "engage_clock",
    "history_receipt_length", "history_receipt_case", "history_backdated", "poison",
)  # fmt: skip


def draw(chance: random.Random, kinds: Sequence[str]) -> Trouble:
    """Draw one trouble of these kinds."""
    return _DRAWN[chance.choice(kinds)](chance)


def make(sandbox: Sandbox, trouble: Trouble) -> None:
    """Start some trouble in a running sandbox."""
    if trouble.switches:
        sandbox.behave(**trouble.switches)
    for fault in trouble.faults:
        sandbox.set_fault(**fault)


def calm(sandbox: Sandbox) -> None:
    """End all trouble; its effects stay."""
    sandbox.clear_faults()
    fields = Behavior.model_fields
    sandbox.behave(**{name: fields[name].get_default(call_default_factory=True) for name in _CALM} | {"apply_delay": 0})
