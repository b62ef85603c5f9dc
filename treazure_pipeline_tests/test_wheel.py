from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from treazure_pipeline.database import embedded, schema

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(CHECKOUT)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(site), **environment},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_instance_settings_the_migrations_and_no_tests(site: Path) -> None:
    for name in ("dagster.yaml", "workspace.yaml"):
        assert (site / "treazure_pipeline" / name).read_bytes() == (CHECKOUT / name).read_bytes()
    migrations = Path("treazure_pipeline/database/migrations")
    packaged = {path.relative_to(site) for path in (site / migrations).rglob("*.py")}
    assert packaged == {path.relative_to(CHECKOUT) for path in (CHECKOUT / migrations).rglob("*.py")}
    assert not (site / "treazure_pipeline_tests").exists()


def test_the_command_works_from_the_wheel_alone(site: Path, home: Path) -> None:
    command = "import sys; from treazure_pipeline.cli import main; sys.argv[1:] = ['db', 'upgrade', '--json']; main()"

    result = run(site, command, TREAZURE_PIPELINE_HOME=str(home))
    imported = run(site, "import treazure_pipeline; print(treazure_pipeline.__file__)")

    assert imported.stdout.startswith(str(site))
    assert json.loads(result.stdout)["after"] == schema.head()
    schema.check(embedded.urls(home).ledger)
    assert (home / "dagster" / "dagster.yaml").read_bytes() == (CHECKOUT / "dagster.yaml").read_bytes()
