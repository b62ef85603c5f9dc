"""What the tests of deploy/ share. Its tools come with the extra `deploy-checks`, which `make test` installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from treazure_pipeline.settings import ConsoleSettings, ReceiverSettings, Settings
from treazure_pipeline.settings.loading import variables
from treazure_pipeline.settings.programmes import GUARDS, ONE_PROGRAMME

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
WITHOUT_TOOLS = "needs the extra deploy-checks: `make test` installs it"
_FIELDS = {
    variable: model.model_fields[field]
    for model in (Settings, ReceiverSettings, ConsoleSettings)
    for variable, field in variables(model).items()
}
SECRETS = {variable for variable, field in _FIELDS.items() if "SecretStr" in repr(field.annotation)}
_FORM_ADDRESSES = {"TREAZURE_CLIENT", "TREAZURE_ENVIRONMENT", "ENGAGE_CLIENT", "ENGAGE_STAGING"}
PLAIN = {*_FIELDS, *ONE_PROGRAMME, *GUARDS, *_FORM_ADDRESSES, "DAGSTER_WEBSERVER_URL"} - SECRETS
SETTINGS = PLAIN | SECRETS


def check(tool: str, *arguments: str) -> None:
    """Run a tool beside this Python; what it says is the failure."""
    path = Path(sys.executable).parent / tool
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
