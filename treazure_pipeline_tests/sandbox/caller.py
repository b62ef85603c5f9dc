"""A bare caller of both systems, which knows nothing of the product's clients."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx

from treazure_pipeline.sandbox import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID

VAULT = "/api/v1.0/LoyaltyVault"
BALANCES = "/api/v2/point-accounts/balances"


def now() -> str:
    return datetime.now(UTC).isoformat()


def row(contact: str, amount: object, *, definition: int = 1, stamp: str | None = None) -> dict[str, Any]:
    return {
        "contactId": contact,
        "amount": amount,
        "definitionId": definition,
        "timeStamp": stamp or now(),
    }


class Caller:
    def __init__(self, base_url: str) -> None:
        self.http = httpx.Client(base_url=base_url, timeout=30)
        self.engage_headers = {
            "apikey": API_KEY,
            "User-Agent": "tests/1",
            "Content-Type": "application/json",
        }
        self.treazure_headers: dict[str, str] = {}

    def token(self, **changes: str) -> httpx.Response:
        form = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": "api_loyaltyvault",
        }
        return self.http.post("/identity/connect/token", data=form | changes)

    def treazure(self, method: str, path: str, body: object = None) -> httpx.Response:
        if not self.treazure_headers:
            self.treazure_headers = {"Authorization": f"Bearer {self.token().json()['access_token']}"}
        return self.http.request(method, path, json=body, headers=self.treazure_headers)

    def request_export(
        self,
        start: str = "2000-01-01T00:00:00Z",
        end: str = "2100-01-01T00:00:00Z",
        loyalty_id: str = LOYALTY_ID,
    ) -> httpx.Response:
        body = {"mutatedFrom": start, "mutatedTo": end, "loyaltyPointDefinitionId": loyalty_id}
        return self.treazure("POST", f"{VAULT}/Balances/Get", body)

    def result(self, href: str) -> httpx.Response:
        return self.treazure("GET", f"{href}/result")

    def export_answer(self, **window: str) -> httpx.Response:
        href = self.request_export(**window).json()["href"]
        while (answer := self.result(href)).status_code == 202:
            pass
        return answer

    def export(self, **window: str) -> list[Any]:
        rows: list[Any] = json.loads(self.export_answer(**window).text, parse_float=Decimal)
        return rows

    def transact(self, contact: str, *, context: dict[str, str] | None = None, **values: Any) -> httpx.Response:
        programme = {"loyaltyPointDefinitionId": LOYALTY_ID} | {
            kind: [{"value": value}] for kind, value in values.items()
        }
        body = {"loyaltyPrograms": [programme], "context": context or {}}
        return self.treazure("POST", f"{VAULT}/Account/{contact}/Transaction", body)

    def history(self, contact: str) -> list[dict[str, Any]]:
        path = f"{VAULT}/Account/{contact}/LoyaltyPrograms/{LOYALTY_ID}/History"
        rows: list[dict[str, Any]] = json.loads(self.treazure("GET", path).text, parse_float=Decimal)
        return rows

    def engage(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        content = None if body is None else json.dumps(body)
        return self.http.request(method, path, content=content, headers=self.engage_headers | headers)

    def set_balances(self, rows: Iterable[dict[str, Any]]) -> httpx.Response:
        return self.engage("POST", BALANCES, list(rows))

    def push_everything(self, *, loyalty_id: str = LOYALTY_ID, definition: int = 1) -> None:
        exported = self.export(loyalty_id=loyalty_id)
        stamp = now()
        for at in range(0, len(exported), 1000):
            rows = (
                row(line["accountNumber"], float(line["balance"]), definition=definition, stamp=stamp)
                for line in exported[at : at + 1000]
            )
            assert self.set_balances(rows).status_code == 202
