"""The sandbox's own endpoints: state, switches, faults, hours of shopping, observations. No authentication."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from treazure_pipeline.sandbox import imports
from treazure_pipeline.sandbox.behavior import LOYALTY_ID, Behavior
from treazure_pipeline.sandbox.dialects import DIALECTS, draw
from treazure_pipeline.sandbox.faults import DEFAULT_ON, SAYS, Fault, FaultName
from treazure_pipeline.sandbox.observations import Observations
from treazure_pipeline.sandbox.points import AmountError, moment_text, to_text, to_units
from treazure_pipeline.sandbox.webhooks import UnknownMessageError
from treazure_pipeline.sandbox.wire import documented_body, world_of
from treazure_pipeline.sandbox.world import Seed, World, WrongRequestError

router = APIRouter(prefix="/sandbox", tags=["Sandbox"])

REFUSED: dict[type[Exception], int] = {
    WrongRequestError: 404,
    UnknownMessageError: 404,
    AmountError: 422,
    imports.RefusedFileError: 422,
}

Limit = Annotated[int, Query(ge=0, le=100_000)]
Offset = Annotated[int, Query(ge=0)]


class Reset(BaseModel):
    """A fresh start, also for faults, switches and observations."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 1
    members: int = Field(1000, ge=0)
    programmes: dict[str, int] = Field({LOYALTY_ID: 1}, description="loyalty id to definition id")
    unknown_share: float = Field(0, ge=0, le=1, description="share of the members that are not contacts in Engage")
    in_step: bool = Field(False, description="Engage starts with Treazure's balances")
    # Scripts may still use the spelling of the first versions, here and in the address below.
    behavior: Behavior = Field(default_factory=Behavior, validation_alias=AliasChoices("behavior", "behaviour"))


class Hour(BaseModel):
    """One hour of shopping."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(0.02, ge=0, le=1, description="share of the members that do something")
    changes: int | None = Field(None, ge=0, description="exactly this many members instead")
    joins: int = Field(0, ge=0, description="new members, known to both systems")
    late: float = Field(
        0, ge=0, description="seconds ago that it happened: Treazure commits it now, with the time of then"
    )
    loyalty_ids: list[str] = Field(default_factory=list, description="programmes; none: all")


class Mutation(BaseModel):
    """Points to set or add, as exact decimal texts or numbers, by contact GUID."""

    model_config = ConfigDict(extra="forbid")

    points: dict[str, str | int | float]
    adds: bool = Field(False, description="change by the points, instead of setting the balance to them")
    loyalty_id: str | None = Field(None, description="none: the first programme")


class EngagePoints(BaseModel):
    """What Engage is to hold, as exact decimal texts or numbers by contact GUID; null: no account."""

    model_config = ConfigDict(extra="forbid")

    points: dict[str, str | int | float | None]
    loyalty_id: str | None = Field(None, description="none: the first programme")


class Balances(BaseModel):
    """Whose balances to return: these contacts', or those of a page of all members."""

    model_config = ConfigDict(extra="forbid")

    contact_ids: list[str] = Field(default_factory=list)
    offset: int = Field(0, ge=0)
    limit: int = Field(1000, ge=0, le=100_000)
    loyalty_id: str | None = Field(None, description="none: the first programme")


class Gift(BaseModel):
    """Points given in Engage by hand or by an automation: one `loyalty.addPoints` event."""

    model_config = ConfigDict(extra="forbid")

    contact_id: str
    amount: str | int | float = Field(description="an exact decimal text or number, negative to take points")
    definition_id: int | None = Field(None, description="none: that of the first programme")
    description: str = "Points given by hand"
    source: str = "Engage"
    user_id: str = "user-1"
    user_name: str = "A user"
    reason: str = "Goodwill"
    source_id: str = ""
    event_id: str | None = Field(None, description="the body's id; none: a new one; empty: a body without an id")


class Contacts(BaseModel):
    """Members that Engage knows, or no longer knows."""

    model_config = ConfigDict(extra="forbid")

    contact_ids: list[str]
    known: bool


def refused(_: Request, error: Exception) -> JSONResponse:
    """Answer a request that can't be done."""
    return JSONResponse({"detail": str(error)}, REFUSED[type(error)])


@router.get("/state")
def state(request: Request) -> dict[str, Any]:
    """Sizes, clocks, queues."""
    world = world_of(request)
    with world.lock:
        for definition_id in world.followers:
            world.follower(definition_id)
        return {
            "seed": world.seed.seed,
            "members": len(world.members),
            "contacts": int(world.known.sum()),
            "hours": world.hours,
            "moved_seconds": world.moved_seconds,
            "treazure_now": moment_text(world.treazure_now()),
            "engage_now": moment_text(world.engage_now()),
            "programmes": [
                {
                    "loyaltyId": loyalty_id,
                    "definitionId": master.definition_id,
                    "accounts": int(world.master(loyalty_id).accounts().sum()),
                    "movements": master.sequence,
                    "uncommitted": master.uncommitted,
                    "queued": world.followers[master.definition_id].queued,
                    "applied": world.followers[master.definition_id].applied,
                    "ignored": world.followers[master.definition_id].ignored,
                    "treazure_total": to_text(sum(master.balance.tolist())),
                }
                for loyalty_id, master in world.masters.items()
            ],
        }


