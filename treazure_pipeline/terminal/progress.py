"""How far long work has got: how much of how much, how fast, and the time left. Hidden until the total is known."""

from __future__ import annotations

from datetime import timedelta

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from treazure_pipeline.terminal import output


class HowFar(ProgressColumn):
    """``1,200 of 5,000, 340 a second, 0:00:11 left``."""

    def render(self, task: Task) -> Text:
        """Leave out what is not known yet."""
        if task.total is None:
            return Text("")
        told = f"{task.completed:,.0f} of {task.total:,.0f}"
        if task.speed:
            told += f", {task.speed:,.0f} a second" if task.speed >= 1 else f", {task.speed * 3600:,.0f} an hour"
        if task.time_remaining:
            told += f", {timedelta(seconds=round(task.time_remaining))} left"
        return Text(told)


def bar() -> Progress:
    """Return a bar on standard error that disappears when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), HowFar(), TimeElapsedColumn())
    return Progress(*columns, console=output.progress(), transient=True)
