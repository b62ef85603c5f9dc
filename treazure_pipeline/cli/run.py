"""``run``: one job, once, in the foreground, on the same Dagster instance that the UI shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from treazure_pipeline.cli.runner import busy, conclude, print_results, progress, run_job, seconds_of
from treazure_pipeline.terminal import instance, output

if TYPE_CHECKING:
    from treazure_pipeline.cli.runner import Ran
    from treazure_pipeline.settings import Programme, Settings

FIGURES = (
    "fetched", "duplicate", "rejected", "superseded", "unchanged", "changed", "carried_over",
    "sent", "refused", "held", "pending", "requests", "points_before", "points_after",
)  # fmt: skip
HISTORY = (
    "due", "read", "failed", "left", "movements", "rows_written", "differing", "unknown_movements",
    "unreadable_movements", "files_written", "files_removed", "rows_exported",
)  # fmt: skip
ADJUSTMENTS = ("queued", "shortened", "reread", "posted", "done", "rejected", "waiting", "looked_up", "uncertain")
_EXPORT_URL = "TREAZURE_PIPELINE_HISTORY_EXPORT"
VERIFICATION = (
    "read", "equal", "drift", "missing", "unsettled", "failed", "marked", "healed", "requests", "outstanding_drift",
    "outstanding_missing", "will_not_heal", "oldest_drift_hours", "round", "round_share", "least_lately_verified_hours",
    "master_read", "master_recorded", "master_differs", "master_failed",
)  # fmt: skip
MIGRATING = (
    "The programme is migrating: its changes were recorded and nothing was sent. "
    "`treazure-pipeline run migration` continues the migration."
)


@click.group("run", cls=output.Group)
def command() -> None:
    """Run a job once, in the foreground."""


@command.command("balance-sync")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option(
    "--full-resync",
    is_flag=True,
    help="Fetch all balances, as happens once a week anyway (FULL_RESYNC_CRON). Only what differs is sent.",
)
@click.option("--window-from", metavar="TIME", help="Start of an explicit window, ISO 8601.")
@click.option("--window-to", metavar="TIME", help="End of the window. Default: two hours from now.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Send only N contacts, wait until Engage shows them, and print both sides. The rest stays pending.",
)
@output.json_option
@click.pass_context
def balance_sync(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    full_resync: bool,
    limit: int | None,
    window_from: str | None,
    window_to: str | None,
    as_json: bool,
) -> None:
    """Fetch what changed in Treazure, compare it with the ledger, and send it to Engage."""
    from treazure_pipeline.balance_sync.windows import window_asked_for

    window_asked_for(window_from, window_to, full_resync=full_resync)
    window = {"window_from": window_from, "window_to": window_to, "full_resync": full_resync}
    ctx.exit(_each(names, partial(run_balance_sync, window=window, limit=limit), FIGURES, as_json=as_json))


@command.command("adjustments")
@output.json_option
@click.pass_context
def adjustments(ctx: click.Context, *, as_json: bool) -> None:
    """Post what is due in the queue of adjustments to Treazure, and set the balances in Engage."""
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    os.environ.update(instance.prepare(settings).environment)
    result = run_adjustments(settings)
    exit_code = result.pop("exit_code")
    if as_json:
        output.print_json(result)
    else:
        print_results([{"programme": "adjustments", **result}], ADJUSTMENTS)
    ctx.exit(exit_code)


@command.command("history")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option("--full", is_flag=True, help="Read the logs of all contacts, not only of those whose balance changed.")
@click.option("--export", "url", metavar="URL", help="Also write monthly Parquet files to a folder or an fsspec URL.")
@output.json_option
@click.pass_context
def history(ctx: click.Context, *, names: tuple[str, ...], full: bool, url: str | None, as_json: bool) -> None:
    """Read the points logs of the contacts whose balance changed into the table points_history."""
    from treazure_pipeline.points_history.export import check_url

    if url is not None:
        check_url(url)
        # Dagster keeps run config, and the address may hold a password.
        os.environ[_EXPORT_URL] = url
    config = {"full": full, **({} if url is None else {"export_url": {"env": _EXPORT_URL}})}
    ctx.exit(_each(names, partial(run_history, config=config), HISTORY, as_json=as_json))


def run_history(settings: Settings, programme: Programme, config: dict[str, Any]) -> dict[str, Any]:
    """Run one programme's job; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.orchestration.names import names_of

    names = names_of(settings, programme)
    ops = {names.op("points_history"): {"config": config}}
    with instance.opened() as dagster, progress(programme.name, "reading logs") as advance:
        ran = run_job(settings, dagster, names.of("refresh_points_history"), ops, progressed=advance)
    found = ran.figures
    shown = ("everybody", *HISTORY, "unknown_types", "rows", "differing_outstanding", "failed_outstanding",
             "unreadable_outstanding")  # fmt: skip
    return {
        "programme": programme.name,
        "run_id": ran.run_id,
        **{name: found[name] for name in shown if name in found},
        **({"export": found["dagster/uri"]} if "dagster/uri" in found else {}),
        "seconds": seconds_of(found),
        **ran.outcome,
    }


@command.command("verify")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@output.json_option
@click.pass_context
def verify(ctx: click.Context, *, names: tuple[str, ...], as_json: bool) -> None:
    """Read balances back from Engage, and mark what differs for sending again."""
    ctx.exit(_each(names, run_verify, VERIFICATION, as_json=as_json))


