"""The programmes: one from variables, or several from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from treazure_pipeline.settings import values
from treazure_pipeline.settings.models import Programme

PROGRAMMES_FILE = "TREAZURE_PIPELINE_PROGRAMMES"
ONE_PROGRAMME = {
    "PROGRAMME_NAME": "name",
    "TREAZURE_LOYALTY_ID": "loyalty_id",
    "ENGAGE_DEFINITION_ID": "definition_id",
    "PROGRAMME_BEGINNING": "beginning",
    "PROGRAMME_DECIMALS": "decimals",
    "PROGRAMME_MIGRATED": "migrated",
}
GUARDS = {
    "GUARD_MAX_CHANGED_SHARE": "max_changed_share",
    "GUARD_MAX_ZEROED_SHARE": "max_zeroed_share",
    "GUARD_MAX_TOTAL_SHARE": "max_total_share",
    "GUARD_MAX_SINGLE_CHANGE": "max_single_change",
    "GUARD_MAX_REJECTED_SHARE": "max_rejected_share",
}
_LOYALTY_ID_IS_MISSING = (
    "is missing: set it to the loyaltyPointDefinitionId of the programme in Treazure, "
    f"or set {PROGRAMMES_FILE} to a YAML file with several programmes"
)


def read(given: Mapping[str, str], problems: dict[str, str]) -> tuple[Programme, ...]:
    """Return the programmes in the variables; empty if they are wrong, which is then in `problems`."""
    if PROGRAMMES_FILE in given:
        for variable in ONE_PROGRAMME.keys() & given.keys():
            problems[variable] = f"can't be set together with {PROGRAMMES_FILE}, which has it for each programme"
        try:
            return _read_programmes(values.expanded(given[PROGRAMMES_FILE]), _guards(given))
        except ValueError as error:
            problems[PROGRAMMES_FILE] = f"({given[PROGRAMMES_FILE]!r}) {error}"
            return ()
    fields: dict[str, Any] = {"name": "points", "guards": _guards(given)}
    fields |= {field: given[variable] for variable, field in ONE_PROGRAMME.items() if variable in given}
    try:
        return (Programme.model_validate(fields),)
    except ValidationError as error:
        variables = {field: variable for variable, field in (ONE_PROGRAMME | GUARDS).items()}
        for details in error.errors():
            variable = variables[str(details["loc"][-1])]
            problems[variable] = (
                _LOYALTY_ID_IS_MISSING
                if details["type"] == "missing"
                else f"({given[variable]!r}) {values.reason(details)}"
            )
        return ()


def _guards(given: Mapping[str, str]) -> dict[str, str]:
    return {field: given[variable] for variable, field in GUARDS.items() if variable in given}


def _read_programmes(path: Path, guards: Mapping[str, str]) -> tuple[Programme, ...]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, list) or not content:
        raise ValueError("must be a YAML list of programmes, each with at least name and loyalty_id")

    wrong: list[str] = []
    programmes: list[Programme] = []
    for number, entry in enumerate(content, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            programmes.append(Programme.model_validate(_with_guards(entry, guards)))
        except ValidationError as error:
            wrong.extend(
                f"programme {number}{f' ({name})' if name else ''}: {_key(details)} {values.reason(details)}"
                for details in error.errors()
            )
    for key in ("name", "loyalty_id", "definition_id"):
        found = [getattr(programme, key) for programme in programmes]
        wrong.extend(
            f"more than one programme has {key} {value!r}" for value in dict.fromkeys(found) if found.count(value) > 1
        )
    if sum(programme.keeps_names for programme in programmes) > 1:
        wrong.append("more than one programme has keeps_names; only the first one of an installation can")
    if wrong:
        raise ValueError("has mistakes: " + "; ".join(wrong))
    return tuple(programmes)


def _with_guards(entry: Any, guards: Mapping[str, str]) -> Any:
    """Add the guards of the environment, which are for all programmes, unless the programme has its own."""
    own = entry.get("guards") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or (own is not None and not isinstance(own, dict)):
        return entry
    return entry | {"guards": {**guards, **(own or {})}}


def _key(details: ErrorDetails) -> str:
    return ".".join(map(str, details["loc"])) or "it"
