from __future__ import annotations

from collections.abc import Iterator

import pytest

from treazure_pipeline.sandbox import Sandbox, running_sandbox
from treazure_pipeline_tests.sandbox.caller import Caller


@pytest.fixture(scope="session")
def _running() -> Iterator[Sandbox]:
    with running_sandbox(members=0) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_running: Sandbox) -> Sandbox:
    _running.reset(members=50, behavior={"apply_delay": 0})
    return _running


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    caller = Caller(sandbox.base_url)
    yield caller
    caller.http.close()


@pytest.fixture
def contacts(sandbox: Sandbox) -> list[str]:
    return sandbox.contact_ids()
