"""``doctor``: checks everything that a sync needs, in the order it is needed, and says what to fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

import click
import psycopg
from rich.text import Text

from treazure_pipeline.adjustments import queue
from treazure_pipeline.alerts.notify import misunderstood
from treazure_pipeline.cli.contract import clients, observe
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.connections import Connections
from treazure_pipeline.database import embedded, schema
from treazure_pipeline.errors import DatabaseError, PipelineError, SettingsError
from treazure_pipeline.ledger import owner, rights
from treazure_pipeline.ledger.limiter import Priority
from treazure_pipeline.ledger.store import Ledger
from treazure_pipeline.settings import Programme, Settings, Storage, load_settings, load_storage
from treazure_pipeline.surroundings import understood
from treazure_pipeline.terminal import instance, output
from treazure_pipeline.verification.other_writers import Sign, foreign_balances, foreign_transactions

_VERDICTS = {
    "as assumed": "green",
    "otherwise, understood": "yellow",
    "not understood": "bold red",
    "not observed": "dim",
}
_COLORS = {"ok": "green", "note": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        status: A `note` needs no action, but is worth knowing.
        detail: What was found, or what to do.
    """

    check: str
    status: Literal["ok", "note", "failed"]
    detail: str


@click.command("doctor")
@click.option("--contract", is_flag=True, help="Compare what both systems answer with what is assumed about them.")
@click.option("--contact", metavar="GUID", help="With --contract: the contact to look at if no export lists one.")
@click.option(
    "--test-contact",
    metavar="GUID",
    help="With --contract: a test contact of your own. It gets one point in Treazure, which is taken back at once.",
)
@output.json_option
@click.pass_context
def command(
    ctx: click.Context, *, contract: bool, contact: str | None, test_contact: str | None, as_json: bool
) -> None:
    """Check the settings, both systems, the database and Dagster, and say what to fix.

    Changes nothing, except with --test-contact.
    """
    if contract:
        ctx.exit(_contract(contact, test_contact, as_json=as_json))
    if contact or test_contact:
        raise click.UsageError("--contact and --test-contact go with --contract.")
    with output.progress().status("Checking"):
        findings = list(_findings())
    failed = [finding for finding in findings if finding.status == "failed"]
    if as_json:
        rows = [asdict(finding) for finding in findings]
        output.print_json({"status": "failed" if failed else "ok", "checks": rows})
    else:
        table = output.table("Check", "", "Detail")
        for finding in findings:
            table.add_row(finding.check, Text(finding.status, _COLORS[finding.status]), finding.detail)
        output.console().print(table)
    if failed:
        ctx.exit(SettingsError.exit_code if failed[0].check == "settings" else PipelineError.exit_code)


def _contract(contact: str | None, test_contact: str | None, *, as_json: bool) -> int:
    settings = load_settings()
    with output.progress().status("Asking both systems"):
        lines = {
            programme.name: list(observe(settings, programme, contact=contact, test_contact=test_contact))
            for programme in settings.programmes
        }
    wrong = any(line.verdict == "not understood" for found in lines.values() for line in found)
    if as_json:
        programmes = [{"programme": name, "lines": [asdict(line) for line in found]} for name, found in lines.items()]
        output.print_json({"status": "failed" if wrong else "ok", "programmes": programmes})
    else:
        for name, found in lines.items():
            table = output.table(f"{name}: what", "assumed", "observed", "verdict")
            for line in found:
                cells = (f"{line.system}: {line.about}", line.assumed, line.observed)
                table.add_row(*cells, Text(line.verdict, _VERDICTS[line.verdict]))
            output.console().print(table)
    return PipelineError.exit_code if wrong else 0


def _findings() -> Iterator[Finding]:
    settings = None
    try:
        settings = load_settings()
    except SettingsError as error:
        yield Finding("settings", "failed", str(error))
    else:
        names = ", ".join(programme.name for programme in settings.programmes)
        yield Finding("settings", "ok", f"programmes: {names}")
        yield _alerts(settings)
        try:
            yield from _systems(settings)
        except SettingsError as error:
            yield Finding("surroundings", "failed", str(error))
    try:
        storage = load_storage()
    except SettingsError:
        return
    yield from _databases(storage, settings)
    if settings is not None:
        yield from _other_writers(settings)


