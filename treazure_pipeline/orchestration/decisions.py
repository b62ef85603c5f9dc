"""Jobs for decisions in Dagster's launchpad. They call the same functions as the commands and the console.

What can be decided is in each capability's `decision_definitions`.
See https://docs.dagster.io/guides/operate/configuration/run-configuration
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TypeVar, get_type_hints

import dagster as dg
from pydantic import Field

from treazure_pipeline.connections import Connections
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.orchestration import forms, story
from treazure_pipeline.orchestration.names import Names, at_most

DECISION = {"treazure_pipeline/decision": "1"}
"""Marks these jobs. A person waits for the answer, so a failed one raises no alert."""

LONGEST = 500

C = TypeVar("C", bound=forms.Form)


class Decided(forms.Form):
    """Who decides, and why. Both are recorded with the decision."""

    decided_by: str = Field(description="Your name, for the record.", min_length=1, max_length=200)
    reason: str = Field(description="Why, for the record.", min_length=1, max_length=LONGEST)


class Numbered(Decided):
    """Which ones, by the numbers that `adjustments list` and the console show."""

    numbers: list[int] = Field(description="Their numbers.", min_length=1)


def decision(names: Names, carry_out: Callable[[Connections, C], str], *, op: str | None = None) -> dg.JobDefinition:
    """Return the job of this function's name, which calls it with its form and shows the sentence that it returns.

    The function's docstring is the job's description. If it can't be done, the run fails with one sentence.
    """
    name, description = carry_out.__name__, inspect.getdoc(carry_out)
    config: type[C] = get_type_hints(carry_out)["config"]

    @dg.op(name=op or f"decide_{name}", description=description, config_schema=forms.schema(config))
    def decide(context: dg.OpExecutionContext, connections: dg.ResourceParam[Connections]) -> None:
        with story.step(context, connections.listener):
            told = carry_out(connections, forms.filled(context, config))
            context.add_output_metadata(story.told(context, connections.listener, told))

    @dg.job(
        name=names.of(name),
        executor_def=dg.in_process_executor,
        tags=DECISION | at_most(hours=1),
        description=description,
    )
    def decided() -> None:
        decide()

    return decided


def each(numbers: Sequence[int], change: Callable[[int], bool], done: str) -> str:
    """Change each of these, and return what was done for which. Raises SettingsError if it was done for none."""
    changed = [number for number in dict.fromkeys(numbers) if change(number)]
    others = [str(number) for number in dict.fromkeys(numbers) if number not in changed]
    if not changed:
        raise SettingsError(f"Nothing was done: none of {', '.join(others) or 'them'} is in a state that allows this.")
    told = f"{', '.join(map(str, changed))}: {done}."
    return told + (f" Their state does not allow it: {', '.join(others)}." if others else "")


def is_decision(job: dg.JobDefinition) -> bool:
    """Return whether a job of the code location is one of these."""
    return DECISION.items() <= job.tags.items()
