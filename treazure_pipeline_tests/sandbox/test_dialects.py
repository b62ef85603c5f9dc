from __future__ import annotations

import pytest

from treazure_pipeline.sandbox import Sandbox
from treazure_pipeline.sandbox.__main__ import parse_behavior
from treazure_pipeline.sandbox.behavior import Behavior
from treazure_pipeline.sandbox.dialects import DIALECTS, draw


def test_a_seed_draws_the_same_dialects_again_and_many_draw_every_value() -> None:
    assert draw(7) == draw(7)
    drawn = [draw(seed) for seed in range(200)]
    assert {name: {one[name] for one in drawn} for name in DIALECTS} == {
        name: set(values) for name, values in DIALECTS.items()
    }


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in DIALECTS.items() for value in values])
def test_every_value_of_every_dialect_can_be_set_from_the_command_line(name: str, value: object) -> None:
    found = getattr(parse_behavior([f"{name}={value}"]), name)
    assert (found, type(found)) == (value, type(value))


def test_the_sandbox_lists_its_dialects_and_speaks_as_drawn(sandbox: Sandbox) -> None:
    listed = sandbox.dialects()
    assert listed.keys() == DIALECTS.keys()
    assert all(one["does"] and one["now"] == one["default"] for one in listed.values())
    drawn = sandbox.draw_dialects(3)
    assert {name: one["now"] for name, one in sandbox.dialects().items()} == drawn


def test_a_switch_on_the_command_line_goes_before_what_is_drawn() -> None:
    assert parse_behavior(["upper_case=true"], dialects=3) == Behavior.model_validate(draw(3) | {"upper_case": True})
