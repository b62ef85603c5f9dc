"""The three ways to sign in: none (on this machine only), a proxy's headers, OpenID Connect.

Each says who asks, for every request. Roles are also looked up every time, so after a restart a changed CONSOLE_ROLES
applies to open sessions too.
"""

from __future__ import annotations

import getpass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Protocol

from fastapi import HTTPException, Request

from treazure_pipeline.console.access import Visitor, name_of, visitor
from treazure_pipeline.console.oidc import Oidc
from treazure_pipeline.settings import ConsoleSettings, Role


class SignIn(Protocol):
    """A way to sign in."""

    def visitor(self, request: Request) -> Visitor | None:
        """Return who asks, or None if they have to sign in first. Raises HTTPException if they have no access."""


def way_in(settings: ConsoleSettings) -> SignIn:
    """Return the way to sign in that CONSOLE_AUTH names."""
    if settings.console_auth == "proxy":
        return Proxy(settings)
    return Oidc(settings) if settings.console_auth == "oidc" else Loopback()


class Loopback:
    """Anyone on this machine's loopback counts as the user who started the console, and may do anything."""

    def __init__(self) -> None:
        try:
            self._user = Visitor(getpass.getuser(), Role.APPROVER)
        except (KeyError, OSError):  # no name for this user id, as in some containers
            self._user = Visitor("local", Role.APPROVER)

    def visitor(self, request: Request) -> Visitor:  # noqa: ARG002 - whoever it is
        """Return that user."""
        return self._user


class Proxy:
    """A proxy in front signs people in and says who they are. Nobody else is trusted."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings

    def visitor(self, request: Request) -> Visitor:
        """Return who the proxy says it is."""
        settings = self._settings
        peer = request.client.host if request.client else ""
        if not _is_among(peer, settings.console_proxy_addresses):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "This request did not come through the proxy that signs people in. Use its address.",
            )
        # If a header is there twice, somebody has added one to the proxy's.
        name, groups = (
            request.headers.getlist(header) for header in (settings.console_name_header, settings.console_groups_header)
        )
        if len(name) != 1 or not (given := name_of(name[0])) or len(groups) > 1:
            raise HTTPException(
                HTTPStatus.FORBIDDEN, f"The proxy did not say who you are in one header {settings.console_name_header}."
            )
        split = [group.strip() for group in ",".join(groups).split(",")]
        return visitor(given, split, settings.console_roles)


def _is_among(address: str, networks: tuple[Any, ...]) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)
