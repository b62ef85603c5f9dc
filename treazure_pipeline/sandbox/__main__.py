"""``python -m treazure_pipeline.sandbox``: the sandbox in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from treazure_pipeline.sandbox.app import bind, build_app, server
from treazure_pipeline.sandbox.behavior import LOYALTY_ID, WEBHOOK_SECRET, Behavior
from treazure_pipeline.sandbox.dialects import draw
from treazure_pipeline.sandbox.faults import SAYS, Fault
from treazure_pipeline.sandbox.world import Seed

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(
    host: str = "127.0.0.1",
    port: int = 8790,
    seed: Seed | None = None,
    behavior: Behavior | None = None,
    faults: Sequence[Fault] = (),
) -> None:
    """Serve until interrupted; port 0 takes any free port. The URL is the first line on standard output.

    Raises:
        OSError: The port can't be used.
    """
    listener, url = bind(host, port)
    app = build_app(seed, behavior)
    for fault in faults:
        app.state.world.faults.add(fault)
    print(url, flush=True)  # noqa: T201 - the first line of output tells where it listens
    asyncio.run(server(app).serve(sockets=[listener]))


def parse_fault(text: str) -> Fault:
    """Parse a fault as the command line writes it: ``name:count=3,on=engage+token``; raises ValueError."""
    name, _, rest = text.partition(":")
    fields: dict[str, object] = {"name": name}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            msg = f"{pair!r} should be parameter=value"
            raise ValueError(msg)
        fields[key] = value.split("+") if key == "on" else None if value == "always" else value
    return Fault.model_validate(fields)


def parse_behavior(texts: Sequence[str], dialects: int | None = None) -> Behavior:
    """Parse switches, ``name=value`` each; `dialects` is a seed for drawing the others. Raises ValueError."""
    fields: dict[str, object] = {} if dialects is None else draw(dialects)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            msg = f"{text!r} should be switch=value"
            raise ValueError(msg)
        fields[key] = (
            value.split("+") if key == "poison" else None if value == "none" and key != "transaction_id" else value
        )
    return Behavior.model_validate(fields)


def parse_programmes(texts: Sequence[str]) -> dict[str, int]:
    """Parse programmes, ``LOYALTY=DEFINITION`` each; raises ValueError."""
    return {loyalty_id: int(number) for loyalty_id, _, number in (text.rpartition("=") for text in texts)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m treazure_pipeline.sandbox",
        description="A stand-in for Treazure and Engage on one port. Prints its URL first.",
        epilog="faults: " + ", ".join(SAYS) + "; switches: " + ", ".join(Behavior.model_fields),
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8790, help="0: any free port")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--programme", action="append", metavar="LOYALTY=DEFINITION")
    parser.add_argument(
        "--unknown-share", type=float, default=0.0, help="share of the members that Engage doesn't know"
    )
    parser.add_argument("--in-step", action="store_true", help="Engage starts with Treazure's balances")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[:PARAMETER=VALUE,...]")
    parser.add_argument("--webhook-url", help="where Engage's events are sent")
    parser.add_argument("--webhook-secret", help=f"secret that signs them (default: {WEBHOOK_SECRET})")
    parser.add_argument(
        "--dialects", type=int, metavar="SEED", help="draw from this seed how both systems spell their answers"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SWITCH=VALUE", dest="switches")
    return parser


def _webhook_switches(wanted: argparse.Namespace) -> list[str]:
    given = {"webhook_url": wanted.webhook_url, "webhook_secret": wanted.webhook_secret}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def run(arguments: Sequence[str] | None = None) -> None:
    """Serve as the command line says; raises SystemExit (2: wrong arguments, 5: port in use, 130: Ctrl-C)."""
    parser = _parser()
    wanted = parser.parse_args(arguments)
    try:
        programmes = parse_programmes(wanted.programme or [f"{LOYALTY_ID}=1"])
        behavior = parse_behavior([*wanted.switches, *_webhook_switches(wanted)], wanted.dialects)
        faults = [parse_fault(text) for text in wanted.fault]
    except ValueError as error:
        parser.error(str(error))
    seed = Seed(wanted.seed, wanted.members, programmes, wanted.unknown_share, wanted.in_step)
    try:
        main(wanted.host, wanted.port, seed, behavior, faults)
    except KeyboardInterrupt as stopped:
        parser.exit(getattr(stopped, "exit_code", 130))
    except OSError as error:
        parser.exit(5, f"cannot listen on {wanted.host}:{wanted.port}: {error.strerror}\n")


if __name__ == "__main__":
    run()
