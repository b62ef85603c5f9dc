"""Turns the logs and balances of some thousand contacts into rows that add up to the balances, and findings.

Everything is done for all contacts at once. A contact's rows are its movements up to the cut-off with a known type. An opening row before them
makes up for what is missing. Amounts are rounded so that a contact's sum stays right, also after each expiry.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, localcontext

import polars as pl

from treazure_pipeline.clients import wire
from treazure_pipeline.point_migration.expiry import with_expiry
from treazure_pipeline.point_migration.meaning import OPENING_KIND, is_no_key, kinds
from treazure_pipeline.point_migration.parts import MOMENT, POINTS, PRECISION

ADVICE = {
    "beginning_missing": "The log begins later than the points: an opening row closes it. Nothing to do unless "
    "Treazure still has the older movements.",
    "does_not_add_up": "Ask Treazure why the movements do not add up to the balance; an opening row closes it.",
    "log_empty": "Treazure shows a balance without a movement: an opening row holds all of it.",
    "log_not_fetched": "Fetch the log and write the files again; as it is, an opening row holds the whole balance.",
    "unknown_type": "Say what this type of movement means (MEANINGS); until then the opening row holds its points.",
    "unusable_amount": "Ask Treazure what this amount is; the opening row makes up for it.",
    "later_balance": "Nothing: the balance was read after the cut-off, and the next sync brings what came later.",
    "key_missing": "Give the contact a key in the mapping file; without one the contact is in no file.",
    "key_unusable": "Correct the key in the mapping file: no quotes, apostrophes, semicolons, controls, formulas. "
    "As it is, the contact is in no file.",
    "not_in_roster": "Make the roster again if the contact should be migrated; its log is in no file.",
    "spans_files": "Import the files in the order of their names: this contact has more rows than one file may have.",
}
"""What to do about each kind of finding."""

FINDINGS = pl.Schema(
    {
        "contact": pl.String(),
        "kind": pl.Enum(list(ADVICE)),
        "field": pl.String(),
        "value": pl.String(),
        "amount": POINTS,
    }
)
"""`amount`: the points that the finding is about, of an opening row, of rows kept apart, or of a contact left out."""

_ONE_SECOND = timedelta(seconds=1)
_ROW = ("c", "kind", "date_time", "position", "amount", "expires_at", "comment", "receipt_nr")
_NOTHING = pl.lit(0, POINTS)


@dataclass(slots=True)
class Figures:
    """How movements and points were treated. Each sum is computed separately, so that they can be compared.

    Attributes:
        movements: How many the logs have, by how they were treated.
        contacts: How many are in the roster, in the files, without rows, left out.
        balances: Points of the roster, of all its contacts.
        logs: Points of the movements that became rows.
        openings: Points of opening rows.
        later: What balances read after the cut-off contain too much.
        left_out: Points of contacts that are in no file.
        rounding: What Engage does not keep: rounded minus exact.
        rows: Points of all rows.
    """

    movements: Counter[str] = field(default_factory=Counter)
    contacts: Counter[str] = field(default_factory=Counter)
    balances: Decimal = Decimal(0)
    logs: Decimal = Decimal(0)
    openings: Decimal = Decimal(0)
    later: Decimal = Decimal(0)
    left_out: Decimal = Decimal(0)
    rounding: Decimal = Decimal(0)
    rows: Decimal = Decimal(0)

    def add(self, other: Figures) -> None:
        """Add the figures of other contacts."""
        self.movements += other.movements
        self.contacts += other.contacts
        with localcontext(prec=PRECISION):
            for name in ("balances", "logs", "openings", "later", "left_out", "rounding", "rows"):
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def check(self) -> None:
        """Raise ArithmeticError unless the sums agree."""
        with localcontext(prec=PRECISION):
            by_balance = self.balances - self.later - self.left_out + self.rounding
            by_movement = self.logs + self.openings + self.rounding
        if not self.rows == by_balance == by_movement:
            raise ArithmeticError(f"the sums of the migration don't agree: {self}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows (as `meaning.file_rows` wants them, and `contact`), findings and figures of some contacts."""

    rows: pl.DataFrame
    findings: pl.DataFrame
    figures: Figures


