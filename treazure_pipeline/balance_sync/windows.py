"""Which window a run fetches: the one asked for; once a week, everything; otherwise the one that leaves no hole."""

from __future__ import annotations

from datetime import datetime

from treazure_pipeline import conventions
from treazure_pipeline.connections import Run
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.ledger import coverage
from treazure_pipeline.ledger.coverage import Window


def chosen_window(
    run: Run, *, window_from: str | None = None, window_to: str | None = None, full_resync: bool = False
) -> Window:
    """Return the window that a run with this configuration fetches. Raises SettingsError if it is invalid."""
    asked = window_asked_for(window_from, window_to, full_resync=full_resync)
    full = full_resync or (
        asked is None and full_resync_is_due(run.settings.full_resync_cron, coverage.last_full(run.ledger, run.account))
    )
    chosen = coverage.next_window(run.ledger, run.account, full=full)
    if asked is None:
        return chosen
    start, end = asked[0], asked[1] or chosen.end
    _require_order(start, end)
    return Window(start, end)


def full_resync_is_due(cron: str, last: coverage.LastFull) -> bool:
    """Return whether everything has to be fetched: not done since `cron` was last due (UTC), and not tried in the last 6 hours."""
    if cron == "off":
        return False
    from dagster._utils.schedules import get_latest_completed_cron_tick  # noqa: PLC0415 - takes a second to import

    tick = get_latest_completed_cron_tick(cron, last.now, "UTC")
    tried_lately = last.tried_at is not None and last.now - coverage.BETWEEN_TRIES < last.tried_at <= last.now
    return (last.merged_at is None or last.merged_at < tick) and not tried_lately


def window_asked_for(
    window_from: str | None, window_to: str | None, *, full_resync: bool
) -> tuple[datetime, datetime | None] | None:
    """Return the start and end of an explicit window, or None if none was asked for. Raises SettingsError if it makes no sense."""
    if window_from is None and window_to is None:
        return None
    if full_resync or window_from is None:
        raise SettingsError("An explicit window needs window_from, and can't be combined with full_resync.")
    start = _moment("window_from", window_from)
    end = None if window_to is None else _moment("window_to", window_to)
    if end is not None:
        _require_order(start, end)
    return start, end


def _require_order(start: datetime, end: datetime) -> None:
    if start >= end:
        raise SettingsError(f"The window's start {start} is not before its end {end}.")


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{name} ({text!r}) must be an ISO 8601 date or time, such as 2026-01-31T12:00:00Z."
        ) from None
    return conventions.in_utc(moment)
