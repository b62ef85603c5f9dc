"""A client for a running sandbox, for tests, the demo, or a person at a prompt."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
import msgspec

from treazure_pipeline.sandbox.behavior import LOYALTY_ID, Behavior

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

T = TypeVar("T")

_STOP_SECONDS = 10


class Sandbox:
    """Controls a sandbox. Methods raise httpx.HTTPStatusError if the sandbox refuses."""

    def __init__(self, base_url: str, process: subprocess.Popen[str] | None = None) -> None:
        self.base_url = base_url
        self.process = process
        self._http = httpx.Client(base_url=f"{base_url}/sandbox", timeout=600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the sandbox runs on."""
        self._http.close()

    def state(self) -> dict[str, Any]:
        """Sizes, clocks, queues."""
        return self._call(dict[str, Any], "GET", "/state")

    def reset(self, **seed: Any) -> dict[str, Any]:
        """Start over: `members`, `seed`, `programmes`, `unknown_share`, `in_step`, `behavior`."""
        return self._call(dict[str, Any], "POST", "/reset", seed)

    def behave(self, **switches: Any) -> dict[str, Any]:
        """Change switches, see `Behavior`."""
        return self._call(dict[str, Any], "PATCH", "/behavior", switches)

    def dialects(self) -> dict[str, dict[str, Any]]:
        """What each dialect does, its values, its default, and what it is now."""
        return self._call(dict[str, dict[str, Any]], "GET", "/dialects")

    def draw_dialects(self, seed: int) -> dict[str, Any]:
        """Draw one value of each dialect from a seed, and use them from now on; returns what was drawn."""
        return self._call(dict[str, Any], "POST", "/dialects", params={"seed": seed})

    def set_fault(self, name: str, **parameters: Any) -> None:
        """Switch a fault on, see `Fault`; once, unless `count` says otherwise."""
        self._call(dict[str, Any], "POST", "/faults", {"name": name, **parameters})

    def clear_faults(self, name: str | None = None) -> None:
        """Switch off all faults, or those of one name."""
        self._call(dict[str, Any], "DELETE", "/faults", params={"name": name} if name else {})

    def faults(self) -> dict[str, Any]:
        """Active faults and how often each has happened."""
        return self._call(dict[str, Any], "GET", "/faults")

    def play_hour(self, share: float = 0.02, **parameters: Any) -> dict[str, dict[str, int]]:
        """Play an hour of shopping, see `Hour`; returns what happened, by programme."""
        return self._call(dict[str, dict[str, int]], "POST", "/hours", {"share": share, **parameters})

    def set_points(self, points: Mapping[str, Decimal | int | str], loyalty_id: str | None = None) -> None:
        """Set balances in Treazure by contact GUID; new GUIDs become members."""
        self._mutate(points, loyalty_id, adds=False)

    def add_points(self, points: Mapping[str, Decimal | int | str], loyalty_id: str | None = None) -> None:
        """Change balances in Treazure by contact GUID; new GUIDs become members."""
        self._mutate(points, loyalty_id, adds=True)

    def set_engage_balances(
        self, points: Mapping[str, Decimal | int | str | None], loyalty_id: str | None = None
    ) -> None:
        """Change balances in Engage by hand, past Treazure and Engage's queue; None removes the account."""
        texts = {guid: None if amount is None else str(amount) for guid, amount in points.items()}
        self._call(dict[str, Any], "POST", "/engage-balances", {"points": texts, "loyalty_id": loyalty_id})

    def know(self, contact_ids: Sequence[str], *, known: bool) -> None:
        """Make members contacts of Engage, or let Engage forget them."""
        self._call(dict[str, Any], "POST", "/contacts", {"contact_ids": list(contact_ids), "known": known})

    def balances(
        self, contact_ids: Sequence[str] = (), *, loyalty_id: str | None = None, offset: int = 0, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """`contactId`, `treazure`, `engage` (exact texts or None), `known` of these or a page of all."""
        wanted = {"contact_ids": list(contact_ids), "offset": offset, "limit": limit, "loyalty_id": loyalty_id}
        return self._call(list[dict[str, Any]], "POST", "/balances", wanted)

    def contact_ids(self, limit: int = 1000, offset: int = 0) -> list[str]:
        """GUIDs of a page of members."""
        return [row["contactId"] for row in self.balances(limit=limit, offset=offset)]

    def differences(self, loyalty_id: str | None = None, *, offset: int = 0, limit: int = 20) -> dict[str, Any]:
        """`equal`, `differing`, `compared`, `unknown_to_engage`, `queued`, totals, `examples`."""
        return self._call(
            dict[str, Any], "GET", "/differences", params={"offset": offset, "limit": limit} | _programme(loyalty_id)
        )

    def import_points(self, file: bytes | Path) -> dict[str, Any]:
        """Let Engage import a file of points; returns `rows`, `imported`, `refused`, `errors`, `contacts_created`."""
        body = file if isinstance(file, bytes) else file.read_bytes()
        answer = self._http.post("/imports", content=body, headers={"content-type": "text/csv"})
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=dict[str, Any])

    def import_folder(self, folder: Path) -> list[dict[str, Any]]:
        """Let Engage import every file in a folder, in the order of their names, and delete it, as Engage does.

        Any name will do: every file in the folder counts as a file of points.
        """
        answers = []
        for file in sorted(entry for entry in folder.iterdir() if entry.is_file()):
            answers.append(self.import_points(file))
            file.unlink()
        return answers

    def keys(self, key_type: str, limit: int = 1000, offset: int = 0) -> dict[str, str]:
        """`MemberNumber` or `ExternalId` of a page of members, by contact GUID."""
        params = {"key_type": key_type, "limit": limit, "offset": offset}
        return self._call(dict[str, str], "GET", "/keys", params=params)

    def report(self) -> dict[str, Any]:
        """What the sandbox observed about its clients."""
        return self._call(dict[str, Any], "GET", "/report")

    def forget(self) -> None:
        """Forget what was observed."""
        self._call(dict[str, Any], "DELETE", "/report")

    def move_clock(self, seconds: float) -> dict[str, Any]:
        """Move both systems' clocks."""
        return self._call(dict[str, Any], "POST", "/clock", params={"seconds": seconds})

    def apply_queue(self) -> int:
        """Let Engage's job run now; returns how many rows waited."""
        return int(self._call(dict[str, int], "POST", "/apply")["applied"])

    def commit(self) -> int:
        """Make Treazure's late mutations visible now; returns how many were late."""
        return int(self._call(dict[str, int], "POST", "/commit")["committed"])

    def give_points(self, contact_id: str, amount: Decimal | int | str, **details: Any) -> dict[str, str]:
        """Give points in Engage, which sends a webhook; `event_id`, `description`, ...: see `Gift`.

        Returns `event_id` and `svix_id`.
        """
        (given,) = self.give_points_many([{"contact_id": contact_id, "amount": amount, **details}])
        return given

    def give_points_many(self, gifts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Give points many times, see `Gift`; returns `event_id` and `svix_id` of each."""
        texts = [{**gift, "amount": str(gift["amount"])} for gift in gifts]
        return self._call(list[dict[str, str]], "POST", "/adjustments", texts)

    def adjustment_report(self, *, every: bool = False) -> dict[str, Any]:
        """How often Treazure booked the events given: `never`, `once`, `more_than_once`, with examples.

        With `every` also `events`: each by its id.
        """
        return self._call(dict[str, Any], "GET", "/adjustments", params={"every": every})

    def deliveries(self, limit: int = 20, **which: str) -> dict[str, Any]:
        """Webhooks by state, `outcomes` of all sends, and the `last` ones; only of one `svix_id` or `event_id`."""
        return self._call(dict[str, Any], "GET", "/deliveries", params={"limit": limit, **which})

    def redeliver(self, svix_id: str, times: int = 1) -> None:
        """Send a webhook again, `times` times at once."""
        self._call(dict[str, Any], "POST", f"/deliveries/{svix_id}/redeliver", params={"times": times})

    def wait_until_delivered(self, timeout: float = 60) -> dict[str, Any]:
        """Wait until no webhook is left to be sent (again); returns what `deliveries` does, raises TimeoutError."""
        end = time.monotonic() + timeout
        while not (seen := self.deliveries())["idle"]:
            if time.monotonic() > end:
                raise TimeoutError(f"{seen['open']} webhooks are still to be sent after {timeout:g} s")
            time.sleep(0.005)
        return seen

    def _mutate(self, points: Mapping[str, Decimal | int | str], loyalty_id: str | None, *, adds: bool) -> None:
        texts = {guid: str(amount) for guid, amount in points.items()}
        self._call(dict[str, Any], "POST", "/mutate", {"points": texts, "adds": adds, "loyalty_id": loyalty_id})

    def _call(
        self, kind: type[T], method: str, path: str, body: object = None, params: dict[str, Any] | None = None
    ) -> T:
        answer = self._http.request(method, path, json=body, params=params)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=kind)


@contextlib.contextmanager
def running_sandbox(
    *,
    members: int = 1000,
    seed: int = 1,
    programmes: Mapping[str, int] | None = None,
    unknown_share: float = 0.0,
    in_step: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    **switches: Any,
) -> Iterator[Sandbox]:
    """A sandbox in a thread of this process, by default on a free port; `switches`: see `Behavior`."""
    # The server's modules take longer to import than everything else here.
    from treazure_pipeline.sandbox.app import bind, build_app, server  # noqa: PLC0415
    from treazure_pipeline.sandbox.world import Seed  # noqa: PLC0415

    start = Seed(seed, members, programmes or {LOYALTY_ID: 1}, unknown_share, in_step)
    app = build_app(start, Behavior.model_validate(switches))
    listener, url = bind(host, port)
    running = server(app)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
    thread.start()
    try:
        while not running.started:
            if not thread.is_alive():
                msg = "the sandbox could not start"
                raise RuntimeError(msg)
            time.sleep(0.005)
        with Sandbox(url) as sandbox:
            yield sandbox
    finally:
        app.state.world.deliveries.close()
        running.should_exit = True
        thread.join(_STOP_SECONDS)


@contextlib.contextmanager
def sandbox_process(*arguments: str) -> Iterator[Sandbox]:
    """A sandbox in a process of its own on a free port; the arguments are those of ``python -m``."""
    command = [sys.executable, "-m", "treazure_pipeline.sandbox", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            msg = f"the sandbox could not start, it ended with status {process.wait(_STOP_SECONDS)}"
            raise RuntimeError(msg)
        with Sandbox(url, process) as sandbox:
            yield sandbox
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _programme(loyalty_id: str | None) -> dict[str, Any]:
    return {"loyalty_id": loyalty_id} if loyalty_id else {}
