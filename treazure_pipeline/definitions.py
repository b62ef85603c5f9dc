"""The code location: `dagster dev`, `dg dev` and the workspace load this module."""

from __future__ import annotations

from treazure_pipeline.orchestration.definitions import build_definitions
from treazure_pipeline.settings import load_settings

defs = build_definitions(load_settings())
