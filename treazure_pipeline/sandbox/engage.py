"""Engage over HTTP: queued balances, added transactions, reads; the same under /api/v2 and /api/v3."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from treazure_pipeline.sandbox.batches import BatchError, Refusals, accept, new_transaction_id
from treazure_pipeline.sandbox.behavior import API_KEY
from treazure_pipeline.sandbox.follower import MOST_DEFINITIONS, Added, account_number
from treazure_pipeline.sandbox.points import AmountError, moment_text, to_decimal, to_micros, to_units
from treazure_pipeline.sandbox.wire import answer, call_of, documented_body, world_of
from treazure_pipeline.sandbox.world import SECOND, World, WrongRequestError

router = APIRouter(tags=["Engage"])

_MOST_ADDED_ROWS = 1000
_MOST_OF_ACCOUNT = 100_000
_IDEMPOTENCY_SECONDS = 86_400
_USER_AGENT = re.compile(r"\S+/\S+.*")
_EXAMPLE_ROW = {
    "contactId": "00000000-0000-0000-0000-000000000001",
    "amount": 122,
    "definitionId": 1,
    "timeStamp": "2023-05-16T12:20:03.807Z",
}
_EXAMPLE_ADDED_ROW = _EXAMPLE_ROW | {
    "source": "Migration",
    "description": "Opening balance",
    "validFrom": None,
    "validTo": None,
}


_Required = Annotated[str, msgspec.Meta(pattern=r"\S")]


class _AddedRow(msgspec.Struct, rename="camel"):
    contact_id: str
    amount: Decimal
    definition_id: int
    source: _Required
    description: _Required
    time_stamp: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None


@router.post("/point-accounts/balances", openapi_extra=documented_body([_EXAMPLE_ROW]))
async def set_balances(request: Request) -> Response:
    """Set totals. Accepted does not mean applied: a job applies them later."""
    return await run_in_threadpool(_checked, request, lambda world: _set_balances(world, request))


@router.post("/point-accounts/transactions", openapi_extra=documented_body([_EXAMPLE_ADDED_ROW]))
async def add_transactions(request: Request) -> Response:
    """Add points. A repeated `Idempotency-Key` gets the first answer for 24 hours and adds nothing."""
    return await run_in_threadpool(_checked, request, lambda world: _add_transactions(world, request))


@router.get("/point-accounts/definitions")
def definitions(
    request: Request, offset: Annotated[int, Query(ge=0)] = 0, count: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Response:
    """The point definitions."""

    def work(world: World) -> Response:
        return answer(_definitions(world)[offset : offset + count])

    return _checked(request, work)


@router.get("/point-accounts/definitions/{definition_id}")
def read_definition(definition_id: int, request: Request) -> Response:
    """One point definition."""

    def work(world: World) -> Response:
        found = next((one for one in _definitions(world) if one["id"] == definition_id), None)
        return answer({"message": "Not found"}, 404) if found is None else answer(found)

    return _checked(request, work)


@router.get("/point-accounts/transactions")
def read_transactions(
    request: Request,
    contact_id: Annotated[str | None, Query(alias="contactId")] = None,
    definition_id: Annotated[int | None, Query(alias="definitionId")] = None,
    account_id: Annotated[int | None, Query(alias="accountId")] = None,
    filter_: Annotated[Literal["All", "Active", "Pending"], Query(alias="filter")] = "All",
    offset: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The transactions that were added to an account, or to a contact's accounts. Set balances are not among them."""

    def work(world: World) -> Response:
        if contact_id is None and account_id is None:
            return answer({"message": "accountId, or contactId with definitionId, is required"}, 400)
        with world.lock:
            if account_id is None:
                found, numbers = int(world.members.find([contact_id or ""])[0]), [definition_id or 0]
                numbers = list(world.followers) if definition_id is None else numbers
            else:
                found, number = _of_account(world, account_id)
                numbers = [number]
            items = [item for number in numbers for item in _transactions(world, found, number)]
        now = moment_text(world.engage_now())
        wanted = {"All": (False, True), "Active": (False,), "Pending": (True,)}[filter_]
        return _page(world, [item for item in items if ((item["validFrom"] or "") > now) in wanted], offset, count)

    return _checked(request, work)


