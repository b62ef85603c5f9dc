"""How much of the receiver a sender may use: all limits, and the connections that keep to them.

Only whoever reaches a limit is cut off; a new connection takes the place of one that only waits. Bodies are read in `app`, and events are judged
in `adjustments.events`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# The part of an IPv6 address that belongs to one subscriber.
_SUBSCRIBER_BITS = 64


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    Attributes:
        connections: Open at once; fewer than the number of files that a process may usually open (1,024).
        connections_of_one: From one address. A proxy in front is one address too.
        header: A request's first line and all of its headers.
        body: The largest body that is accepted.
        body_thrown_away: A larger body is read up to this size, since a sender that is still writing would not see the answer.
        body_time: For a whole body.
        request_time: From a request's first byte, or the start of the connection, to the last byte of its answer.
        idle_time: Between two requests; longer than proxies keep connections.
    """

    connections: int = 800
    connections_of_one: int = 200
    header: int = 16 * 1024
    body: int = 256 * 1024
    body_thrown_away: int = 4 * 1024 * 1024
    body_time: float = 5.0
    request_time: float = 30.0
    idle_time: int = 75


LIMITS = Limits()


class _Crowd:
    """The open connections, by address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: defaultdict[str, set[Guarded]] = defaultdict(set)
        self._count = 0

    def admit(self, new: Guarded) -> bool:
        """Admit a new connection. If there is no room, the one that has waited longest is cut. Return False if none waits."""
        rivals: set[Guarded] = set()
        if len(self._open[new.address]) >= self._limits.connections_of_one:
            rivals = self._open[new.address]
        elif self._count >= self._limits.connections:
            rivals = max(self._open.values(), key=len)
        if rivals:
            waiting = min((one for one in rivals if one.waits), key=lambda one: one.since, default=None)
            if waiting is None:
                return False
            waiting.end()
        self._open[new.address].add(new)
        self._count += 1
        return True

    def leave(self, gone: Guarded) -> None:
        """Remove a connection, unless done already."""
        of_address = self._open[gone.address]
        if gone in of_address:
            of_address.remove(gone)
            self._count -= 1
        if not of_address:
            del self._open[gone.address]


class Guarded(H11Protocol):
    """A connection within the limits. uvicorn's own time limit only starts after the first answer."""

    crowd: _Crowd
    limits: Limits
    address = ""
    since = 0.0
    _deadline: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether no request is being answered, because none has come, or not all of its headers."""
        cycle = self.cycle  # None at first, whatever its type says
        return cycle is None or cycle.response_complete  # type: ignore[redundant-expr]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start, unless there is no room."""
        super().connection_made(transport)
        self.address = _subscriber(transport.get_extra_info("peername"))
        self.since = self.loop.time()
        if self.crowd.admit(self):
            self._limit_time()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take data. A request's time starts with its first byte."""
        if self._deadline is None:
            self._limit_time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request without a limit, unless it is here, or the last one or its answer is not finished."""
        super().on_response_complete()
        self.since = self.loop.time()
        self._unlimit_time()
        if not self.waits or self.transport.is_closing() or self.conn.their_state is h11.SEND_BODY:
            self._limit_time()

    def timeout_keep_alive_handler(self) -> None:
        """Cut the connection at once, since a peer that reads nothing would never let it close cleanly."""
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another connection."""
        self._unlimit_time()
        self.crowd.leave(self)
        super().connection_lost(exc)

    def end(self) -> None:
        """Cut the connection."""
        self.crowd.leave(self)
        self.transport.abort()

    def _limit_time(self) -> None:
        self._deadline = self.loop.call_later(self.limits.request_time, self.end)

    def _unlimit_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def guarded(limits: Limits) -> type[Guarded]:
    """Return the protocol for a server's connections, which share the limits."""
    return type("Guarded", (Guarded,), {"limits": limits, "crowd": _Crowd(limits)})


def _subscriber(peer: Any) -> str:
    """Return what identifies a sender: an IPv4 address, or the network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except (TypeError, IndexError, AttributeError, ValueError):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _SUBSCRIBER_BITS), strict=False))
    return str(address)
