"""An OpenID Connect provider for tests: it signs in whoever it was told to, and holds clients to the protocol."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from treazure_pipeline_tests.console.serving import served

CLIENT, SECRET = "console", "the secret of the console's client"


@dataclass
class Provider:
    """`person`: the claims of whoever is at the browser; `forged`: sign with another key than the published one."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    forged: bool = False
    _key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}))
    _asked: dict[str, dict[str, str]] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.configuration),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/keys", self.keys),
            ]
        )

    async def configuration(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if asked["client_id"] != CLIENT or asked["code_challenge_method"] != "S256":
            return PlainTextResponse("not this client", 400)
        code = hashlib.sha256(str(time.time_ns()).encode()).hexdigest()
        self._asked[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 303)

    async def token(self, request: Request) -> Response:
        form = await request.form()
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".replace(" ", "%20").replace("'", "%27").encode()).decode()
        plain = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if request.headers.get("authorization") not in {f"Basic {basic}", f"Basic {plain}"}:
            return JSONResponse({"error": "invalid_client"}, 401)
        asked = self._asked.pop(str(form["code"]), None)
        proof = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest()).rstrip(b"=")
        if asked is None or asked["code_challenge"] != proof.decode() or asked["redirect_uri"] != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 60, "nonce": asked["nonce"]}
        key = RSAKey.generate_key(2048, {"kid": "one"}) if self.forged else self._key
        signed = jwt.encode({"alg": "RS256", "kid": "one"}, claims | self.person, key)
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": signed})

    async def keys(self, _: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False) | {"kid": "one", "use": "sig", "alg": "RS256"}]})


@contextmanager
def provider() -> Iterator[Provider]:
    """Run one on loopback for the block."""
    made = Provider()
    with served(lambda _: made.app()) as url:
        made.url = url
        yield made