@router.post("/reset")
def reset(wanted: Reset, request: Request) -> dict[str, Any]:
    """Start over with another seed or size."""
    seed = Seed(wanted.seed, wanted.members, wanted.programmes, wanted.unknown_share, wanted.in_step)
    try:
        world = World(seed, wanted.behavior)
    except WrongRequestError as error:
        raise HTTPException(422, str(error)) from error
    world_of(request).deliveries.close()
    request.app.state.world = world
    return state(request)


@router.get("/behaviour", include_in_schema=False)
@router.get("/behavior")
def behavior(request: Request) -> Behavior:
    """The switches."""
    return world_of(request).behavior


@router.patch("/behaviour", include_in_schema=False)
@router.patch("/behavior")
def behave(changes: dict[str, Any], request: Request) -> Behavior:
    """Change some of the switches."""
    world = world_of(request)
    try:
        world.behavior = Behavior.model_validate(world.behavior.model_dump() | changes)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    world.deliveries.wake()
    return world.behavior


@router.get("/dialects")
def dialects(request: Request) -> dict[str, dict[str, Any]]:
    """The switches whose values are all legal answers: what each does, its values, its default, and its value now."""
    now = world_of(request).behavior
    return {
        name: {
            "does": Behavior.model_fields[name].description,
            "values": list(values),
            "default": Behavior.model_fields[name].default,
            "now": getattr(now, name),
        }
        for name, values in DIALECTS.items()
    }


@router.post("/dialects")
def draw_dialects(request: Request, seed: int) -> dict[str, Any]:
    """Draw one value of each dialect from a seed, and use them from now on."""
    drawn = draw(seed)
    behave(drawn, request)
    return drawn


@router.get("/faults")
def faults(request: Request) -> dict[str, Any]:
    """The faults that are switched on, how often each has happened, and which ones there are."""
    world = world_of(request)
    return {
        "active": [fault.model_dump(exclude_none=True) for fault in world.faults.active()],
        "fired": dict(world.faults.fired),
        "known": {name: {"does": SAYS[name], "on": list(DEFAULT_ON[name])} for name in SAYS},
    }


@router.post("/faults")
def set_fault(fault: Fault, request: Request) -> dict[str, Any]:
    """Switch one more fault on."""
    world_of(request).faults.add(fault)
    return faults(request)


@router.delete("/faults")
def clear_faults(request: Request, name: FaultName | None = None) -> dict[str, Any]:
    """Switch off all faults, or those of one name."""
    world_of(request).faults.clear(name)
    return faults(request)


@router.post("/hours")
def play_hour(hour: Hour, request: Request) -> dict[str, dict[str, int]]:
    """Members earn, spend and lose expired points; the same seed gives the same events."""
    return world_of(request).play_hour(hour.share, hour.changes, hour.joins, hour.loyalty_ids, hour.late)


@router.post("/mutate")
def mutate(mutation: Mutation, request: Request) -> dict[str, int]:
    """Set or add points of members in Treazure; unknown GUIDs become members."""
    world = world_of(request)
    points = {guid: to_units(str(points)) for guid, points in mutation.points.items()}
    return {"mutated": world.mutate(mutation.loyalty_id or next(iter(world.masters)), points, adds=mutation.adds)}


@router.post("/engage-balances")
def put_engage_balances(wanted: EngagePoints, request: Request) -> dict[str, int]:
    """Change balances in Engage by hand, past Treazure and past Engage's queue, or remove accounts."""
    world = world_of(request)
    points = {guid: None if points is None else to_units(str(points)) for guid, points in wanted.points.items()}
    return {"changed": world.put(wanted.loyalty_id or next(iter(world.masters)), points)}


@router.post("/imports", openapi_extra=documented_body(imports.EXAMPLE, "text/csv"))
async def import_points(request: Request) -> dict[str, Any]:
    """Engage imports a file of points and adds them: importing the same file twice doubles them."""
    body = await request.body()
    return await run_in_threadpool(imports.import_points, world_of(request), body)


@router.get("/keys")
def keys(request: Request, key_type: str, offset: Offset = 0, limit: Limit = 1000) -> dict[str, str]:
    """Member numbers (`MemberNumber`) or external ids (`ExternalId`) of a page of members, by contact id."""
    return imports.keys(world_of(request), key_type, offset, limit)