def run_verify(settings: Settings, programme: Programme) -> dict[str, Any]:
    """Run one programme's verification; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.orchestration.names import names_of
    from treazure_pipeline.verification import rounds

    job = names_of(settings, programme).of("verify_balances")
    with instance.opened() as dagster:
        if outcome := busy(settings, programme, dagster, job, rounds.holding):
            return outcome
        ran = run_job(settings, dagster, job, {})
    return {
        "programme": programme.name,
        "run_id": ran.run_id,
        **{name: ran.figures[name] for name in VERIFICATION if name in ran.figures},
        "seconds": {"verify": ran.figures.get("seconds_verify", 0.0)},
        **ran.outcome,
    }


@command.command("migration")
@click.option("--programme", "names", multiple=True, metavar="NAME", help="Only this programme (repeatable).")
@click.option(
    "--deliver-by",
    type=click.Choice(["files", "api"]),
    default="files",
    show_default=True,
    help="How rows get to Engage; `api` is for a tenant that is active.",
)
@click.option("--mapping", metavar="FILE", help="The retailer's CSV (contact, key), if MIGRATION_KEY_TYPE needs one.")
@click.option("--although-loaded", is_flag=True, help="Begin even though balances were sent to Engage before.")
@click.option("--leave-out-unreadable", is_flag=True, help="Go on without contacts whose points log can't be read.")
@click.option("--accept", is_flag=True, help="Close the audit even though contacts differ. Needs --by.")
@click.option("--abandon", metavar="REASON", help="Abandon the migration. The programme is live again. Needs --by.")
@click.option("--by", "by_whom", metavar="PERSON", help="The person who decides on --accept or --abandon.")
@output.json_option
@click.pass_context
def migration(
    ctx: click.Context,
    /,
    *,
    names: tuple[str, ...],
    as_json: bool,
    accept: bool,
    abandon: str | None,
    by_whom: str | None,
    **options: Any,
) -> None:
    """Move a programme's points into Engage before its go-live: contacts, points logs, files, delivery, audit.

    Run it again after Engage's import: it reads all balances back, and then the programme is live.
    """
    from treazure_pipeline.cli import run_migration

    if (accept or abandon) and not by_whom:
        raise click.UsageError("--accept and --abandon need --by, the person who decides.")
    accepted_by = by_whom if accept else None
    ctx.exit(
        run_migration.command(names, as_json=as_json, abandon=abandon, by=by_whom, accepted_by=accepted_by, **options)
    )


def run_adjustments(settings: Settings) -> dict[str, Any]:
    """Run the job once; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.adjustments.processing import Processed
    from treazure_pipeline.orchestration.names import names_of

    with instance.opened() as dagster:
        ran = run_job(settings, dagster, names_of(settings).of("process_adjustments"), {})
    done = ran.of(Processed) or Processed()
    return {
        "run_id": ran.run_id,
        **{name: getattr(done, name) for name in ADJUSTMENTS},
        "points": str(done.points),
        "seconds": {"process": round(done.seconds, 3)},
        **ran.outcome,
    }


def run_balance_sync(
    settings: Settings, programme: Programme, window: dict[str, Any], *, limit: int | None = None
) -> dict[str, Any]:
    """Run one programme's job; return what `--json` prints, and the `exit_code`."""
    from treazure_pipeline.ledger.store import Ledger
    from treazure_pipeline.orchestration.names import names_of

    names = names_of(settings, programme)
    job = names.of("hourly_balance_sync")
    with instance.opened() as dagster, progress(programme.name, "sending", "fetching and comparing") as advance:
        if outcome := busy(settings, programme, dagster, job, Ledger.holding):
            return outcome
        config = {"treazure_balance_snapshot": window, "engage_balance_push": {"limit": limit}}
        ops = {
            names.op(asset): {"config": {key: value for key, value in given.items() if value}}
            for asset, given in config.items()
        }
        ran = run_job(settings, dagster, job, ops, progressed=advance)
    return {"programme": programme.name, "run_id": ran.run_id, **_sync_figures(ran)}


def _sync_figures(ran: Ran) -> dict[str, Any]:
    from treazure_pipeline.balance_sync.report import Pushed, SyncReport
    from treazure_pipeline.balance_sync.snapshot import Diff, Snapshot

    outcome = ran.outcome
    pushed = ran.of(Pushed)
    report = SyncReport(ran.of(Snapshot), ran.of(Diff), pushed, ran.of(list) or [])
    if outcome["status"] == "ok" and pushed is not None and pushed.migrating:
        outcome |= {"status": "migrating", "note": MIGRATING}
    return report.figures(held=outcome["status"] == "held") | outcome


def _each(
    names: Sequence[str], run: Callable[[Settings, Programme], dict[str, Any]], shown: Sequence[str], *, as_json: bool
) -> int:
    """Run a job for each of these programmes, print what it counted, and return the exit code."""
    from treazure_pipeline.settings import load_settings

    settings = load_settings()
    programmes = settings.chosen(names)
    os.environ.update(instance.prepare(settings).environment)
    return conclude([run(settings, programme) for programme in programmes], shown, as_json=as_json)
