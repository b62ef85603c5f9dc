"""Both systems in one process, answering from memory: what a measurement waits for is never the other side.

Run as `stub.py CHANGES BASE`; prints its port and serves until its standard input is closed. Every export lists
CHANGES balances, and all balances are accepted. `GET /sent` tells how many requests have set balances, and how many
seconds passed between the last byte of the latest export and the first request after it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import members

TOKEN = b'{"access_token":"benchmark","expires_in":3600,"token_type":"Bearer"}'
HREF = b'{"href":"/api/v1.0/LoyaltyVault/Balances/1"}'
ACCEPTED = b'{"transactionId":"00000000-0000-0000-0000-000000000001"}'


def export(changes: int, base: int) -> bytes:
    """Return the result of an export, as the wire has it."""
    return b"[%s]" % b",".join(
        b'{"accountNumber":"%s","loyaltyPointDefinitionId":"%s","balance":%s,"mutatedAt":"2026-01-31T12:%02d:%02d.123Z"}'
        % (
            members.contact(number).encode(),
            members.LOYALTY_ID.encode(),
            members.after(number).encode(),
            number // 60 % 60,
            number % 60,
        )
        for number in members.changed(changes, base)
    )


class Server(asyncio.Protocol):
    """One connection with one request at a time: no more of HTTP than the clients use."""

    body = b"[]"
    sent = 0
    exported: float | None = None
    waited = 0.0

    def __init__(self) -> None:
        self.head = b""
        self.missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=0)

    def resume_writing(self) -> None:
        """Note when all of an export has gone out."""
        if Server.exported is not None:
            Server.exported = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Answer once the request is complete; what it carries is not looked at."""
        if self.missing:
            self.missing -= len(data)
        else:
            self.head, _, rest = (self.head + data).partition(b"\r\n\r\n")
            if not rest and not data.endswith(b"\r\n\r\n"):
                return
            _, _, length = self.head.lower().partition(b"content-length:")
            self.missing = int(length.split(b"\r\n", 1)[0] or 0) - len(rest)
        if not self.missing:
            path, self.head = self.head.split(b" ", 2)[1], b""
            self.answer(path)

    def answer(self, path: bytes) -> None:
        """Write the answer of one request."""
        if path.endswith(b"/point-accounts/balances"):
            Server.sent += 1
            if Server.exported is not None:
                Server.waited, Server.exported = time.monotonic() - Server.exported, None
            body = ACCEPTED
        elif path.endswith(b"/result"):
            Server.exported = time.monotonic()
            body = self.body
        elif path.endswith(b"/sent"):
            body = json.dumps({"requests": self.sent, "waited": self.waited}).encode()
        else:
            body = TOKEN if path.endswith(b"/token") else HREF
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(body)


async def serve(changes: int, base: int) -> None:
    """Serve until standard input is closed."""
    Server.body = export(changes, base)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
