"""A stateful, seeded stand-in for Treazure and Voyado Engage on one port.

In a test, in a thread of the same process::

    with running_sandbox(members=2000, unknown_share=0.02, apply_delay=0) as sandbox:
        ...point TREAZURE_BASE_URL and ENGAGE_BASE_URL at sandbox.base_url...
        sandbox.set_fault("lost_after", count=2)
        sandbox.play_hour(share=0.05)
        assert sandbox.differences()["equal"]
        assert sandbox.report()["overlaps"]["count"] == 0

In a process of its own: ``sandbox_process("--members", "1000000")`` or
``python -m treazure_pipeline.sandbox --port 0 --members 1000000``, whose first line of output is its URL.

Credentials: `CLIENT_ID`, `CLIENT_SECRET`, `API_KEY`, `WEBHOOK_SECRET`; default programme: `LOYALTY_ID`, definition 1.
The switches are the fields of `Behavior`; the faults have the fields of `Fault`. ``/docs`` documents every endpoint.

Modules: `world` holds the state (`members`, `master`, `follower`), every request passes `middleware`, the endpoints
are in `treazure`, `engage` (with `batches`) and `control`, `webhooks` sends Engage's events, `imports` is Engage's
import of points from files, `expiring_points` knows what expires when, `observations` and `adjustments` record what
happened, and `client` is how tests and the demo use a sandbox.
"""

from __future__ import annotations

from treazure_pipeline.sandbox.behavior import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID, WEBHOOK_SECRET, Behavior
from treazure_pipeline.sandbox.client import Sandbox, running_sandbox, sandbox_process
from treazure_pipeline.sandbox.faults import Fault

__all__ = [
    "API_KEY",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "LOYALTY_ID",
    "WEBHOOK_SECRET",
    "Behavior",
    "Fault",
    "Sandbox",
    "running_sandbox",
    "sandbox_process",
]
