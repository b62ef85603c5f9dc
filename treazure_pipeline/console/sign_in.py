"""The three ways in: none (this machine alone), a proxy's headers, OpenID Connect.

Each of them says who asks, for each request anew; the roles are looked up each time too, so that a changed
CONSOLE_ROLES holds from the next start on, for sessions that are open as well.
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
    """A way in."""

    def visitor(self, request: Request) -> Visitor | None:
        """Return who asks; None where they have to sign in first. Raises HTTPException where they may not."""


def way_in(settings: ConsoleSettings) -> SignIn:
    """Return the way in that CONSOLE_AUTH names."""
    if settings.console_auth == "proxy":
        return Proxy(settings)
    return Oidc(settings) if settings.console_auth == "oidc" else Loopback()


class Loopback:
    """Whoever reaches this machine's loopback is the user who has started the console, who may do anything."""

    def __init__(self) -> None:
        try:
            self._user = Visitor(getpass.getuser(), Role.APPROVER)
        except (KeyError, OSError):  # no name for this user id, as in some containers
            self._user = Visitor("local", Role.APPROVER)

    def visitor(self, request: Request) -> Visitor:  # noqa: ARG002 - whoever it is
        """Return that user."""
        return self._user


class Proxy:
    """A proxy in front has signed people in and says who they are; nobody else is believed."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings

    def visitor(self, request: Request) -> Visitor:
        """Return who the proxy says it is."""
        settings = self._settings
        peer = request.client.host if request.client else ""
        if not _is_among(peer, settings.console_proxy_addresses):
            raise HTTPException(
                HTTPStatus.FORBIDDEN, "This did not come through the proxy that signs people in. Use its address."
            )
        # A header that stands there twice is one that somebody put beside the proxy's.
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