@router.post("/contacts")
def contacts(wanted: Contacts, request: Request) -> dict[str, int]:
    """Make members known to Engage, or unknown."""
    world_of(request).set_known(wanted.contact_ids, known=wanted.known)
    return {"changed": len(wanted.contact_ids)}


@router.post("/balances")
def balances(wanted: Balances, request: Request) -> list[dict[str, Any]]:
    """What each side holds, for the given contacts or a page of all members."""
    world = world_of(request)
    with world.lock:
        page = np.arange(wanted.offset, max(wanted.offset, min(wanted.offset + wanted.limit, len(world.members))))
        indices = world.members.find(wanted.contact_ids) if wanted.contact_ids else page
        if (indices < 0).any():
            raise HTTPException(404, "a contact is not a member")
        return world.balances(wanted.loyalty_id or next(iter(world.masters)), indices)


@router.get("/differences")
def differences(
    request: Request, loyalty_id: str | None = None, offset: Offset = 0, limit: Limit = 20
) -> dict[str, Any]:
    """Whether Engage agrees with Treazure, with counts, totals and a page of what differs."""
    world = world_of(request)
    return world.compare(loyalty_id or next(iter(world.masters)), offset, limit)


@router.get("/report")
def report(request: Request) -> dict[str, Any]:
    """What was observed about the clients since the start, or since it was last forgotten."""
    world = world_of(request)
    with world.lock:
        seen = world.observations.report()
        return seen | {
            "problems": seen["problems"] + world.adjustments.problems(),
            "adjustments": world.adjustments.report(),
            "faults": dict(world.faults.fired),
        }


@router.delete("/report")
def forget(request: Request) -> dict[str, Any]:
    """Forget what was observed."""
    world = world_of(request)
    world.observations = Observations()
    world.faults.fired.clear()
    return report(request)


@router.post("/adjustments")
def give_points(gifts: Gift | list[Gift], request: Request) -> list[dict[str, str]]:
    """Give points in Engage, which sends each to the receiver as a signed `loyalty.addPoints`."""
    world = world_of(request)
    if world.behavior.webhook_url is None:
        raise HTTPException(409, "the switch webhook_url is not set, so there is nowhere to send this")
    read = [
        (gift, Decimal(str(gift.amount)), to_units(str(gift.amount)))
        for gift in (gifts if isinstance(gifts, list) else [gifts])
    ]
    return [_give(world, gift, amount, units) for gift, amount, units in read]


@router.get("/adjustments")
def adjustments(request: Request, *, every: bool = False) -> dict[str, Any]:
    """How often Treazure booked each event that was given; `every` lists each by its id."""
    return world_of(request).adjustments.report(every=every)


@router.get("/deliveries")
def deliveries(
    request: Request, limit: Limit = 20, svix_id: str | None = None, event_id: str | None = None
) -> dict[str, Any]:
    """The webhooks by state, how they were answered, and the newest of them with every send."""
    world = world_of(request)
    coming = world.queued() if world.behavior.balance_events else 0
    seen = world.deliveries.report(limit, svix_id, event_id)
    return seen | {"idle": not coming and not seen["open"]}


@router.post("/deliveries/{svix_id}/redeliver")
def redeliver(svix_id: str, request: Request, times: Annotated[int, Query(ge=1, le=1000)] = 1) -> dict[str, Any]:
    """Send a webhook again with the same id, `times` times at once."""
    return world_of(request).deliveries.redeliver(svix_id, times).report()


@router.post("/clock")
def move_clock(request: Request, seconds: float) -> dict[str, Any]:
    """Move both systems' clocks, forward or back; tokens, exports, queues and late mutations follow."""
    world_of(request).moved_seconds += seconds
    world_of(request).deliveries.wake()
    return state(request)


@router.post("/apply")
def apply_queue(request: Request) -> dict[str, int]:
    """Let Engage's job run now, whatever the delay."""
    return {"applied": world_of(request).apply_queue()}


@router.post("/commit")
def commit(request: Request) -> dict[str, int]:
    """Make Treazure's late mutations visible now."""
    return {"committed": world_of(request).commit()}


def _give(world: World, gift: Gift, amount: Decimal, units: int) -> dict[str, str]:
    definition_id = next(iter(world.followers)) if gift.definition_id is None else gift.definition_id
    payload = {
        "amount": amount,
        "contactId": gift.contact_id,
        "pointDefinitionId": definition_id,
        "source": gift.source,
        "description": gift.description,
        "userId": gift.user_id,
        "userName": gift.user_name,
        "reason": gift.reason,
        "sourceId": gift.source_id,
    }
    message = world.deliveries.compose("loyalty.addPoints", payload, gift.event_id)
    world.adjustments.give(message.event_id, gift.contact_id, definition_id, units)
    world.deliveries.send(message)
    return {"event_id": message.event_id, "svix_id": message.svix_id}
