"""Requests that set balances in Engage: read in columns, observed, accepted row by row."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from treazure_pipeline.sandbox.members import BROKEN
from treazure_pipeline.sandbox.observations import Flight
from treazure_pipeline.sandbox.points import UNIT, parse_moment, to_units
from treazure_pipeline.sandbox.world import SECOND

if TYPE_CHECKING:
    from treazure_pipeline.sandbox.points import Indices, Integers
    from treazure_pipeline.sandbox.world import World


class _Row(msgspec.Struct, frozen=True, rename="camel"):
    contact_id: str
    amount: Decimal
    definition_id: int
    time_stamp: str


_ROWS = msgspec.json.Decoder(list[_Row])
_ROW = msgspec.json.Decoder(_Row)
_TEXT_AMOUNT = re.compile(rb'"amount"\s*:\s*"')
_RAW_ROWS = msgspec.json.Decoder(list[msgspec.Raw])


class BatchError(ValueError):
    """A request that is refused as a whole."""


@dataclass(slots=True)
class Batch:
    """The rows of one request in columns; `wrong` has the reason for each position without a valid row."""

    body: bytes
    contacts: list[str] = field(default_factory=list)
    member: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    definition: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    amount: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    stamp: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    wrong: dict[int, str] = field(default_factory=dict)
    refusal: str | None = None


class Refusals(msgspec.Struct, rename="camel"):
    """What an answer lists about the rows that were skipped."""

    not_accepted: list[msgspec.Raw] = msgspec.field(default_factory=list)
    error_messages: list[str] = msgspec.field(default_factory=list)
    missing_contact_ids: list[str] = msgspec.field(default_factory=list)
    missing_definition_ids: list[int] = msgspec.field(default_factory=list)


def read_batch(world: World, body: bytes) -> Batch:
    """Read the rows of a request. Never fails: what is wrong is in the result."""
    batch = Batch(body)
    try:
        _read_columns(batch)
    except (ValueError, OverflowError):
        try:
            _read_row_by_row(batch)
        except msgspec.MsgspecError as error:
            batch.refusal = f"The request is no array of balances: {error}"
            return batch
    with world.lock:
        batch.member = world.members.find(batch.contacts)
    for at in np.nonzero(batch.member == BROKEN)[0].tolist():
        batch.wrong.setdefault(at, f"contactId {batch.contacts[at]!r} is no GUID")
    world.observations.add("received", len(batch.contacts))
    return batch


def _read_columns(batch: Batch) -> None:
    """Read rows if all are valid; raises ValueError (as msgspec does) or OverflowError if one isn't."""
    if _TEXT_AMOUNT.search(batch.body):
        msg = "an amount is a text"
        raise ValueError(msg)
    rows = _ROWS.decode(batch.body)
    units = [row.amount * UNIT for row in rows]
    whole = list(map(int, units))
    if whole != units:
        msg = "an amount has more decimals than the sandbox keeps"
        raise ValueError(msg)
    moments = {text: parse_moment(text) for text in {row.time_stamp for row in rows}}
    batch.contacts = [row.contact_id for row in rows]
    batch.definition = np.array([row.definition_id for row in rows], np.int64)
    batch.amount = np.array(whole, np.int64)
    batch.stamp = np.array([moments[row.time_stamp] for row in rows], np.int64)


def _read_row_by_row(batch: Batch) -> None:
    """Read rows of which some are wrong; raises msgspec.MsgspecError if the body is not an array."""
    rows = _RAW_ROWS.decode(batch.body)
    batch.contacts = [""] * len(rows)
    batch.definition, batch.amount, batch.stamp = (np.zeros(len(rows), np.int64) for _ in range(3))
    for at, raw in enumerate(rows):
        try:
            _read_row(batch, at, raw)
        except (ValueError, OverflowError) as error:
            batch.wrong[at] = f"Row {at}: {error}"


def _read_row(batch: Batch, at: int, raw: msgspec.Raw) -> None:
    row = _ROW.decode(raw)
    if _TEXT_AMOUNT.search(raw):
        raise ValueError("amount is no number")
    batch.contacts[at], batch.definition[at] = row.contact_id, row.definition_id
    batch.amount[at], batch.stamp[at] = to_units(row.amount), parse_moment(row.time_stamp)


