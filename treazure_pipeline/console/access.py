"""Who the visitor is, what they may do, and whether a form was sent from one of our pages.

Every route names the role it needs with `needs`. Forms are checked for the whole application in one place (`protected`).
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.params import Depends

from treazure_pipeline import people
from treazure_pipeline.settings import Role

EVERYBODY = "*"
_SECONDS = 60
_LONGEST = 200
READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Visitor:
    """Somebody who has signed in; the ledger records what they do under `name`."""

    name: str
    role: Role

    def may(self, role: str) -> bool:
        """Whether this is at least that role, named in lower case."""
        return self.role >= Role[role.upper()]


class UnknownVisitorError(Exception):
    """Nobody has signed in, or the session is over."""


def visitor(name: str, groups: Iterable[str], roles: Mapping[str, Role]) -> Visitor:
    """Return the visitor with the highest role of their name and groups; 403 if none of them has a role."""
    given = [roles[who] for who in (name, *groups, EVERYBODY) if who in roles]
    if not given:
        raise HTTPException(
            HTTPStatus.FORBIDDEN, f"You are signed in as {name}, but CONSOLE_ROLES gives you no role in this console."
        )
    return Visitor(name, max(given))


def current(request: Request) -> Visitor:
    """Return who asks; raises UnknownVisitorError if nobody has signed in."""
    found: Visitor | None = request.app.state.sign_in.visitor(request)
    if found is None:
        raise UnknownVisitorError
    request.state.visitor = found
    return found


def needs(role: Role) -> Depends:
    """Require at least this role for a route, and pass it the visitor."""
    return Depends(_Needs(role))


@dataclass(frozen=True)
class _Needs:
    role: Role

    def __call__(self, request: Request) -> Visitor:
        found = current(request)
        if found.role < self.role:
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                f"This needs the role {self.role.name.lower()}; you are {found.name}, {found.role.name.lower()}.",
            )
        return found


def needed(dependencies: Iterable[Callable[..., object] | None]) -> Role | None:
    """Return the role that a route's dependencies require, or None."""
    return next((one.role for one in dependencies if isinstance(one, _Needs)), None)


def form_token(request: Request) -> str:
    """Return the token that every form of this session carries."""
    return str(request.session.setdefault("form", secrets.token_urlsafe(32)))


async def protected(request: Request) -> None:
    """Refuse a form that did not come from a page of this session, and text that a database can't store."""
    _require_sound(request.path_params.values(), request.query_params.values())
    if request.method in READING:
        return
    ours = request.session.get("form", "")
    fields = await request.form()
    _require_sound(fields.values())
    given = fields.get("form", "")
    same = isinstance(given, str) and hmac.compare_digest(given.encode(), ours.encode())
    if not (ours and same and _from_here(request)):
        raise HTTPException(
            HTTPStatus.FORBIDDEN, "The form was not sent from a page of your session; nothing was done. Open it again."
        )


def _require_sound(*texts: Iterable[object]) -> None:
    """Refuse text with a NUL, which PostgreSQL can't store, or with half a character: 422."""
    for text in chain(*texts):
        try:
            sound = "\0" not in str(text).encode().decode()
        except UnicodeError:
            sound = False
        if not sound:
            raise HTTPException(
                HTTPStatus.UNPROCESSABLE_ENTITY, "Something in the form or the address is not valid text."
            )


def _from_here(request: Request) -> bool:
    """Whether the form came from one of our pages, according to the browser's headers if it sent any."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    return site in {None, "same-origin"} and (origin is None or urlsplit(origin).netloc == request.headers["host"])


class Rate:
    """Limits each caller's calls per minute, in this process, so that one who asks all the time shuts out nobody else."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[str, deque[float]] = {}

    def count(self, caller: str) -> None:
        """Count a call; 429 if it is one too many."""
        now = time.monotonic()
        self._calls = {who: calls for who, calls in self._calls.items() if calls[-1] > now - _SECONDS}
        calls = self._calls.setdefault(caller, deque(maxlen=self._most))
        if len(calls) == self._most and calls[0] > now - _SECONDS:
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "Too many tries at the moment; wait a minute.")
        calls.append(now)


def name_of(given: str) -> str:
    """Return a name that is safe to store and show."""
    return people.printable(given.strip())[:_LONGEST]
