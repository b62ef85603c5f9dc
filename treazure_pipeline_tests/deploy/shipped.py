"""What the tests of deploy/ share. Its tools come with the extra `deploy-checks`, which `make test` installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from treazure_pipeline.settings import ConsoleSettings, ReceiverSettings, Settings, _variables

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
WITHOUT_TOOLS = "needs the extra deploy-checks: `make test` installs it"
SETTINGS = {*_variables(Settings), *_variables(ReceiverSettings), *_variables(ConsoleSettings), "TREAZURE_LOYALTY_ID"}


def check(tool: str, *arguments: str) -> None:
    """Run a tool beside this Python; what it says is the failure."""
    path = Path(sys.executable).parent / tool
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
