"""Treazure over HTTP: the token, the asynchronous export, accounts, transactions, history."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
import numpy as np
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from treazure_pipeline.sandbox.behavior import CLIENT_ID, CLIENT_SECRET, LOYALTY_ID
from treazure_pipeline.sandbox.master import KINDS, LOAD, REDEEM, Details, MasterAccounts, Movement
from treazure_pipeline.sandbox.members import UNKNOWN
from treazure_pipeline.sandbox.points import (
    UNIT,
    AmountError,
    moment_text,
    moment_texts,
    to_decimal,
    to_micros,
    to_texts,
    to_units,
)
from treazure_pipeline.sandbox.wire import answer, call_of, documented_body, ended, world_of
from treazure_pipeline.sandbox.world import SECOND, Export, World, WrongRequestError

if TYPE_CHECKING:
    from treazure_pipeline.sandbox.behavior import Behavior
    from treazure_pipeline.sandbox.faults import Fault
    from treazure_pipeline.sandbox.points import Indices, Integers

router = APIRouter(tags=["Treazure"])

SCOPE = "api_loyaltyvault"
LONGEST_COMMENT = 100  # UTF-16 units, as .NET counts
_BASE = "/api/v1.0/LoyaltyVault"
_ROWS_A_CHUNK = 20_000
_ROWS_IN_FIRST_CHUNK = 1_000
_OTHER_HOST = "https://elsewhere.example"
_EXAMPLE_GUID = "00000000-0000-0000-0000-000000000001"


class _ExportRequest(msgspec.Struct, rename="camel"):
    mutated_from: datetime
    mutated_to: datetime
    loyalty_point_definition_id: str


class _Value(msgspec.Struct):
    value: Decimal


class _ProgrammeChange(msgspec.Struct, rename="camel"):
    loyalty_point_definition_id: str
    loads: list[_Value] = msgspec.field(default_factory=list)
    redemptions: list[_Value] = msgspec.field(default_factory=list)


class _Context(msgspec.Struct, rename="camel"):
    receipt_nr: str | None = None
    shop_id: str | None = None
    pos_id: str | None = None
    operator_id: str | None = None
    comment: str | None = None


class _Transaction(msgspec.Struct, rename="camel"):
    loyalty_programs: list[_ProgrammeChange]
    context: _Context = msgspec.field(default_factory=_Context)


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@router.get("/identity/.well-known/openid-configuration")
def discovery(request: Request) -> dict[str, Any]:
    """Where the token endpoint is."""
    base = str(request.base_url).rstrip("/")
    return {
        "issuer": f"{base}/identity",
        "token_endpoint": f"{base}/identity/connect/token",
        "grant_types_supported": ["client_credentials"],
        "scopes_supported": [SCOPE],
    }


@router.post(
    "/identity/connect/token",
    openapi_extra=documented_body(
        f"grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}&scope={SCOPE}",
        "application/x-www-form-urlencoded",
    ),
)
async def token(request: Request) -> Response:
    """OAuth 2.0 client credentials."""
    world = world_of(request)
    form = {name: values[-1] for name, values in parse_qs((await request.body()).decode("utf-8", "replace")).items()}
    if form.get("client_id") != CLIENT_ID or form.get("client_secret") != CLIENT_SECRET:
        return answer({"error": "invalid_client"}, 401)
    if form.get("grant_type") != "client_credentials":
        return answer({"error": "unsupported_grant_type"}, 400)
    if form.get("scope") != SCOPE:
        return answer({"error": "invalid_scope"}, 400)
    fresh = secrets.token_hex(32)
    life = world.behavior.token_life
    world.tokens[fresh] = world.treazure_now() + int(life * SECOND)
    expires: dict[str, dict[str, object]] = {
        "number": {"expires_in": int(life)},
        "text": {"expires_in": str(int(life))},
        "missing": {},
    }
    return answer({"access_token": fresh, "token_type": "Bearer", **expires[world.behavior.token_expires]})


@router.post(
    f"{_BASE}/Balances/Get",
    openapi_extra=documented_body(
        {
            "mutatedFrom": "2026-01-01T00:00:00Z",
            "mutatedTo": "2026-01-01T04:00:00Z",
            "loyaltyPointDefinitionId": LOYALTY_ID,
        }
    ),
)
async def request_balances(request: Request) -> Response:
    """Request an export of the balances of all accounts that changed in a window."""
    return await run_in_threadpool(_request_balances, request, await request.body())


@router.get(f"{_BASE}/Balances/{{export}}/result")
def balances_result(export: str, request: Request) -> Response:
    """The export: 202 or 404 until it is ready, then an array of balances; 410 once it is gone."""
    return _guarded(request, lambda world: _balances_result(world, export, request))


@router.get("/storage/{export}")
def stored_result(export: str, request: Request) -> Response:
    """The storage host that results may be fetched from: it accepts its own signed links, and wants no credentials."""
    world = world_of(request)
    if {"authorization", "apikey", "cookie"} & set(request.headers):
        world.observations.add("strayed", 1)
        return Response(b"<Error>InvalidAuthenticationInfo</Error>", 400, media_type="application/xml")
    with world.lock:
        known = world.exports.get(export)
    if known is None or request.query_params.get("sig") != _signature(export):
        return Response(b"<Error>AuthenticationFailed</Error>", 403, media_type="application/xml")
    return _result(world, known)


@router.get(f"{_BASE}/Account/{{account}}")
def account(account: str, request: Request) -> Response:
    """The balances of one account in all its programmes."""
    return _guarded(request, lambda world: _answer(world, _account(world, _member(world, account))))


@router.post(
    f"{_BASE}/Account/{{account}}/Transaction",
    openapi_extra=documented_body(
        {
            "loyaltyPrograms": [{"loyaltyPointDefinitionId": LOYALTY_ID, "loads": [{"value": 50}], "redemptions": []}],
            "context": {"receiptNr": "R-1", "shopId": "1", "posId": "1", "operatorId": "1", "comment": "A gift"},
        }
    ),
)
async def transact(account: str, request: Request) -> Response:
    """Add points (`loads`) and take points (`redemptions`). Sending it twice books it twice."""
    body = await request.body()
    return await run_in_threadpool(_guarded, request, lambda world: _transact(world, account, body))


@router.get(f"{_BASE}/Account/{{account}}/LoyaltyPrograms/{{loyalty_id}}/History")
def history(account: str, loyalty_id: str, request: Request) -> Response:
    """All movements of an account, oldest first."""
    return _guarded(request, lambda world: _history(world, account, loyalty_id))


def _guarded(request: Request, work: Any) -> Response:
    """Do the work for a caller with a valid token; turn refusals into answers."""
    world = world_of(request)
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if world.faults.take(call_of(request).operation, "token_expired"):
        world.tokens.pop(bearer, None)
    if scheme.lower() != "bearer" or world.tokens.get(bearer, 0) <= world.treazure_now():
        return answer({"message": "Unauthorized"}, 401, {"www-authenticate": "Bearer"})
    try:
        result: Response = work(world)
    except _RefusedError as refused:
        return answer({"message": str(refused)}, refused.status)
    except WrongRequestError as wrong:
        return answer({"message": str(wrong)}, 404)
    except (msgspec.MsgspecError, AmountError) as error:
        return answer({"message": str(error)}, 400)
    return result


def _request_balances(request: Request, body: bytes) -> Response:
    def work(world: World) -> Response:
        wanted = msgspec.json.decode(body, type=_ExportRequest)
        name = world.request_export(
            wanted.loyalty_point_definition_id, to_micros(wanted.mutated_from), to_micros(wanted.mutated_to)
        )
        href = f"{_BASE}/Balances/{name}"
        if world.faults.take("export_request", "foreign_link"):
            return answer({"href": f"{_OTHER_HOST}{href}"})
        match world.behavior.href:
            case "href" | "hRef" as key:
                return answer({key: href})
            case "links.href" | "links.hRef" as key:
                return answer({"links": [{key.removeprefix("links."): href, "rel": "self", "method": "GET"}]})
            case "location":
                return Response(status_code=202, headers={"location": href})
            case "absolute":
                return answer({"href": f"{str(request.base_url).rstrip('/')}{href}"})

    return _guarded(request, work)


def _balances_result(world: World, name: str, request: Request) -> Response:
    behavior = world.behavior
    with world.lock:
        export = world.exports.get(name)
        if export is None:
            raise _RefusedError(404, "No such export")
        now = world.treazure_now()
        export.polls += 1
        if world.faults.take("export_result", "export_expired") or now > export.created + behavior.export_life * SECOND:
            export.gone = True
        if export.gone:
            raise _RefusedError(410, "The export is gone")
        early = export.polls <= behavior.export_polls or now < export.created + behavior.export_wait * SECOND
        if world.faults.take("export_result", "export_never_ready") or early:
            after = behavior.export_retry_after
            headers = {} if after is None else {"retry-after": f"{after:g}"}
            return _not_ready(world, headers)
    if behavior.export_delivery == "body":
        return _result(world, export)
    # To a client, another name for this machine is another host.
    host = "127.0.0.1" if request.url.hostname == "localhost" else "localhost"
    where = f"http://{host}:{request.url.port}/storage/{name}?sig={_signature(name)}"
    return Response(status_code=behavior.export_delivery, headers={"location": where})


def _signature(name: str) -> str:
    return name[::-1]


def _not_ready(world: World, headers: dict[str, str]) -> Response:
    how = world.behavior.export_not_ready
    if how in {204, "empty"}:
        return Response(status_code=204 if how == 204 else 200, headers=headers)
    return answer({"status": "InProgress"}, 200 if how == "status" else int(how), headers)


def _result(world: World, export: Export) -> Response:
    with world.lock:
        master = world.master(export.loyalty_id)
        member = master.mutated_between(export.start, export.end)
        balance, mutated = master.visible[member], master.mutated[member]
    bad = world.faults.take("export_result", "bad_rows")
    double = world.faults.take("export_result", "duplicates")
    rows = _Rows(world, master.loyalty_id, member, balance, mutated)
    return StreamingResponse(rows.stream(bad, double), media_type="application/json")


class _Rows:
    """The rows of one export, as text, a chunk at a time."""

    def __init__(self, world: World, loyalty_id: str, member: Indices, balance: Integers, mutated: Integers) -> None:
        self._world = world
        self._behavior = world.behavior.model_copy()
        self._programme = msgspec.json.encode(loyalty_id).decode()
        self._member = member
        self._balance = balance
        self._mutated = mutated

    def stream(self, bad: Fault | None, double: Fault | None) -> Iterator[bytes]:
        """The JSON array."""
        chance = random.Random(self._world.seed.seed)  # noqa: S311 - repeatable on purpose
        twice = self._twice(double, chance)
        opening = "["
        at = 0
        while at < len(self._member) or opening == "[":
            size = _ROWS_A_CHUNK if at else _ROWS_IN_FIRST_CHUNK
            part = slice(at, at + size)
            at += size
            rows = self._texts(self._member[part], self._balance[part], self._mutated[part])
            if at == size:
                for raw in (bad.raw_rows or self._bad_rows()) if bad else ():
                    rows.insert(chance.randint(0, len(rows)), raw)
            rows = twice.pop(part.start, []) + rows
            if rows:
                yield (opening + ",\n".join(rows)).encode()
                opening = ",\n"
            elif opening == "[":
                yield b"["
                break
        yield b"]"

    def _twice(self, double: Fault | None, chance: random.Random) -> dict[int, list[str]]:
        """Rows with older balances of some accounts, by the chunk they come in.

        Without a mutatedAt they all come first, since then only the position shows which row counts.
        """
        if double is None or not len(self._member):
            return {}
        count = max(1, round(len(self._member) * (0.1 if double.share is None else double.share)))
        at = np.array(sorted(chance.sample(range(len(self._member)), min(count, len(self._member)))), np.int64)
        older = self._texts(
            self._member[at], self._balance[at] + 7 * UNIT, np.maximum(self._mutated[at] - 60 * SECOND, 1)
        )
        if not self._behavior.mutated_at:
            return {0: older}
        starts = [0, *range(_ROWS_IN_FIRST_CHUNK, len(self._member), _ROWS_A_CHUNK)]
        placed: dict[int, list[str]] = {}
        for row in older:
            placed.setdefault(chance.choice(starts), []).append(row)
        return placed

    def _texts(self, member: Indices, balance: Integers, mutated: Integers) -> list[str]:
        with self._world.lock:
            guids = self._world.members.texts(member)
        if self._behavior.upper_case:
            guids = [guid.upper() for guid in guids]
        head = f'{{"{self._behavior.account_key}":"'
        middle = f'","loyaltyPointDefinitionId":{self._programme},"balance":'
        amounts = to_texts(balance.tolist())
        if self._behavior.numbers == "text":
            amounts = [f'"{amount}"' for amount in amounts]
        if not self._behavior.mutated_at:
            return [f"{head}{guid}{middle}{points}}}" for guid, points in zip(guids, amounts, strict=True)]
        return [
            f'{head}{guid}{middle}{points},"mutatedAt":"{stamp}"}}'
            for guid, points, stamp in zip(guids, amounts, moment_texts(mutated), strict=True)
        ]

    def _bad_rows(self) -> list[str]:
        key, tail = self._behavior.account_key, f'"loyaltyPointDefinitionId":{self._programme}'
        guids = ["null", '""', "17", '"not-a-guid"', '"00000000-0000-0000-0000-00000000000"']
        amounts = ["null", '"many"', '""', "NaN", "Infinity", "-Infinity", '"NaN"', '"Infinity"', "true", "[]", "{}"]
        return [
            f'{{{tail},"balance":1}}',
            *(f'{{"{key}":{guid},{tail},"balance":1}}' for guid in guids),
            f'{{"{key}":"{_EXAMPLE_GUID}",{tail}}}',
            *(f'{{"{key}":"{_EXAMPLE_GUID}",{tail},"balance":{amount}}}' for amount in amounts),
            *("null", "true", "42", '"a row"', "[]", "{}"),
        ]


def _member(world: World, text: str) -> int:
    with world.lock:
        index = int(world.members.find([text])[0])
        known = index >= 0 and any(master.mutated[index] for master in world.masters.values())
    if index < UNKNOWN:
        raise _RefusedError(400, "The account number is not a GUID")
    if not known:
        raise _RefusedError(404, "No such account")
    return index


def _account(world: World, member: int) -> dict[str, Any]:
    with world.lock:
        masters = [world.master(loyalty_id) for loyalty_id in world.masters]
        return {
            "accountNumber": world.members.text(member),
            "loyaltyPrograms": [
                {
                    "balance": to_decimal(int(master.visible[member])),
                    "loyaltyPointDefinitionId": master.loyalty_id,
                    "loyaltyProgramDescription": master.loyalty_id,
                    "vouchers": [],
                }
                for master in masters
                if master.mutated[member]
            ],
        }


def _transact(world: World, account: str, body: bytes) -> Response:
    wanted = msgspec.json.decode(body, type=_Transaction)
    try:
        return _carried_out(world, account, wanted)
    except _RefusedError:
        world.adjustments.refused(wanted.context.receipt_nr or "")
        raise


def _carried_out(world: World, account: str, wanted: _Transaction) -> Response:
    if len((wanted.context.comment or "").encode("utf-16-le", "surrogatepass")) > 2 * LONGEST_COMMENT:
        raise _RefusedError(400, f"The comment is longer than {LONGEST_COMMENT} characters")
    member = _member(world, account)
    with world.lock:
        moves = [
            (world.master(change.loyalty_point_definition_id), kind, sign * _positive(entry.value))
            for change in wanted.loyalty_programs
            for kind, sign, entries in ((LOAD, 1, change.loads), (REDEEM, -1, change.redemptions))
            for entry in entries
        ]
        if not moves:
            raise _RefusedError(400, "The transaction has no loads and no redemptions")
        left: dict[str, int] = {}
        for master, _, units in moves:
            left[master.loyalty_id] = left.get(master.loyalty_id, int(master.balance[member])) + units
        if min(left.values()) < 0:
            world.observations.add("refused_transactions", 1)
            raise _RefusedError(422, "The account has too few points")
        _book(world, member, moves, wanted.context)
        if world.behavior.transaction_answer == "neither":
            return answer({"loyaltyPrograms": []})
        if world.behavior.transaction_answer == "balance":
            return _answer(world, {"balance": to_decimal(int(moves[-1][0].balance[member]))})
        changed = _account(world, member)
        for programme in changed["loyaltyPrograms"]:
            if programme["loyaltyPointDefinitionId"] in left:
                programme["balance"] = to_decimal(left[programme["loyaltyPointDefinitionId"]])
        return _answer(world, changed)


def _answer(world: World, value: object) -> Response:
    """An answer that contains points."""
    return answer(value, texts=world.behavior.numbers == "text")


def _book(world: World, member: int, moves: list[tuple[MasterAccounts, int, int]], context: _Context) -> None:
    """Carry out a transaction. Each move is a programme, a kind and micro-points."""
    details = Details(
        context.receipt_nr or "",
        context.shop_id or "",
        context.pos_id or "",
        context.operator_id or "",
        context.comment or "",
    )
    points: Counter[int] = Counter()
    for master, kind, units in moves:
        points[master.definition_id] += units
        if world.behavior.history_calls:
            world.unread[master.loyalty_id, master.sequence] = world.behavior.history_calls
        world.move(master, np.array([member]), np.array([kind]), np.array([units]), details)
    world.observations.transacted(details.receipt)
    world.adjustments.book(details.receipt, world.members.text(member), dict(points))


def _positive(value: Decimal) -> int:
    units = to_units(value)
    if units <= 0:
        raise _RefusedError(400, "Values must be positive")
    return units


def _history(world: World, account: str, loyalty_id: str) -> Response:
    member = _member(world, account)
    with world.lock:
        master: MasterAccounts = world.master(loyalty_id)
        newest = world.treazure_now() - int(world.behavior.history_delay * SECOND)
        shown = [
            movement
            for movement in master.history(member)
            if movement.stamp <= newest and not _unread(world, loyalty_id, movement)
        ]
        rows = [(_told(world, movement), movement) for movement in shown[world.behavior.history_missing_first :]]
        rows.sort(key=lambda row: row[0])
        told_rows = [_movement(world, master, movement, told) for told, movement in rows]
        if world.behavior.informational and told_rows:
            told_rows.insert(0, told_rows[0] | _MOVES_NOTHING)
        return _answer(world, told_rows)


def _told(world: World, movement: Movement) -> int:
    """When a movement happened according to the history: tills that were offline send theirs later."""
    return movement.stamp - (movement.sequence % 2) * int(world.behavior.history_backdated * SECOND)


def _receipt(world: World, receipt: str) -> str:
    kept = receipt[: world.behavior.history_receipt_length]
    return {"kept": kept, "lower": kept.lower(), "upper": kept.upper()}[world.behavior.history_receipt_case]


def _unread(world: World, loyalty_id: str, movement: Movement) -> bool:
    """Whether this read is one of the first, in which the movement is missing."""
    left = world.unread.pop((loyalty_id, movement.sequence), 0)
    if left > 1:
        world.unread[loyalty_id, movement.sequence] = left - 1
    return left > 0


_MOVES_NOTHING = {"transactionType": "RedeemVoucher"} | dict.fromkeys(["amount", "balance", "receiptNr", "expiresAt"])
_NEVER = {"null": None, "empty": "", "dotnet": "9999-12-31T23:59:59.9999999Z"}
_PROPERTIES: dict[str, Any] = {"object": {}, "list": [], "null": None}


def _movement(world: World, master: MasterAccounts, movement: Movement, told: int) -> dict[str, Any]:
    behavior, details = world.behavior, movement.details
    expires = master.expires.get(movement.sequence)
    nothing = None if behavior.movement_nothing == "null" else ""
    as_numbers = behavior.movement_ids == "number"
    return {
        "dateTime": _moment(behavior, told),
        "amount": to_decimal(movement.amount),
        "transactionType": KINDS[movement.kind],
        "expiresAt": _NEVER[behavior.movement_nothing] if expires is None else _moment(behavior, expires),
        "balance": to_decimal(movement.balance),
        "comment": ended(details.comment, behavior.movement_text) if details.comment else nothing,
        "operatorId": details.operator,
        "shopId": 17 if as_numbers else details.shop,
        "posId": 3 if as_numbers else details.pos,
        "receiptNr": _receipt(world, details.receipt),
        "properties": _PROPERTIES[behavior.movement_properties],
    }


def _moment(behavior: Behavior, micros: int) -> str:
    return f"{moment_text(micros)[:-1]}{'0' * (behavior.movement_digits - 6)}Z"
