"""Progress of long work: how much of what total, how fast, and the time left; without a total, the time passed."""

from __future__ import annotations

from datetime import timedelta

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from treazure_pipeline.terminal import output


class HowFar(ProgressColumn):
    """``24% of 5,000, 340/s, 0:00:11 left``: on one line at 80 columns, whatever comes before it."""

    def render(self, task: Task) -> Text:
        """Leave out what is not known yet; where that is all of it, tell the time that has passed."""
        if task.total is None:
            return Text(str(timedelta(seconds=int(task.elapsed or 0))))
        told = f"{task.percentage:.0f}% of {task.total:,.0f}"
        if task.speed:
            told += f", {task.speed:,.0f}/s" if task.speed >= 1 else f", {task.speed * 3600:,.0f}/h"
        if task.time_remaining:
            told += f", {timedelta(seconds=round(task.time_remaining))} left"
        return Text(told)


def bar() -> Progress:
    """Return a bar on standard error that disappears when it is done; it gives way where the line is short."""
    filling = BarColumn(bar_width=None, table_column=Column(max_width=20))
    columns = (TextColumn("{task.description}"), filling, HowFar(Column(no_wrap=True)))
    return Progress(*columns, console=output.progress(), transient=True)
