"""Whatever the sandbox plays of the two systems passes the middleware: rates, faults and the report hold there too."""

from __future__ import annotations

import re

from treazure_pipeline.sandbox import engage, treazure
from treazure_pipeline.sandbox.app import build_app
from treazure_pipeline.sandbox.middleware import operation_of

# What stands beside the two systems' own calls: the discovery document and the host that exports are stored on.
_OUTSIDE = {"/identity/.well-known/openid-configuration", "/storage/{export}"}


def test_every_route_of_both_systems_is_a_known_operation() -> None:
    paths = build_app().openapi()["paths"]
    played = {route.path for router in (engage.router, treazure.router) for route in router.routes}  # type: ignore[attr-defined]
    unknown = [
        (method, path)
        for path, methods in paths.items()
        for method in methods
        if path not in _OUTSIDE
        and any(path.endswith(end) for end in played)
        and not path.startswith("/sandbox")
        and operation_of(method.upper(), re.sub(r"\{\w+\}", "1", path)) is None
    ]
    assert unknown == []
