"""The audit's report for the retailer to sign: one HTML file with tables and plots, and all rows as CSV."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from treazure_pipeline import people, private
from treazure_pipeline.phrases import points
from treazure_pipeline.point_migration import audit_store, file_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from treazure_pipeline.ledger.store import Account, Ledger
    from treazure_pipeline.point_migration.audit_store import ShardAudit
    from treazure_pipeline.point_migration.backfill import Migration
    from treazure_pipeline.point_migration.target import Target

_MOST = 20
_COLORS = {"at the cut-off": "#8aa4b8", "in the files": "#4c7fa6", "in Engage": "#2f7d4f"}


REPORT = "audit.html"


def write_report(
    ledger: Ledger, account: Account, migration: Migration, target: Target, *, accepted_by: str | None
) -> str:
    """Write `audit.html`, `contacts.csv` and `findings.csv` as of now to the target; return where the first one is."""
    with target.connected() as (system, folder):
        private.make_folder(system, folder)
        for what in ("contacts", "findings"):
            _write(system, f"{folder}/{what}.csv", audit_store.export_csv(ledger, migration, what))
        _write(system, f"{folder}/{REPORT}", [_drawn(ledger, account, migration, accepted_by).encode()])
    return f"{target}/{REPORT}"


def _write(system: Any, path: str, pieces: Iterable[bytes]) -> None:
    private.make_file(system, path)
    with system.open(path, "wb") as opened:
        opened.writelines(pieces)


def _drawn(ledger: Ledger, account: Account, migration: Migration, accepted_by: str | None) -> str:
    shards = audit_store.shards(ledger, migration)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("treazure_pipeline.point_migration", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        account=account,
        migration=migration,
        shards=shards,
        totals=_totals(shards),
        verdict=_verdict(shards, accepted_by),
        findings=audit_store.findings(ledger, migration),
        examples=audit_store.examples(ledger, migration, _MOST),
        differences=audit_store.differences(ledger, migration, _MOST),
        files=file_store.files(ledger, migration),
        plots=Markup(_plots(shards, audit_store.sizes(ledger, migration))),  # noqa: S704 - drawn here, from numbers
        points=points,
        most=_MOST,
    )


def as_markdown(ledger: Ledger, migration: Migration, *, accepted_by: str | None) -> str:
    """Return the report as Dagster shows it: the same figures, findings and differences, without plots."""
    shards = audit_store.shards(ledger, migration)
    findings = [
        (origin, kind, f"{count:,}", "" if amount is None else points(amount))
        for origin, kind, count, amount in audit_store.findings(ledger, migration)
    ]
    differing = [
        (one.contact, points(one.imported or 0), "no account" if one.shown is None else points(one.shown))
        for one in audit_store.differences(ledger, migration, _MOST)
    ]
    parts = [
        f"**{people.markdown(_verdict(shards, accepted_by)['text'])}**",
        f"Cut-off {migration.cut_off:%Y-%m-%d %H:%M:%S} UTC, mode {migration.mode}, key {migration.key_type}.",
        _table(("all shards", ""), _totals(shards)),
        *([f"Findings\n\n{_table(('origin', 'kind', 'how many', 'points'), findings)}"] if findings else []),
        *(
            [f"Contacts that differ ({_MOST} at most)\n\n{_table(('contact', 'imported', 'in Engage'), differing)}"]
            if differing
            else []
        ),
    ]
    return "\n\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *([people.markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _totals(shards: Sequence[ShardAudit]) -> list[tuple[str, str]]:
    def count(name: str) -> str:
        return f"{sum(getattr(shard, name) for shard in shards):,}"

    def sum_of(name: str) -> str:
        return points(sum((getattr(shard, name) for shard in shards), Decimal(0)))

    return [
        ("Contacts", count("contacts")),
        ("Points in Treazure at the cut-off", sum_of("balance")),
        ("as Engage keeps them", sum_of("rounded")),
        ("Rows in the files", count("rows")),
        ("Points in the files", sum_of("imported")),
        ("Contacts whose rows do not add up to their balance", count("unequal")),
        ("Contacts with points that are in no file", count("without_rows")),
        ("of these left out by decision", count("left_out")),
        ("Contacts read back from Engage", count("read")),
        ("Points in Engage", sum_of("in_engage")),
        ("Contacts that are equal", count("equal")),
        ("Contacts that differ", count("differing")),
        ("of these without an account in Engage", count("missing")),
    ]


def _verdict(shards: Sequence[ShardAudit], accepted_by: str | None) -> dict[str, str]:
    contacts, read = (sum(getattr(shard, name) for shard in shards) for name in ("contacts", "read"))
    differing = sum(shard.differing for shard in shards)
    if any(shard.unequal for shard in shards):
        return {"kind": "bad", "text": "The files do not match the balances at the cut-off."}
    if read < contacts:
        return {"kind": "open", "text": f"{read:,} of {contacts:,} contacts have been read back from Engage so far."}
    if not differing:
        return {"kind": "", "text": f"All {contacts:,} contacts have in Engage what was imported for them."}
    if accepted_by:
        return {"kind": "open", "text": f"{differing:,} of {contacts:,} contacts differ, accepted by {accepted_by}."}
    return {"kind": "bad", "text": f"{differing:,} of {contacts:,} contacts differ in Engage from what was imported."}


def _plots(shards: Sequence[ShardAudit], sizes: Sequence[tuple[int, int, Decimal]]) -> str:
    """Draw the points of each shard in the three places, and the sizes of balances, as one SVG."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for offset, (name, column) in zip(
        (-0.27, 0.0, 0.27), zip(_COLORS, ("rounded", "imported", "in_engage"), strict=True), strict=True
    ):
        heights = [float(getattr(shard, column)) for shard in shards]
        left.bar([shard.shard + offset for shard in shards], heights, 0.27, label=name, color=_COLORS[name])
    left.set(title="Points by shard", xlabel="shard")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.yaxis.set_major_formatter("{x:,.0f}")
    left.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    names = {-1: "< 0", 0: "0 to 1"}
    labels = [names.get(digits, f"{10 ** (digits - 1):,}+") for digits, _, _ in sizes]
    right.bar(labels, [count for _, count, _ in sizes], color=_COLORS["in the files"])
    right.set(title="Contacts by balance", xlabel="points")
    right.yaxis.set_major_formatter("{x:,.0f}")
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]