def of_balances(roster: pl.DataFrame, cut_off: datetime, decimals: int, words: str) -> Chunk:
    """Return one row for each contact with points, and no log."""
    figures = Figures()
    roster, findings = _with_key(roster, figures)
    rows = roster.filter(pl.col("balance") != 0).select(
        "contact",
        "key",
        pl.lit(OPENING_KIND, pl.Int8).alias("kind"),
        pl.lit(cut_off, MOMENT).alias("date_time"),
        pl.col("balance").alias("amount"),
        pl.lit(None, MOMENT).alias("valid_to"),
        pl.lit(words).alias("comment"),
        pl.lit(None, pl.String).alias("receipt_nr"),
    )
    figures.openings = _sum(rows["amount"])
    rows = rows.with_columns(_rounded("amount", decimals)).filter(pl.col("amount") != 0)
    return _checked(rows, roster, findings, figures, decimals)


def of_logs(movements: pl.DataFrame, roster: pl.DataFrame, cut_off: datetime, decimals: int) -> Chunk:
    """Return the rows of these contacts. `movements` and `roster` are both in order of contacts."""
    figures = Figures()
    known, findings = _placed(movements, roster, figures)
    roster, missing = _with_key(roster.with_row_index("c"), figures)
    figures.movements["key_missing"] = 0 if missing.is_empty() else _others(known, roster)
    known = _in_time_order(known)
    log, apart = _sorted_out(known, roster, cut_off, figures)
    roster, later = _at_the_cut_off(roster, known, cut_off, figures)
    sums = log.group_by("c").agg(pl.col("amount").sum().alias("log"), pl.col("date_time").first().alias("first"))
    roster = roster.join(sums, on="c", how="left", maintain_order="left").with_columns(
        opening=pl.col("balance") - pl.col("log").fill_null(_NOTHING)
    )
    figures.logs = _sum(log["amount"])
    figures.openings = _sum(roster["opening"])
    rows = _with_openings(log.filter(pl.col("amount") != 0), roster, cut_off)
    rows = _rounded_together(with_expiry(rows, cut_off), decimals)
    rows = rows.join(roster.select("c", "contact", "key"), on="c", how="left", maintain_order="left").drop("c")
    said = [findings, missing, apart, later, _closed(roster, known, apart)]
    return _checked(rows, roster, pl.concat(said), figures, decimals)


def _placed(movements: pl.DataFrame, roster: pl.DataFrame, figures: Figures) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give every movement the place `c` of its contact in the roster. Also return findings about those without one."""
    known = movements.join(
        roster.select("contact").with_row_index("c"), on="contact", how="left", maintain_order="left"
    )
    strangers = known.filter(pl.col("c").is_null())
    real = pl.col("position").is_not_null()
    figures.movements["read"] = known.filter(real).height
    figures.movements["not_in_roster"] = strangers.filter(real).height
    found = strangers.group_by("contact", maintain_order=True).agg(pl.col("amount").sum())
    return known.filter(pl.col("c").is_not_null()), _findings(found, "not_in_roster", "contact", pl.col("contact"))


def _with_key(roster: pl.DataFrame, figures: Figures) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the contacts that can be written, and findings about the others."""
    figures.contacts["roster"] = roster.height
    figures.balances = _sum(roster["balance"])
    missing = pl.col("key").fill_null("") == ""
    unusable = ~missing & is_no_key(pl.col("key"))
    left_out = {"key_missing": roster.filter(missing), "key_unusable": roster.filter(unusable)}
    found = []
    for kind, contacts in left_out.items():
        figures.contacts[kind] = contacts.height
        figures.left_out += _sum(contacts["balance"])
        found.append(_findings(contacts.with_columns(amount="balance"), kind, "key", pl.col("key").fill_null("")))
    return roster.filter(~missing & ~unusable), pl.concat(found)


def _in_time_order(movements: pl.DataFrame) -> pl.DataFrame:
    """Sort each contact's movements. An answer that starts with the newest is reversed."""
    earlier = (pl.col("date_time") < pl.col("date_time").shift(1)) & (pl.col("c") == pl.col("c").shift(1))
    if not movements.select(earlier.any()).item():
        return movements
    newest_first = (pl.col("date_time").first() > pl.col("date_time").last()).over("c")
    place = pl.when(newest_first).then(-pl.col("position")).otherwise("position")
    return movements.with_columns(place=place).sort("c", "date_time", "place").drop("place")


