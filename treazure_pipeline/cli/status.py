"""``status``: per programme, what an operator asks first."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta

import click
from rich.table import Table

from treazure_pipeline.terminal import output


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
    from treazure_pipeline.terminal.reading import reading
    from treazure_pipeline.verification import rounds

    with reading() as opened:
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
    table = Table("", *(status.programme for status, _ in found), box=None)
    rows = [
        {
            "mode": status.mode,
            "a run is under way": "yes" if running else "no",
            "last window": f"{_time(status.window_from)} to {_time(status.window_to)}",
            "covered without a hole until": f"{_time(status.covered_until)}{_ago(status.now, status.covered_until)}",
            "holes in the coverage": f"{status.holes:,}",
            "all balances asked for": f"{_time(status.full_asked)}{_ago(status.now, status.full_asked)}",
            "pending": f"{status.pending:,}",
            "  of these held until their next try": f"{status.held:,}",
            "  refused by Engage": f"{status.refused:,}",
            "  gone (unknown to Engage for 30 days)": f"{status.gone:,}",
            "  below zero, held until approved": f"{status.negative:,}",
            "  oldest since": f"{_time(status.oldest_pending)}{_ago(status.now, status.oldest_pending)}",
            "a plan waits for approval": status.plan or "no",
            "requests under way": f"{status.in_doubt:,}",
            "rejected rows of exports": f"{status.rejected:,}",
            "vanished from the last full export": f"{status.vanished:,}",
            "to be read once more": f"{status.rereads:,}",
            "  of these could not be read yet": f"{status.rereads_failed:,}",
            "points in total": f"{status.points_total:,}",
            "last accepted by Engage": f"{_time(status.last_sent)}{_ago(status.now, status.last_sent)}",
            "last read back from Engage": f"{_time(standing.last_run)}{_ago(standing.now, standing.last_run)}",
            "  all of the programme since": f"{_time(standing.read_through_from)}"
            f"{_ago(standing.now, standing.read_through_from)}",
            "  Engage shows another balance": f"{standing.drift:,}",
            "  Engage has no account": f"{standing.missing:,}",
            "  of these will not heal": f"{standing.will_not_heal:,}",
        }
        for (status, running), standing in zip(found, standings, strict=True)
    ]
    for name in rows[0]:
        table.add_row(name, *(row[name] for row in rows))
    output.console().print(table)
    for alert in wrong:
        output.say(f"Alert since {_time(alert.began)}: {alert.title}")
    table = Table("Adjustments", "", box=None)
    for state, count in asdict(queued).items():
        if isinstance(count, int):
            table.add_row(state.replace("_", " "), f"{count:,}")
    table.add_row("oldest unfinished", f"{timedelta(seconds=round(queued.oldest_seconds))}")
    output.say("")
    output.console().print(table)


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _ago(now: datetime, moment: datetime | None) -> str:
    return "" if moment is None else f" ({timedelta(seconds=round((now - moment).total_seconds()))} ago)"