def take_off(world: World, batch: Batch, arrival: float) -> list[Flight]:
    """Observe that a request about these rows is under way; one flight for each definition."""
    if not world.behavior.track_rows:
        return []
    flights = []
    about_member = batch.member >= 0
    for definition in np.unique(batch.definition[about_member]).tolist():
        rows = about_member & (batch.definition == definition)
        flight = Flight(definition, batch.member[rows], arrival)
        world.observations.take_off(flight, batch.stamp[rows], world.members)
        flights.append(flight)
    return flights


def accept(world: World, batch: Batch) -> Refusals:
    """Put the good rows into Engage's queue and say which ones were skipped; raises BatchError."""
    if batch.refusal:
        raise BatchError(batch.refusal)
    behavior = world.behavior
    if len(batch.contacts) > behavior.max_rows:
        msg = f"At most {behavior.max_rows} rows are allowed, the request has {len(batch.contacts)}"
        raise BatchError(msg)
    poison = {guid.lower() for guid in behavior.poison}
    if poison and not poison.isdisjoint(contact.lower() for contact in batch.contacts):
        msg = "The request could not be processed"
        raise BatchError(msg)
    swallows = world.faults.take("set_balances", "swallowed")
    swallowed_share = 0.0 if swallows is None else 1.0 if swallows.share is None else swallows.share
    with world.lock:
        good = np.zeros(len(batch.contacts), np.bool_)
        member = np.maximum(batch.member, 0)
        if len(world.members):
            good = (batch.member >= 0) & world.known[member]
        good &= np.isin(batch.definition, list(world.followers))
        for at in batch.wrong:
            good[at] = False
        due = world.engage_now() + int(behavior.apply_delay * SECOND)
        for definition in np.unique(batch.definition[good]).tolist():
            rows = np.nonzero(good & (batch.definition == definition))[0]
            _accept_rows(world, batch, definition, rows, due=due, swallowed=swallowed_share)
        world.observations.add("refused", len(good) - int(good.sum()))
        return _refusals(world, batch, np.nonzero(~good)[0].tolist())


def new_transaction_id() -> str:
    """An id for an accepted request."""
    return secrets.token_hex(16)


def _accept_rows(world: World, batch: Batch, definition: int, rows: Indices, *, due: int, swallowed: float) -> None:
    follower = world.follower(definition)
    member, amount, stamp = batch.member[rows], batch.amount[rows], batch.stamp[rows]
    world.observations.add("accepted", len(rows))
    if world.behavior.track_rows:
        world.observations.accepted(definition, member, stamp, world.members)
    if world.behavior.track_amounts:
        master = next(master for master in world.masters.values() if master.definition_id == definition)
        world.observations.follow_amounts(master, member, amount, world.members)
    lost = round(len(rows) * swallowed)
    world.observations.add("swallowed", lost)
    follower.accept(due, member[lost:], amount[lost:], stamp[lost:])
    if world.behavior.balance_events and due > world.engage_now():
        world.deliveries.settle_at(due)
    follower.settle(world.engage_now(), world.behavior)


def _refusals(world: World, batch: Batch, positions: list[int]) -> Refusals:
    refusals = Refusals()
    if not positions:
        return refusals
    raw = _RAW_ROWS.decode(batch.body)
    missing_definitions: dict[int, None] = {}
    for at in positions:
        contact, definition = batch.contacts[at], int(batch.definition[at])
        refusals.not_accepted.append(raw[at].copy())
        if at in batch.wrong:
            refusals.error_messages.append(batch.wrong[at])
        elif definition not in world.followers:
            missing_definitions[definition] = None
            refusals.error_messages.append(f"Point definition {definition} does not exist")
        else:
            refusals.missing_contact_ids.append(contact)
            refusals.error_messages.append(f"Contact {contact} does not exist")
    refusals.missing_definition_ids = list(missing_definitions)
    return refusals