def _alerts(settings: Settings) -> Finding:
    urls = settings.alert_urls
    if wrong := misunderstood(urls):
        places = ", ".join(map(str, wrong))
        return Finding("alerts", "failed", f"TREAZURE_PIPELINE_ALERT_URLS: not understood at position {places}")
    if not urls:
        return Finding(
            "alerts", "note", "TREAZURE_PIPELINE_ALERT_URLS is not set, so nobody is told when something goes wrong"
        )
    return Finding("alerts", "ok", f"{len(urls)} targets; nothing was sent to them")


def _systems(settings: Settings) -> Iterator[Finding]:
    with clients(settings) as (treazure, engage):
        login = _tried("Treazure: login", lambda: _login(treazure))
        yield login
        if login.status == "ok":
            for programme in settings.programmes:
                yield _tried(f"Treazure: export of {programme.name}", partial(_export, treazure, programme))
        contacts = _tried("Engage: contacts", lambda: f"{engage.contact_count():,} contacts")
        yield contacts
        if contacts.status == "ok":
            yield _tried("Engage: point definitions", lambda: _definitions(engage, settings))


def _databases(storage: Storage, settings: Settings | None) -> Iterator[Finding]:
    try:
        place = instance.locate(storage)
    except SettingsError as error:
        yield Finding("Dagster: home", "failed", str(error))
        return
    if storage.is_embedded and embedded.running_url(storage.home) is None:
        yield Finding("database", "note", "embedded, stopped; it is started when needed, or with `db start`")
        return
    server = _tried("database", lambda: _server(place.ledger_url))
    yield server
    if server.status == "ok":
        found = _tried("database: schema", lambda: _schema(place.ledger_url))
        yield found
        if found.status == "ok":
            yield _tried("database: rights", lambda: _rights(place.ledger_url))
            if settings is not None:
                yield _tried("database: whose ledger", lambda: _owner(settings, place.ledger_url))
    found = _tried("Dagster: storage", lambda: _dagster_storage(place))
    yield found
    if found.status == "ok":
        yield _daemon(place)


def _other_writers(settings: Settings) -> Iterator[Finding]:
    """Check whether receipts come back, and look for signs that somebody else moves the same points.

    Needs both systems and the ledger. A ledger that nobody has used yet is not opened for work: that would make it the
    ledger of these two systems.
    """
    try:
        with Ledger(instance.locate(settings).ledger_url, connections=2) as ledger:
            is_used = owner.check(ledger, owner.systems(settings.treazure_base_url, settings.engage_base_url))
        if not is_used:
            yield _receipts(None)
            for programme in settings.programmes:
                yield from _nothing_synced(programme)
            return
        with Connections(settings, Priority.BACKGROUND) as connections:
            yield _receipts(queue.receipts_of(connections.ledger, connections.treazure.address))
            for programme in settings.programmes:
                account = connections.ledger.find(programme)
                if account is None:
                    yield from _nothing_synced(programme)
                    continue
                movements = foreign_transactions(connections.ledger, connections.treazure, account)
                yield _signs(f"other writers: Treazure, {programme.name}", movements,
                             "transactions repeat an adjustment without a receipt of ours; is the vendor's own "
                             "middleware, or a webhook straight to Treazure, still on?")  # fmt: skip
                balances = foreign_balances(
                    connections.ledger, connections.engage, account, programme, settings.engage_verify_grace_seconds
                )
                yield _signs(f"other writers: Engage, {programme.name}", balances,
                             "balances are not what Engage accepted from us; does anybody else set them?")  # fmt: skip
    except PipelineError:
        return  # already among the findings


def _nothing_synced(programme: Programme) -> Iterator[Finding]:
    for system in ("Treazure", "Engage"):
        yield Finding(f"other writers: {system}, {programme.name}", "ok", "nothing has been synced yet")


