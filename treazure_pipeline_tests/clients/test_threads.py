from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# Threads that are switched as often as can be, and meet each type of the wire for the first time together.
TOGETHER = """
import sys, threading
from treazure_pipeline.clients import engage_wire, movements, wire

sys.setswitchinterval(1e-6)
threading.setprofile(lambda *_: None)
go = threading.Barrier(8)

def read():
    go.wait()
    for _ in range(20):
        engage_wire.read_point_accounts(b'{"items": [{"id": 1, "contactId": "a", "definitionId": 1, "balance": 1}]}')
        movements.read_log(b'[{"dateTime": "2026-01-01T00:00Z", "amount": 1, "transactionType": "Load", "balance": 1}]')
        wire.read_account_balance(b'{"loyaltyPrograms": [{"loyaltyPointDefinitionId": "a", "balance": 1}]}', "a")
        wire.read_transaction_balance(b'{"balance": 1}', "a")
        engage_wire.read_definitions(b'[{"id": 1, "name": "a"}]')

threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_answers_may_be_read_by_many_threads_at_once() -> None:
    runs = [subprocess.run([sys.executable, "-c", TOGETHER], check=False, capture_output=True) for _ in range(8)]
    assert [run.returncode for run in runs] == [0] * 8, [run.stderr[-300:] for run in runs]
