"""``status``: per programme, what an operator asks first."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click
from rich.text import Text

from treazure_pipeline import phrases
from treazure_pipeline.terminal import output

if TYPE_CHECKING:
    from treazure_pipeline.adjustments.queue import QueueFigures
    from treazure_pipeline.ledger.figures import Status
    from treazure_pipeline.verification.rounds import Standing


@click.command("status")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@output.json_option
def command(*, names: tuple[str, ...], as_json: bool) -> None:
    """Show the last window, coverage, rows that are pending, held, refused or rejected, and adjustments.

    Changes nothing.
    """
    from treazure_pipeline.adjustments import queue
    from treazure_pipeline.alerts import state as alert_state
    from treazure_pipeline.ledger import figures
    from treazure_pipeline.terminal.ledger import at_ledger
    from treazure_pipeline.verification import rounds

    with at_ledger() as opened:
        ledger, accounts = opened.ledger, opened.accounts(names)
        found = [(figures.status(ledger, account), ledger.is_running(account)) for account in accounts]
        standings = [rounds.standing(ledger, account) for account in accounts]
        queued = queue.figures(ledger, lookup_wait=opened.settings.treazure_lookup_wait_seconds)
        wrong = alert_state.firing(ledger)
    if as_json:
        programmes_found = [
            asdict(status) | {"running": running, "verification": asdict(standing)}
            for (status, running), standing in zip(found, standings, strict=True)
        ]
        output.print_json({"status": "ok", "programmes": programmes_found, "adjustments": asdict(queued),
                            "alerts": [asdict(alert) for alert in wrong]})  # fmt: skip
        return
    for (status, running), standing in zip(found, standings, strict=True):
        output.verdict(f"{status.programme}: {_verdict(status, standing)}")
        output.console().print(_figures(status, standing, running=running))
        output.say("")
    for alert in wrong:
        output.say(f"Alert since {_time(alert.began)}: {alert.title}")
    _print_adjustments(queued)


def _verdict(status: Status, standing: Standing) -> str:
    """Say first what matters most: what waits, for whom, and what differs."""
    if status.covered_until is None:
        return "nothing has been fetched yet"
    differing = standing.drift + standing.missing
    found = [
        "migrating, so nothing is sent" if status.mode == "migrating" else "",
        f"plan {status.plan} waits for approval" if status.plan else "",
        phrases.counted(status.holes, "hole") + " in what was fetched" if status.holes else "",
        phrases.counted(status.pending, "balance waits", "balances wait") + " to be sent" if status.pending else "",
        phrases.counted(status.rejected, "row is", "rows are") + " rejected" if status.rejected else "",
        phrases.counted(differing, "balance differs", "balances differ") + " in Engage" if differing else "",
    ]
    return phrases.sentence(found) or f"Engage has all that is known; fetched until {_time(status.covered_until)}"


def _figures(status: Status, standing: Standing, *, running: bool) -> output.Figures:
    table = output.table("all times are UTC", "", header_style="dim")
    for name, value in {
        "mode": status.mode,
        "a run is under way": running,
        "last window": f"{_time(status.window_from)} to {_time(status.window_to)}",
        "covered without a hole until": f"{_time(status.covered_until)}{_ago(status.now, status.covered_until)}",
        "holes in the coverage": status.holes,
        "all balances asked for": f"{_time(status.full_asked)}{_ago(status.now, status.full_asked)}",
        "pending": status.pending,
        "  of these held until their next try": status.held,
        "  refused by Engage": status.refused,
        "  gone (unknown to Engage for 30 days)": status.gone,
        "  below zero, held until approved": status.negative,
        "  oldest since": f"{_time(status.oldest_pending)}{_ago(status.now, status.oldest_pending)}"
        if status.oldest_pending
        else Text("none is pending", style="dim"),
        "a plan waits for approval": Text(status.plan or "no"),
        "requests under way": status.in_doubt,
        "rejected rows of exports": status.rejected,
        "vanished from the last full export": status.vanished,
        "to be read once more": status.rereads,
        "  of these could not be read yet": status.rereads_failed,
        "points in total": status.points_total,
        "last accepted by Engage": f"{_time(status.last_sent)}{_ago(status.now, status.last_sent)}",
        "last read back from Engage": f"{_time(standing.last_run)}{_ago(standing.now, standing.last_run)}",
        "  all of the programme since": f"{_time(standing.read_through_from)}"
        f"{_ago(standing.now, standing.read_through_from)}",
        "  Engage shows another balance": standing.drift,
        "  Engage has no account": standing.missing,
        "  of these will not heal": standing.will_not_heal,
    }.items():
        table.add_row(name, value)
    return table


def _print_adjustments(queued: QueueFigures) -> None:
    persons = phrases.some(uncertain=queued.uncertain, rejected=queued.rejected, dead_letters=queued.dead_letters)
    told = f"{phrases.sentence(persons)}, for a person to look at" if persons else "nothing waits for a person"
    output.verdict(f"adjustments: {told}")
    table = output.table("", "", show_header=False)
    for state, count in asdict(queued).items():
        if isinstance(count, int):
            table.add_row(state.replace("_", " "), count)
    table.add_row("oldest unfinished", timedelta(seconds=round(queued.oldest_seconds)))
    output.console().print(table)


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _ago(now: datetime, moment: datetime | None) -> str:
    return "" if moment is None else f" ({timedelta(seconds=round((now - moment).total_seconds()))} ago)"
