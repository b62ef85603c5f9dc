from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings

from treazure_pipeline_tests.service.conftest import Running, signed

if TYPE_CHECKING:
    import schemathesis


def test_the_receiver_keeps_to_its_openapi_document(receiver: Running) -> None:
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    options = ["--max-examples", "50", "--seed", "1", "--no-color", "--generation-database", "none"]

    result = subprocess.run(
        [*command, "run", f"{receiver.url}/openapi.json", *options],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    # It leaves out the document's own address.
    assert "5 selected / 5 total" in result.stdout


def test_signed_deliveries_keep_to_the_openapi_document(receiver: Running) -> None:
    import schemathesis  # noqa: PLC0415 - no other test should wait for it

    document = schemathesis.openapi.from_url(f"{receiver.url}/openapi.json")

    @settings(max_examples=50, deadline=None)
    @given(case=document["/webhooks/engage"]["POST"].as_strategy())
    def deliver(case: schemathesis.Case[Any]) -> None:
        body = json.dumps(case.body)
        answer = receiver.post(body, signed(body))
        assert answer.status_code == 202
        case.validate_response(answer)

    deliver()
