"""The demo's act about drift: what Engage lost or changed by itself is found by reading back, and healed by a push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from treazure_pipeline.cli import output
from treazure_pipeline.cli.run import run_balance_sync, run_verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from treazure_pipeline.sandbox import Sandbox
    from treazure_pipeline.settings import Programme, Settings

BY_HAND = 25
REMOVED = 5
_SHOWN = ("read", "equal", "drift", "missing", "marked", "healed", "outstanding_drift", "outstanding_missing")


def play(box: Sandbox, settings: Settings) -> dict[str, Any]:
    """Let Engage swallow rows, change balances there by hand, find it all, heal it; `status` says whether that worked.

    The two systems are in step when it begins and when it ends. Without a grace time, as Engage's job here is quick.
    """
    (programme,) = settings.programmes
    settings = settings.model_copy(update={"engage_verify_grace_seconds": 0.0})
    steps: list[tuple[str, dict[str, Any]]] = []

    box.apply_queue()
    steps.append(("in step", run_verify(settings, programme)))
    contacts = [row["contactId"] for row in box.balances(limit=1000) if row["engage"] not in {None, "0"}]
    box.set_fault("swallowed", share=0.5, count=None)
    box.play_hour(share=0.01)
    synced = run_balance_sync(settings, programme, {})
    box.clear_faults("swallowed")
    box.set_engage_balances(dict.fromkeys(contacts[:BY_HAND], "1.23"))
    box.set_engage_balances(dict.fromkeys(contacts[BY_HAND : BY_HAND + REMOVED]))
    box.apply_queue()
    output.note(
        f"Engage accepts {synced.get('sent', 0)} changes and swallows half of them; "
        f"{BY_HAND} balances are changed and {REMOVED} accounts removed in Engage by hand."
    )
    differing = box.differences()["differing"]
    steps.append(("after the drift", run_verify(settings, programme)))
    healing = run_balance_sync(settings, programme, {})
    box.apply_queue()
    steps.append(("after the next push", run_verify(settings, programme)))

    _print(steps, differing)
    plot = draw(settings, programme, settings.home / "drift.png")
    output.say(f"Plotted in {plot}")
    found, after = steps[1][1], steps[2][1]
    healed = (
        found.get("drift", 0) + found.get("missing", 0) == differing == after.get("healed")
        and box.differences()["equal"]
    )
    runs = [synced, healing, *(result for _, result in steps)]
    failed = [run for run in runs if run["status"] != "ok"]
    return {"status": "ok" if healed and not failed else "failed", "differing": differing, "plot": str(plot)}


def _print(steps: Sequence[tuple[str, dict[str, Any]]], differing: int) -> None:
    table = Table("", *(title for title, _ in steps), box=None)
    for name in ("status", *_SHOWN):
        table.add_row(name.replace("_", " "), *(str(result.get(name, "")) for _, result in steps))
    output.say("")
    output.say(f"What reading back from Engage found ({differing} balances differed)")
    output.console().print(table)


def draw(settings: Settings, programme: Programme, path: Path) -> Path:
    """Plot what each recorded verification found and healed, and what was outstanding after it; return the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from treazure_pipeline.connections import Connections
    from treazure_pipeline.ledger import frames

    with Connections(settings) as connections:
        runs = frames.verification_runs(connections.ledger, connections.ledger.account(programme))
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(runs))
    axes.bar(places, runs["drift"], label="drift", color="#c44e52")
    axes.bar(places, runs["missing"], bottom=runs["drift"], label="missing", color="#dd8452")
    axes.bar(places, -runs["healed"], label="healed", color="#55a868")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(list(places), [f"{moment:%H:%M:%S}" for moment in runs["started_at"]])
    axes.set_xlabel("verification run (UTC)")
    axes.set_ylabel("contacts")
    axes.set_title(f"Programme {programme.name}: Engage's balances that differed, and that were equal again")
    axes.legend()
    figure.savefig(path)
    return path
