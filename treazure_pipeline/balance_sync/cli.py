"""``plan``: what a push would change, before it does."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treazure_pipeline import phrases, private
from treazure_pipeline.terminal import output

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from treazure_pipeline.balance_sync.plans import Picture, Plan

_BAR = 40


@click.command("plan")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option(
    "--csv",
    "path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write all rows to this file: programme, contact, before, after, change.",
)
@output.json_option
def command(*, names: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Show the plan that waits for approval, or what a push would change now. Writes nothing to the ledger."""
    from treazure_pipeline.balance_sync import plans
    from treazure_pipeline.terminal.ledger import at_ledger

    shown: list[dict[str, Any]] = []
    if path is not None:
        private.write(path, b"programme,contact,before,after,change\r\n")
    with at_ledger() as opened:
        ledger = opened.ledger
        for programme in opened.programmes(names):
            account = ledger.find(programme)
            if account is None:
                shown.append({"programme": programme.name, "plan": None, "rows": 0})
                if not as_json:
                    output.say(f"{programme.name}: nothing is in the ledger yet. The first sync creates it.")
                continue
            with ledger.reading() as connection:
                plan = plans.open_plan(connection, account)
                picture = plans.picture(connection, account, plan)
                if path is not None:
                    _append(path, programme.name, plans.rows(connection, account, plan))
            shown.append({"programme": programme.name, "plan": plan and _of(plan), **asdict(picture)})
            if not as_json:
                _print(programme.name, plan, picture)
    if as_json:
        output.print_json({"status": "ok", "programmes": shown})
    if path is not None and not as_json:
        output.say(f"All rows are in {path}.")


def _of(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name != "id"}


def _append(path: Path, programme: str, rows: Iterable[tuple[str, Decimal | None, Decimal]]) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            (programme, contact, "" if before is None else before, after, after - (before or 0))
            for contact, before, after in rows
        )


def _print(programme: str, plan: Plan | None, picture: Picture) -> None:
    if plan is None:
        output.say(f"{programme}: nothing waits for approval. A push now would change:")
    else:
        output.say(f"{programme}: plan {plan.digest} of {plan.made_at:%Y-%m-%d %H:%M} UTC, {plan.state}")
        for reason in plan.reasons:
            output.say(f"  {reason}")
        if plan.approved_by:
            output.say(f"  approved by {plan.approved_by}, until {plan.expires_at:%Y-%m-%d %H:%M} UTC")
    table = output.table("", "", show_header=False)
    for name, value in {
        "contacts": picture.rows,
        "  of these for the first time": picture.new,
        "  gain points": picture.gains,
        "  lose points": picture.losses,
        "  are set to zero": picture.zeroed,
        "points of these contacts before": picture.before,
        "points of these contacts after": picture.after,
        "change of the total": phrases.change(picture.after - picture.before),
    }.items():
        table.add_row(name, value)
    output.console().print(table)
    if not picture.rows:
        return
    most = max(count for _, count in picture.histogram)
    table = output.table("size of the change", "contacts", "")
    for step, count in picture.histogram:
        table.add_row(step, count, "█" * max(1, round(_BAR * count / most)))
    output.console().print(table)
    _print_rows("largest changes", picture.largest)
    _print_rows("a sample", picture.sample)
    if plan is not None and plan.state == "open":
        output.say(f"If this is right: treazure-pipeline approve {plan.digest}")


def _print_rows(title: str, rows: list[tuple[str, Decimal | None, Decimal]]) -> None:
    table = output.table(title, "before", "after", "change")
    for contact, before, after in rows:
        table.add_row(contact, "new" if before is None else before, after, f"{after - (before or 0):+,}")
    output.console().print(table)