def _sorted_out(
    movements: pl.DataFrame, roster: pl.DataFrame, cut_off: datetime, figures: Figures
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the movements up to the cut-off that have a meaning, and findings about those that are kept apart."""
    movements = movements.join(roster.select("c"), on="c", how="semi", maintain_order="left").filter(
        pl.col("position").is_not_null()
    )
    movements = movements.with_columns(kind=kinds(pl.col("transaction_type")))
    until = pl.col("date_time") <= cut_off
    informational = _informational()
    unknown = pl.col("kind").is_null() & ~informational
    unusable = pl.col("kind").is_not_null() & pl.col("amount").is_null()
    counts = movements.select(
        after_cut_off=(~until).sum(),
        informational=(until & informational).sum(),
        kept_apart=(until & (unknown | unusable)).sum(),
        zero=(until & (pl.col("amount") == 0) & pl.col("kind").is_not_null()).sum(),
        used=(until & (pl.col("amount") != 0) & pl.col("kind").is_not_null()).sum(),
    )
    figures.movements.update({name: int(count) for name, count in counts.row(0, named=True).items()})
    apart = []
    for kind, which, column in (
        ("unknown_type", unknown, "transaction_type"),
        ("unusable_amount", unusable, "unusable"),
    ):
        rows = movements.filter(until & which)
        grouped = rows.group_by("contact", column, maintain_order=True).agg(pl.col("amount").sum())
        name = "transactionType" if column == "transaction_type" else "amount"
        apart.append(_findings(grouped, kind, name, pl.col(column)))
    log = until & pl.col("kind").is_not_null() & pl.col("amount").is_not_null()
    return movements.filter(log), pl.concat(apart)


def _at_the_cut_off(
    roster: pl.DataFrame, movements: pl.DataFrame, cut_off: datetime, figures: Figures
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take back what balances contain from movements after the cut-off.

    A balance is from the moment it was read. If it is the one after a later movement, the balance after the last movement before the cut-off
    counts instead.
    """
    after = pl.col("date_time") > cut_off
    later = movements.filter(after).join(roster.select("c", of_roster="balance"), on="c", how="inner")
    reached = later.filter(pl.col("balance") == pl.col("of_roster")).select("c").unique()
    if reached.is_empty():
        return roster, pl.DataFrame(schema=FINDINGS)
    begun = later.group_by("c").agg(_before(pl.col("balance")).drop_nulls().first().alias("begun"))
    until = movements.filter(~after).group_by("c").agg(pl.col("balance").drop_nulls().last().alias("at"))
    held = (
        reached.join(begun, on="c", how="left").join(until, on="c", how="left").select("c", pl.coalesce("at", "begun"))
    )
    roster = roster.join(held, on="c", how="left", maintain_order="left").with_columns(
        amount=(pl.col("balance") - pl.col("at")).fill_null(_NOTHING)
    )
    figures.later = _sum(roster["amount"])
    found = _findings(roster.filter(pl.col("amount") != 0), "later_balance", "balance", _text("balance"))
    return roster.with_columns(balance=pl.coalesce("at", "balance")).drop("at", "amount"), found


def _informational() -> pl.Expr:
    """Whether a movement moves no points, whatever its amount is."""
    return pl.col("transaction_type").is_in(list(wire.INFORMATIONAL))


def _before(balance: pl.Expr) -> pl.Expr:
    """The balance before a movement."""
    return balance - pl.when(_informational()).then(_NOTHING).otherwise("amount")


def _with_openings(log: pl.DataFrame, roster: pl.DataFrame, cut_off: datetime) -> pl.DataFrame:
    """Put an opening row first for each contact whose log does not add up to its balance."""
    log = log.select(_ROW)
    closing = roster.filter(pl.col("opening") != 0)
    if closing.is_empty():
        return log
    openings = closing.select(
        "c",
        kind=pl.lit(OPENING_KIND, pl.Int8),
        date_time=(pl.col("first") - _ONE_SECOND).fill_null(cut_off),
        position=pl.lit(-1, pl.Int32),
        amount="opening",
        expires_at=pl.lit(None, MOMENT),
        comment=pl.lit(None, pl.String),
        receipt_nr=pl.lit(None, pl.String),
    )
    return pl.concat([openings, log]).sort("c", maintain_order=True)


def _closed(roster: pl.DataFrame, movements: pl.DataFrame, apart: pl.DataFrame) -> pl.DataFrame:
    """Return findings about contacts whose log does not add up to their balance, even with what was kept apart."""
    explained = apart.group_by("contact").agg(pl.col("amount").sum().alias("opening"))
    closing = roster.filter(pl.col("opening") != 0).join(
        explained, on=["contact", "opening"], how="anti", maintain_order="left"
    )
    if closing.is_empty():
        return pl.DataFrame(schema=FINDINGS)
    begun = movements.group_by("c", maintain_order=True).agg(
        _before(pl.col("balance")).drop_nulls().first().alias("begun"), pl.col("position").max().alias("last")
    )
    closing = closing.join(begun, on="c", how="left", maintain_order="left").with_columns(amount="opening")
    fetched, empty = pl.col("c").is_in(begun["c"].implode()), pl.col("last").is_null()
    older = (pl.col("begun") == pl.col("opening")).fill_null(value=False)
    sums = _text("log")
    none = pl.lit("none")
    return pl.concat(
        [
            _findings(closing.filter(~fetched), "log_not_fetched", "log", none),
            _findings(closing.filter(fetched & empty), "log_empty", "log", none),
            _findings(closing.filter(fetched & ~empty & older), "beginning_missing", "balance", sums),
            _findings(closing.filter(fetched & ~empty & ~older), "does_not_add_up", "balance", sums),
        ]
    )


def _rounded_together(rows: pl.DataFrame, decimals: int) -> pl.DataFrame:
    """Round the amounts so that sums stay right, both of all rows and of what is left after each expiry.

    A row's amount is the difference of two rounded sums. They are taken over the rows without a date first, in time
    order, then over those with one, the last to expire first.
    """
    finer = rows.filter(pl.col("amount") != _rounded("amount", decimals)).select("c").unique()
    if finer.is_empty():
        return rows
    rows = rows.with_row_index("r")
    concerned = rows.join(finer, on="c", how="semi", maintain_order="left").sort(
        "c", "valid_to", "r", descending=[False, True, False], nulls_last=False
    )
    reached = pl.col("amount").cum_sum().over("c").round(decimals, mode="half_away_from_zero")
    concerned = concerned.with_columns(reached=reached)
    before = pl.col("reached").shift(1, fill_value=0).over("c")
    concerned = concerned.with_columns(amount=pl.col("reached") - before).drop("reached")
    others = rows.join(finer, on="c", how="anti", maintain_order="left")
    return pl.concat([others, concerned]).filter(pl.col("amount") != 0).sort("r").drop("r")


def _checked(
    rows: pl.DataFrame, roster: pl.DataFrame, findings: pl.DataFrame, figures: Figures, decimals: int
) -> Chunk:
    """Compare the sum of each contact's rows with its balance. Raises ArithmeticError."""
    sums = rows.group_by("contact").agg(pl.col("amount").sum())
    wanted = roster.select("contact", "balance", rounded=_rounded("balance", decimals))
    held = wanted.join(sums, on="contact", how="left", maintain_order="left").with_columns(
        pl.col("amount").fill_null(_NOTHING)
    )
    wrong = held.filter(pl.col("amount") != pl.col("rounded"))
    if not wrong.is_empty():
        raise ArithmeticError(f"the rows of contact {wrong['contact'][0]} do not add up to its balance")
    figures.contacts["written"] = sums.height
    figures.contacts["without_points"] = roster.height - sums.height
    figures.rounding = _sum(held["rounded"] - held["balance"])
    figures.rows = _sum(rows["amount"])
    figures.check()
    return Chunk(rows, findings, figures)


def _findings(rows: pl.DataFrame, kind: str, name: str, value: pl.Expr) -> pl.DataFrame:
    if "amount" not in rows.columns:
        rows = rows.with_columns(amount=pl.lit(None, POINTS))
    return rows.select("contact", kind=pl.lit(kind), field=pl.lit(name), value=value, amount="amount").cast(FINDINGS)


def _others(movements: pl.DataFrame, roster: pl.DataFrame) -> int:
    """Return how many movements belong to contacts that are not in this roster."""
    real = movements.filter(pl.col("position").is_not_null())
    return real.height - real.join(roster.select("c"), on="c", how="semi").height


def _rounded(name: str, decimals: int) -> pl.Expr:
    return pl.col(name).round(decimals, mode="half_away_from_zero")


def _sum(points: pl.Series) -> Decimal:
    return Decimal(points.sum() or 0)


def _text(name: str) -> pl.Expr:
    """A number of points without the zeros that only the stored form has."""
    return pl.col(name).cast(pl.String).str.strip_chars_end("0").str.strip_chars_end(".")
