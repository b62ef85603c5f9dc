"""The demo's drift part: reading back finds what Engage lost or changed by itself, and a push heals it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from treazure_pipeline.cli.run import run_balance_sync, run_verify
from treazure_pipeline.terminal import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from treazure_pipeline.sandbox import Sandbox
    from treazure_pipeline.settings import Programme, Settings

CONTACTS = 60
BY_HAND = 15
REMOVED = 5
MOST_MEMBERS = 20_000
_SHOWN = ("read", "equal", "drift", "missing", "marked", "healed", "outstanding_drift", "outstanding_missing")


def play(box: Sandbox, settings: Settings) -> dict[str, Any]:
    """Let Engage swallow rows, change balances there by hand, find it all, heal it; `status` says whether that worked.

    Both systems agree before and after. To be quick, it ignores the grace time and the rate limits: play it after
    everything that measures the rate.
    """
    if box.state()["members"] > MOST_MEMBERS:
        output.note(f"The drift part is left out: reading back more than {MOST_MEMBERS:,} members takes minutes.")
        return {"status": "ok", "differing": 0, "plot": None}
    (programme,) = settings.programmes
    quick = {"engage_verify_grace_seconds": 0.0, "engage_max_requests_per_second": 0}
    patient = settings.model_copy(update=quick | {"engage_verify_seconds": 120.0})
    brief = settings.model_copy(update=quick | {"engage_verify_seconds": 3.0})
    limit = box.behave()["max_requests_per_second"]
    box.behave(max_requests_per_second=0)
    steps: list[tuple[str, dict[str, Any]]] = []

    box.apply_queue()
    steps.append(("in step", run_verify(patient, programme)))
    sent = _make_drift(box, settings, programme)
    differing = box.differences()["differing"]
    steps.append(("after the drift", run_verify(brief, programme)))
    healing = run_balance_sync(settings, programme, {})
    box.apply_queue()
    steps.append(("after the next push", run_verify(brief, programme)))
    box.behave(max_requests_per_second=limit)

    _print(steps, differing)
    plot = draw(settings, programme, settings.home / "drift.png")
    output.say(f"Plotted in {plot}")
    found, after = steps[1][1], steps[2][1]
    is_found = found.get("drift", 0) + found.get("missing", 0) == differing
    is_healed = after.get("healed") == differing and box.differences()["equal"]
    all_ran = all(result["status"] == "ok" for result in (sent, healing, *(result for _, result in steps)))
    return {
        "status": "ok" if is_found and is_healed and all_ran else "failed",
        "differing": differing,
        "plot": str(plot),
    }


def _make_drift(box: Sandbox, settings: Settings, programme: Programme) -> dict[str, Any]:
    contacts = [row["contactId"] for row in box.balances(limit=1000) if row["engage"] is not None][:CONTACTS]
    box.set_fault("swallowed", share=0.5, count=None)
    box.add_points(dict.fromkeys(contacts, 10))
    result = run_balance_sync(settings, programme, {})
    box.clear_faults("swallowed")
    box.apply_queue()
    swallowed = {row["contactId"] for row in box.differences(limit=1000)["examples"]}
    applied = [contact for contact in contacts if contact not in swallowed]
    box.set_engage_balances(dict.fromkeys(applied[:BY_HAND], "1.23"))
    box.set_engage_balances(dict.fromkeys(applied[BY_HAND : BY_HAND + REMOVED]))
    output.note(
        f"Engage accepts {len(contacts):,} balances and swallows {len(swallowed):,} of them; of the others {BY_HAND} "
        f"are changed and {REMOVED} accounts removed in Engage by hand."
    )
    return result


def _print(steps: Sequence[tuple[str, dict[str, Any]]], differing: int) -> None:
    table = output.table("", *(title for title, _ in steps))
    for name in ("status", *_SHOWN):
        table.add_row(name.replace("_", " "), *(result.get(name) for _, result in steps))
    output.say("")
    output.say(f"What reading back from Engage found ({differing:,} balances differed)")
    output.console().print(table)


def draw(settings: Settings, programme: Programme, path: Path) -> Path:
    """Plot what each recorded verification found and healed; return the path."""
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
    axes.set_title(f"Programme {programme.name}: balances that differed in Engage, and balances that were healed")
    axes.legend()
    figure.savefig(path)
    return path
