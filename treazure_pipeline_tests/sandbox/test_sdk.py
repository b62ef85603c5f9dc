"""The vendor's own SDK works against the sandbox, unchanged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from voyado_engage_sdk import VoyadoEngageSdk
from voyado_engage_sdk.models import PointTransactionToAccount
from voyado_engage_sdk.net.transport.request_error import RequestError

from treazure_pipeline.sandbox import API_KEY, Sandbox, running_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(members=50, programmes={"A": 1, "B": 2}, in_step=True, apply_delay=0) as running:
        yield running


@pytest.fixture
def sdk(sandbox: Sandbox) -> VoyadoEngageSdk:
    return VoyadoEngageSdk(api_key=API_KEY, base_url=sandbox.base_url)


def transaction(contact: str, amount: float, definition: int = 1, **more: Any) -> PointTransactionToAccount:
    given = {"source": "SDK", "description": "by the SDK"} | more
    return PointTransactionToAccount(contact_id=contact, amount=amount, definition_id=definition, **given)


def test_definitions_and_counts(sdk: VoyadoEngageSdk) -> None:
    definitions = sdk.point_accounts.point_account_point_definitions(offset=0, count=100)
    assert [definition.id_ for definition in definitions] == [1, 2]
    assert sdk.point_accounts.point_account_point_definition(2).name == "Points B"
    assert [each.id_ for each in sdk.point_accounts.point_account_point_definitions(offset=1, count=1)] == [2]
    assert sdk.contacts.contacts_v_count() == 50
    assert sdk.contacts.contacts_v_count_by_contact_type("member") == 50


def test_accounts_of_a_contact_and_one_by_its_id_page_by_page(sdk: VoyadoEngageSdk, sandbox: Sandbox) -> None:
    (contact,) = sandbox.contact_ids(1)
    found = sdk.point_accounts.point_account_point_account_get2(contact)
    assert sorted(account.definition_id for account in found.items) == [1, 2]
    one = sdk.point_accounts.point_account_point_account_get(found.items[0].id_)
    assert (one.contact_id, one.balance) == (contact, found.items[0].balance)
    page = sdk.point_accounts.point_account_point_account_get2(contact, offset=1, count=1)
    assert [account.id_ for account in page.items] == [found.items[1].id_]


def test_transactions_are_added_listed_and_read_one_by_one(sdk: VoyadoEngageSdk, sandbox: Sandbox) -> None:
    contact = sandbox.contact_ids(2)[1]
    (account,) = [each for each in sdk.point_accounts.point_account_point_account_get2(contact).items
                  if each.definition_id == 1]  # fmt: skip
    rows = [transaction(contact, 5), transaction(contact, -2), transaction(str(uuid.uuid4()), 1)]
    result = sdk.point_accounts.point_account_add_point_transactions(rows, idempotency_key=uuid.uuid4().hex)
    assert len(result.not_accepted) == len(result.missing_contact_ids) == 1
    by_contact = sdk.point_accounts.point_account_point_transactions2(contact_id=contact, definition_id=1)
    by_account = sdk.point_accounts.point_account_point_transactions2(account_id=account.id_)
    assert [each.amount for each in by_contact.items] == [each.amount for each in by_account.items] == [5, -2]
    page = sdk.point_accounts.point_account_point_transactions2(account_id=account.id_, offset=1, count=1)
    assert [each.amount for each in page.items] == [-2]
    one = sdk.point_accounts.point_account_point_transactions(by_contact.items[1].id_)
    assert (one.amount, one.description, one.account_id) == (-2, "by the SDK", account.id_)
    assert sdk.point_accounts.point_account_point_account_get(account.id_).balance == account.balance + 3


def test_one_row_is_added_alone_and_once_with_its_key(sdk: VoyadoEngageSdk, sandbox: Sandbox) -> None:
    contact = sandbox.contact_ids(3)[2]
    key = uuid.uuid4().hex
    for _ in range(2):
        sdk.point_accounts.point_account_add_point_transactions([transaction(contact, 7, 2)], idempotency_key=key)
    added = sdk.point_accounts.point_account_point_transactions2(contact_id=contact, definition_id=2)
    assert [each.amount for each in added.items] == [7]


def test_errors_are_the_sdk_s_own(sdk: VoyadoEngageSdk, sandbox: Sandbox) -> None:
    with pytest.raises(RequestError) as missing:
        sdk.point_accounts.point_account_point_account_get(999_999_999)
    assert missing.value.status == 404
    with pytest.raises(RequestError) as refused:
        VoyadoEngageSdk(api_key="wrong", base_url=sandbox.base_url).contacts.contacts_v_count()
    assert refused.value.status == 401
