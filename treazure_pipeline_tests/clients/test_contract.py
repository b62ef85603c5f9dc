"""Both clients against the sandbox, which was built from the same contracts by other hands."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pydantic import SecretStr

from treazure_pipeline.clients.decoding import decode_balances
from treazure_pipeline.clients.engage import EngageClient
from treazure_pipeline.clients.engage_wire import encode_balances
from treazure_pipeline.clients.pacing import RetryPolicy
from treazure_pipeline.clients.treazure import TreazureClient
from treazure_pipeline.errors import NotFoundError
from treazure_pipeline.sandbox import API_KEY, CLIENT_ID, CLIENT_SECRET, LOYALTY_ID, running_sandbox

pytestmark = pytest.mark.slow

FAST = RetryPolicy(scale=0.001)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
END = datetime(2100, 1, 1, tzinfo=UTC)


def test_what_is_exported_can_be_set_in_engage_and_read_back() -> None:
    with (
        running_sandbox(members=250) as sandbox,
        TreazureClient(sandbox.base_url, CLIENT_ID, SecretStr(CLIENT_SECRET), retry=FAST) as treazure,
        EngageClient(sandbox.base_url, SecretStr(API_KEY), retry=FAST) as engage,
    ):
        href = treazure.request_balances(LOYALTY_ID, BEGINNING, END).path
        with treazure.open_balances(href) as chunks:
            blocks = list(decode_balances(chunks, LOYALTY_ID))
        lines = [line.split("\t") for block in blocks for line in block.copy_text.decode().splitlines()]
        assert not any(block.rejected for block in blocks)
        contacts, amounts = [line[0] for line in lines], [line[1] for line in lines]
        assert sorted(contacts) == sorted(sandbox.contact_ids())
        assert treazure.account_balance(contacts[0], LOYALTY_ID) == Decimal(amounts[0])
        with pytest.raises(NotFoundError):
            treazure.account_balance("00000000-0000-0000-0000-000000000000", LOYALTY_ID)

        sandbox.know(contacts[:3], known=False)
        accepted = engage.set_balances(encode_balances(contacts, amounts, 1, datetime.now(UTC)))
        sandbox.apply_queue()
        assert accepted.transaction_id
        assert accepted.refused == dict.fromkeys(contacts[:3], "Engage does not know this contact")
        assert {account.definition_id: account.balance for account in engage.point_accounts(contacts[3])} == {
            1: Decimal(amounts[3])
        }
        assert engage.contact_count() == 247
        assert [definition.id for definition in engage.definitions()] == [1]
        assert sandbox.differences()["differing"] == 0