@router.get("/point-accounts/transactions/{transaction_id}")
def read_transaction(transaction_id: int, request: Request) -> Response:
    """One transaction."""

    def work(world: World) -> Response:
        with world.lock:
            found, number = _of_account(world, transaction_id // _MOST_OF_ACCOUNT)
            known = {item["id"]: item for item in _transactions(world, found, number)}
        return answer(known[transaction_id]) if transaction_id in known else answer({"message": "Not found"}, 404)

    return _checked(request, work)


@router.get("/point-accounts")
def read_accounts(
    request: Request,
    contact_id: Annotated[str, Query(alias="contactId")],
    offset: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """A contact's point accounts."""

    def work(world: World) -> Response:
        with world.lock:
            found = int(world.members.find([contact_id])[0])
            accounts = [_point_account(world, found, number) for number in world.followers] if found >= 0 else []
        items = [account for account in accounts if account is not None]
        return _page(world, items, offset, count)

    return _checked(request, work)


@router.get("/point-accounts/{account_id}")
def read_account(account_id: str, request: Request) -> Response:
    """One point account."""

    def work(world: World) -> Response:
        with world.lock:
            found, number = _of_account(world, int(account_id) if account_id.isdecimal() else 0)
            account = _point_account(world, found, number) if found >= 0 else None
        return answer({"message": "Not found"}, 404) if account is None else answer(account)

    return _checked(request, work)


@router.get("/contacts/count")
def contact_count(request: Request) -> Response:
    """How many contacts Engage has."""
    return _checked(request, lambda world: answer(int(world.known.sum())))


@router.get("/contacts/{contact_type}/count")
def contact_count_of_type(contact_type: str, request: Request) -> Response:
    """How many contacts of a type Engage has. Here all are members."""
    return _checked(request, lambda world: answer(int(world.known.sum()) if contact_type.lower() == "member" else 0))


def _checked(request: Request, work: Callable[[World], Response]) -> Response:
    """Do the work for a caller that sends the mandatory headers and the key."""
    world, headers = world_of(request), request.headers
    is_asked_for = request.method != "GET" or world.behavior.content_type == "always"
    if is_asked_for and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return answer({"message": "An error has occurred"}, 500)
    if not _USER_AGENT.fullmatch(headers.get("user-agent", "")):
        return answer({"message": "User-Agent must be <system>/<version>"}, 400)
    if headers.get("apikey") != API_KEY:
        return answer({"message": "Authorization has been denied for this request"}, 401)
    try:
        return work(world)
    except (BatchError, msgspec.MsgspecError) as error:
        return answer({"message": str(error)}, 400)
    except WrongRequestError as error:
        return answer({"message": str(error)}, 404)


def _set_balances(world: World, request: Request) -> Response:
    batch = call_of(request).batch
    assert batch is not None
    refusals = accept(world, batch)
    status, shape, name = world.behavior.accept_status, world.behavior.transaction_id, new_transaction_id()
    listed = {one.encode_name: getattr(refusals, one.name) for one in msgspec.structs.fields(refusals)}
    if refusals.not_accepted:
        # An answer that lists refused rows has a body.
        named = {} if shape in {"none", "empty", "bare", "number"} else {shape: name}
        return answer(listed | named, 200 if status == 204 else status)
    if shape == "empty" or status == 204:
        return Response(b"", status)
    bodies = {"bare": name, "number": int(name[:12], 16), "none": listed}
    return answer(bodies.get(shape, {shape: name, **listed}), status)


def _add_transactions(world: World, request: Request) -> Response:
    call = call_of(request)
    key = call.headers.get("idempotency-key")
    with world.lock:
        now = world.engage_now()
        if key in world.idempotent and world.idempotent[key][0] > now - _IDEMPOTENCY_SECONDS * SECOND:
            return Response(world.idempotent[key][1], 200, media_type="application/json")
        rows = msgspec.json.decode(call.body, type=list[msgspec.Raw])
        if len(rows) > _MOST_ADDED_ROWS:
            msg = f"At most {_MOST_ADDED_ROWS} rows are allowed, the request has {len(rows)}"
            raise BatchError(msg)
        refusals = Refusals()
        for raw in rows:
            _add_transaction(world, raw, refusals)
        result = answer(refusals)
        if key:
            world.idempotent[key] = (now, bytes(result.body))
        return result


def _add_transaction(world: World, raw: msgspec.Raw, refusals: Refusals) -> None:
    try:
        row = msgspec.json.decode(raw, type=_AddedRow)
        units = to_units(row.amount)
    except (msgspec.MsgspecError, AmountError) as error:
        refusals.not_accepted.append(raw.copy())
        refusals.error_messages.append(str(error))
        return
    found = int(world.members.find([row.contact_id])[0])
    if row.definition_id not in world.followers:
        refusals.not_accepted.append(raw.copy())
        refusals.error_messages.append(f"Point definition {row.definition_id} does not exist")
        refusals.missing_definition_ids.append(row.definition_id)
    elif found < 0 or not world.known[found]:
        refusals.not_accepted.append(raw.copy())
        refusals.error_messages.append(f"Contact {row.contact_id} does not exist")
        refusals.missing_contact_ids.append(row.contact_id)
    else:
        follower = world.follower(row.definition_id)
        stamp = world.engage_now() if row.time_stamp is None else to_micros(row.time_stamp)
        due = world.engage_now() + int(world.behavior.apply_delay * SECOND)
        expires = to_micros(row.valid_to) if row.valid_to else 0
        follower.accept_addition(due, found, units, stamp, expires)
        follower.added.setdefault(found, []).append(
            Added(units, stamp, row.source, row.description, _text(row.valid_from), _text(row.valid_to))
        )
        if world.behavior.balance_events and due > world.engage_now():
            world.deliveries.settle_at(due)
        follower.settle(world.engage_now(), world.behavior)


def _definitions(world: World) -> list[dict[str, Any]]:
    named = sorted((definition, loyalty_id) for loyalty_id, definition in world.seed.programmes.items())
    return [
        {"id": definition, "name": f"Points {loyalty_id}", "description": f"Points of {loyalty_id}"}
        for definition, loyalty_id in named
    ]


def _of_account(world: World, account_id: int) -> tuple[int, int]:
    """Return the member and the definition of an account; the member is -1 if there is no such account."""
    member, number = divmod(account_id, MOST_DEFINITIONS)
    is_there = number in world.followers and 0 < member <= len(world.known)
    return (member - 1, number) if is_there else (-1, number)


def _transactions(world: World, member: int, definition_id: int) -> list[dict[str, Any]]:
    if member < 0 or definition_id not in world.followers:
        return []
    account = account_number(member, definition_id)
    return [
        {
            "id": account * _MOST_OF_ACCOUNT + position,
            "accountId": account,
            "amount": to_decimal(added.amount),
            "transactionDate": moment_text(added.stamp),
            "createdOn": moment_text(added.stamp),
            "type": "Adjustment",
            "source": added.source,
            "description": added.description,
            "validFrom": added.valid_from,
            "validTo": added.valid_to,
        }
        for position, added in enumerate(world.followers[definition_id].added.get(member, ()), 1)
    ]


def _page(world: World, items: list[Any], offset: int, count: int) -> Response:
    page = items[offset : offset + count]
    how = world.behavior.paging
    counts = {"count": len(items) if how == "count" else len(page)}
    if how == "totalCount":
        counts["totalCount"] = len(items)
    return answer({"links": [], **counts, "offset": offset, "items": page})


def _point_account(world: World, member: int, definition_id: int) -> dict[str, Any] | None:
    follower = world.follower(definition_id)
    if not follower.exists[member] or not world.known[member]:
        return None
    contact = world.members.text(member)
    return {
        "id": account_number(member, definition_id),
        "contactId": contact,
        "definitionId": definition_id,
        "balance": to_decimal(int(follower.balance[member])),
        "balanceExpires": None,
        "pendingPoints": 0,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(to_micros(moment))
