"""How long the tests of chance play: once for `make test`, ten times as long for `make nightly`."""

from __future__ import annotations

import os

EFFORT = int(os.environ.get("EFFORT", "1"))