def _receipts(returned: queue.Returned | None) -> Finding:
    """Say how receipts come back, and what follows for adjustments whose answer is lost."""
    check = "Treazure: receipts"
    by_hand = "An adjustment whose answer is lost is never sent again; it becomes `uncertain`, and a person decides."
    if returned is None:
        how = "the first adjustment that Treazure answers will show it"
        return Finding(
            check, "note", f"not known yet whether they come back in the history; {how}. Until then: {by_hand}"
        )
    if returned.found == "whole":
        return Finding(check, "ok", "they come back whole in the history")
    if returned.identifies:
        return Finding(check, "ok", f"{returned.length} of their characters come back in the history, which is enough")
    shown = f"only {returned.length} of their characters come back" if returned.length else "they don't come back"
    return Finding(check, "note", f"{shown} in the history. {by_hand}")


def _signs(check: str, signs: Sequence[Sign], meaning: str) -> Finding:
    if not signs:
        return Finding(check, "ok", "no sign of any")
    example = f"{signs[0].contact}: {signs[0].text}"
    return Finding(check, "note", f"{len(signs)} {meaning} For example {example}.")


def _tried(check: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "ok", attempt())
    except Exception as error:
        if (ours := understood(error)) is None:
            raise
        return Finding(check, "failed", str(ours))


def _login(treazure: TreazureClient) -> str:
    treazure.check()
    return "got a token"


def _export(treazure: TreazureClient, programme: Programme) -> str:
    now = datetime.now(UTC)
    treazure.request_balances(programme.loyalty_id, now - timedelta(minutes=1), now)
    return f"an export of {programme.loyalty_id} can be requested"


def _definitions(engage: EngageClient, settings: Settings) -> str:
    found = {definition.id: definition.name for definition in engage.definitions()}
    missing = [p for p in settings.programmes if p.definition_id not in found]
    if missing:
        raise SettingsError(
            "; ".join(f"Engage has no point definition {p.definition_id} ({p.name})" for p in missing),
            hint=f"It has: {', '.join(f'{number} {name}' for number, name in found.items()) or 'none'}.",
        )
    return ", ".join(f"{p.name} is {found[p.definition_id]}" for p in settings.programmes)


def _server(url: str) -> str:
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        raise schema.unavailable(error) from None
    if version < schema.OLDEST_SERVER:
        raise DatabaseError(f"It is PostgreSQL {version}; {schema.OLDEST_SERVER} or newer is needed.")
    return f"PostgreSQL {version}"


def _schema(url: str) -> str:
    schema.check(url)
    return f"revision {schema.head()}"


def _owner(settings: Settings, url: str) -> str:
    wanted = owner.systems(settings.treazure_base_url, settings.engage_base_url)
    with Ledger(url) as ledger:
        return f"of {wanted}" if owner.check(ledger, wanted) else f"nobody's yet; the first run gives it to {wanted}"


def _rights(url: str) -> str:
    with Ledger(url, connections=2) as ledger:
        return f"{rights.prove(ledger)} may do everything that runs do"


def _dagster_storage(place: instance.Instance) -> str:
    """Open it as runs do. If Dagster has no tables there yet, only check whether it could make them."""
    instance.connect_dagster(place)
    if instance.is_used(place):
        os.environ.update(place.environment)
        with instance.opened() as dagster:
            return f"can be used; it holds {dagster.get_runs_count():,} runs"
    return "can be used, and is empty"


def _daemon(place: instance.Instance) -> Finding:
    """Check that a daemon is running. Storage that Dagster has not used yet stays unused."""
    check = "Dagster: daemon"
    if not instance.is_used(place):
        return Finding(check, "note", "has never run on this instance; `treazure-pipeline dev` runs one")
    with instance.opened() as dagster:
        statuses = dagster.get_daemon_statuses().values()
        silent = [status.daemon_type for status in statuses if not status.healthy]
    if silent:
        names = ", ".join(sorted(silent)).lower()
        return Finding(check, "note", f"not running now ({names}), so nothing runs on schedule")
    return Finding(check, "ok", "running")
