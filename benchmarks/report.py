"""What the runs come to: a table of times and ratios, the targets, a plot."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN = "<!-- results: written by the benchmark -->"
END = "<!-- end of results -->"
PHASES = ("export", "merge", "push")


@dataclass(frozen=True)
class Results:
    """Every run, and the sizes that the targets are about."""

    runs: list[dict[str, Any]]
    changes: int
    base: int
    small: int
    middle: int
    rate: int

    def of(self, kind: str, changes: int, base: int, rate: int = 0) -> dict[str, Any]:
        """Return the run of median time among the repeated ones."""
        same = [
            run
            for run in self.runs
            if (run["kind"], run["changes"], run["base"], run["rate"]) == (kind, changes, base, rate)
        ]
        return sorted(same, key=lambda run: float(run["seconds"]))[(len(same) - 1) // 2]

    def seconds(self, kind: str, changes: int, base: int, rate: int = 0) -> float:
        """Return the median time."""
        return float(self.of(kind, changes, base, rate)["seconds"])

    @property
    def repeats(self) -> int:
        """How often each was measured."""
        return sum((run["kind"], run["changes"]) == ("job", 0) for run in self.runs)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (changes, base) with changes."""
        return sorted({(run["changes"], run["base"]) for run in self.runs if run["changes"]}, key=lambda s: s[::-1])

    def markdown(self) -> str:
        """Return all of it as Markdown."""
        return "\n".join([*machine(self.repeats), "", *self.table(), "", *self.limited(), "", *self.targets()])

    def table(self) -> list[str]:
        """Times, ratios and memory at every size."""
        columns = (
            "changed", "ledger", "(a) bare client, s", "(b) plain script, s", "pipeline, s", "pipeline ÷ (a)",
            "(b) ÷ pipeline", "export + stage, s", "merge, s", "push, s", "folding in it, s",
            "peak MB", "peak MB of (b)",
        )  # fmt: skip
        lines = [f"| {' | '.join(columns)} |", "|" + "--:|" * len(columns)]
        for changes, base in self.sizes:
            ours = self.of("pipeline", changes, base)
            bare = self.seconds("floor", changes, base)
            script = self.of("plain", changes, base)
            lines.append(
                f"| {changes:,} | {base:,} | {bare:.2f} | {script['seconds']:.2f} | **{ours['seconds']:.2f}** "
                f"| {ours['seconds'] / bare:.1f} | {script['seconds'] / ours['seconds']:.1f} | "
                + " | ".join(f"{ours['phases'][phase]:.2f}" for phase in PHASES)
                + f" | {ours['fold']:.2f} | {ours['peak_mb']:.0f} | {script['peak_mb']:.0f} |"
            )
        return lines

    def limited(self) -> list[str]:
        """What one line says best."""
        ours = self.of("pipeline", self.changes, self.base, self.rate)
        idle = self.of("pipeline", 0, self.base)
        phases = ", ".join(f"{name} {ours['phases'][name]:.1f}" for name in PHASES)
        dagster = self.seconds("job", 0, self.base) - idle["seconds"]
        said = (
            f"Under {self.rate} requests a second, {self.changes:,} changed of {self.base:,}: {ours['seconds']:.1f} s "
            f"({phases}; folding goes on during the push), peak {ours['peak_mb']:.0f} MB.\n\n"
            f"An hour without changes against {self.base:,}: {idle['seconds']:.2f} s, {idle['requests']} requests to "
            f"Engage. Dagster adds {dagster:.1f} s to it: the job in one process on PostgreSQL storage, less the "
            "domain code; with the checks, samples and figures that the UI shows."
        )
        return [said]

    def targets(self) -> list[str]:
        """Each target beside what was measured."""
        rate_seconds = self.changes / 1000 / self.rate
        limited = self.of("pipeline", self.changes, self.base, self.rate)
        ours = self.of("pipeline", self.changes, self.base)
        small = self.of("pipeline", self.small, self.base)
        idle = self.of("pipeline", 0, self.base)
        at = f"{self.changes:,} of {self.base:,}"
        few = f"{self.small:,} of {self.base:,}"
        rows: list[tuple[str, float, str, float | None, float | None]] = [
            (f"{at} at {self.rate}/s: time ÷ {rate_seconds:.0f} s, which the rate dictates",
             limited["seconds"] / rate_seconds, "≤", 1.5, 1.08),
            (f"{at} at {self.rate}/s: seconds from the export's last byte to the first request",
             limited["waited"], "≤", None, 1),
            (f"{at} at {self.rate}/s: peak MB of the process", limited["peak_mb"], "≤", 400, None),
            (f"{at}: time ÷ (a)", ours["seconds"] / self.seconds("floor", self.changes, self.base), "≤", 10, 5),
            (f"{at}: CPU seconds of the pipeline and PostgreSQL", ours["cpu"], "≤", None, 9),
            (f"{at}: (b) ÷ time", self.times_the_script(self.changes, self.base), "≥", 1, None),
            (f"{self.changes:,} of {self.changes:,}: (b) ÷ time",
             self.times_the_script(self.changes, self.changes), "≥", None, 2),
            (f"{few}: (b) ÷ time", self.times_the_script(self.small, self.base), "≥", 5, 9),
            (f"{self.small:,} of {self.middle:,}: (b) ÷ time",
             self.times_the_script(self.small, self.middle), "≥", None, 2),
            (f"{self.small:,}: time against {self.base:,} ÷ against {self.middle:,}",
             small["seconds"] / self.seconds("pipeline", self.small, self.middle), "≤", 2.5, None),
            (f"{few}: sequential scans of the ledger", small["scans"], "≤", 0, None),
            ("an hour without changes: seconds", idle["seconds"], "≤", 1, None),
            ("an hour without changes: requests to Engage", idle["requests"], "≤", 0, None),
        ]  # fmt: skip
        return [
            "| | measured | target | | next target | |",
            "|---|--:|--:|---|--:|---|",
            *(
                f"| {what} | {value:.3g} | {judged(value, sign, first)} | {judged(value, sign, following)} |"
                for what, value, sign, first, following in rows
            ),
        ]

    def times_the_script(self, changes: int, base: int) -> float:
        """Return how many times as long (b) took."""
        return self.seconds("plain", changes, base) / self.seconds("pipeline", changes, base)

    def write(self, docs: Path) -> None:
        """Put the results into docs/benchmarks.md, between its markers, and draw the plot."""
        write_between(docs / "benchmarks.md", self.markdown())
        self.plot(docs / "benchmarks.svg")

    def plot(self, path: Path) -> None:
        """Draw the time by phase at the sizes of the grid, beside the floor and the plain script."""
        import matplotlib as mpl

        mpl.use("svg")
        mpl.rcParams["svg.hashsalt"] = "benchmarks"
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, len(self.sizes), figsize=(2.3 * len(self.sizes), 3.6), layout="constrained")
        colors = {"export": "#4c78a8", "merge": "#72b7b2", "push": "#54a24b"}
        for plot, (changes, base) in zip(axes, self.sizes, strict=True):
            plot.bar(0, self.seconds("floor", changes, base), color="#bab0ac")
            bottom = 0.0
            for phase, color in colors.items():
                value = self.of("pipeline", changes, base)["phases"][phase]
                plot.bar(1, value, bottom=bottom, color=color, label=phase)
                bottom += value
            plot.bar(2, self.seconds("plain", changes, base), color="#e45756")
            plot.set_xticks([0, 1, 2], ["bare\nclient", "pipeline", "plain\nscript"], fontsize=8)
            plot.set_title(f"{changes:,}\nof {base:,}", fontsize=9)
            plot.spines[["top", "right"]].set_visible(False)
            plot.tick_params(axis="y", labelsize=8)
        axes[0].set_ylabel("seconds")
        axes[-1].legend(fontsize=8, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def judged(value: float, sign: str, wanted: float | None) -> str:
    """Return two cells: the target, and whether it was met."""
    if wanted is None:
        return " | "
    met = value <= wanted if sign == "≤" else value >= wanted
    return f"{sign} {wanted:g} | {'met' if met else '**missed**'}"


def machine(repeats: int) -> list[str]:
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    python = platform.python_version()
    cores = os.cpu_count()
    return [
        f"{cores} cores, {memory:.0f} GB of memory, {platform.system()}, Python {python}; "
        + (f"medians of {repeats} runs." if repeats > 1 else "one run each.")
    ]


def write_between(page: Path, text: str) -> None:
    """Put results into a page, between its markers."""
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
