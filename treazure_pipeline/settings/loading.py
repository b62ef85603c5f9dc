"""Reads and checks the environment.

Every function takes an environment to read instead of the process's; an empty value counts as not set. If anything is
missing or wrong, it raises one SettingsError that names every such variable and what to do, and never shows a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from treazure_pipeline.database import homes
from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import programmes as several
from treazure_pipeline.settings import values as kinds
from treazure_pipeline.settings.models import (
    ConsoleSettings,
    LedgerSettings,
    MasterSettings,
    Programme,
    ReceiverSettings,
    Settings,
    Storage,
)

R = TypeVar("R", bound=LedgerSettings)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return all settings."""
    given = _given(environ)
    problems: dict[str, str] = {}
    _read_files(Settings, given, problems)
    values = _values(Settings, given)
    _form_treazure_base_url(given, values, problems)
    _form_engage_base_url(given, values, problems)
    programmes = several.read(given, problems)
    values["PROGRAMMES"] = programmes or _PLACEHOLDER
    values["PREFIXED"] = len(programmes) > 1

    settings = _validated(Settings, values, problems)
    if settings and settings.treazure_lookup_wait_seconds < settings.treazure_timeout_seconds:
        problems["TREAZURE_LOOKUP_WAIT_SECONDS"] = (
            f"({settings.treazure_lookup_wait_seconds:g}) must not be shorter than "
            f"TREAZURE_TIMEOUT_SECONDS ({settings.treazure_timeout_seconds:g})"
        )
    if settings is None or problems:
        raise _error(problems)
    return settings


def load_storage(environ: Mapping[str, str] | None = None) -> Storage:
    """Return only where data is kept, for whatever works without the two systems."""
    problems: dict[str, str] = {}
    given = _given(environ)
    _read_files(Storage, given, problems)
    storage = _validated(Storage, _values(Storage, given), problems)
    if storage is None or problems:
        raise _error(problems)
    return storage


def load_ledger(environ: Mapping[str, str] | None = None) -> LedgerSettings:
    """Return what is needed to read the ledger, or to decide about what is in it.

    Programmes and addresses may be missing, but are checked if they are set.
    """
    return _reading(LedgerSettings, _given(environ), {})


def load_console(environ: Mapping[str, str] | None = None) -> ConsoleSettings:
    """Return what the console needs; the ledger's part is as in :func:`load_ledger`."""
    given = _given(environ)
    needed = _CONSOLE_NEEDS.get(given.get("CONSOLE_AUTH", "none"), {})
    problems = {
        variable: f"is missing: set it to {what}"
        for variable, what in needed.items()
        if not given.keys() & {variable, f"{variable}_FILE"}
    }
    credentials = ("TREAZURE_CLIENT_ID", "TREAZURE_CLIENT_SECRET")
    master = None
    if all(given.keys() & {name, f"{name}_FILE"} for name in credentials) and given.keys() & {
        "ENGAGE_BASE_URL",
        "ENGAGE_CLIENT",
    }:
        master = _master(given, problems, _PLACEHOLDER)
    return _reading(ConsoleSettings, given, problems).model_copy(update={"master": master})


def _reading(model: type[R], given: dict[str, str], problems: dict[str, str]) -> R:
    _read_files(model, given, problems)
    values = _values(model, given)
    missing: dict[str, str] = {}
    _form_treazure_base_url(given, values, missing)
    _form_engage_base_url(given, values, missing)
    if given.keys() & {"TREAZURE_LOYALTY_ID", several.PROGRAMMES_FILE}:
        values["PROGRAMMES"] = several.read(given, problems) or _PLACEHOLDER
    settings = _validated(model, values, problems)
    if settings is None or problems:
        raise _error(problems)
    return settings


def load_receiver(environ: Mapping[str, str] | None = None) -> ReceiverSettings:
    """Return what the webhook receiver needs."""
    given = _given(environ)
    problems: dict[str, str] = {}
    _read_files(ReceiverSettings, given, problems)
    settings = _validated(ReceiverSettings, _values(ReceiverSettings, given), problems)
    master = None
    if "HISTORY_API_KEY" in given:
        _judge_history_key(given, problems)
        master = _master(given, problems, several.read(given, problems) or _PLACEHOLDER)
    if settings is None or problems:
        raise _error(problems)
    return settings.model_copy(update={"master": master})


def _judge_history_key(given: dict[str, str], problems: dict[str, str]) -> None:
    if not re.fullmatch(r"[!-~]{32,}", given["HISTORY_API_KEY"]):
        problems["HISTORY_API_KEY"] = (
            "must have at least 32 visible ASCII characters, without spaces; `openssl rand -hex 32` makes one"
        )


def _master(
    given: dict[str, str], problems: dict[str, str], programmes: tuple[Programme, ...]
) -> MasterSettings | None:
    """Return what is needed to read single accounts from Treazure."""
    _read_files(MasterSettings, given, problems)
    values = _values(MasterSettings, given)
    _form_treazure_base_url(given, values, problems)
    values["PROGRAMMES"] = programmes
    return _validated(MasterSettings, values, problems)


# Used instead of programmes that are wrong, so that the other settings are still checked.
_PLACEHOLDER = (Programme(name="placeholder", loyalty_id="placeholder"),)
_FORMED = ("TREAZURE_BASE_URL", "ENGAGE_BASE_URL")

_ADDRESS_AND_ROLES = {
    "CONSOLE_URL": "the address at which people reach the console",
    "CONSOLE_ROLES": "who may do what, such as loyalty-team=operator, *=viewer",
}
_CONSOLE_NEEDS = {
    "proxy": {"CONSOLE_PROXY_ADDRESSES": "the addresses of the proxy that signs people in", **_ADDRESS_AND_ROLES},
    "oidc": {
        "CONSOLE_OIDC_ISSUER": "the issuer's address, below which /.well-known/openid-configuration is",
        "CONSOLE_OIDC_CLIENT_ID": "the id of the console's client there",
        "CONSOLE_OIDC_CLIENT_SECRET": "the secret of that client",
        **_ADDRESS_AND_ROLES,
    },
}

S = TypeVar("S", bound=Storage)


def _given(environ: Mapping[str, str] | None) -> dict[str, str]:
    environ = os.environ if environ is None else environ
    return {name: value.strip() for name, value in environ.items() if value.strip()}


def _read_files(model: type[Storage], given: dict[str, str], problems: dict[str, str]) -> None:
    """Read secrets and database addresses from files where ``NAME_FILE`` is set."""
    for variable, field in variables(model).items():
        path = given.get(f"{variable}_FILE")
        if path is None or "SecretStr" not in repr(model.model_fields[field].annotation):
            continue
        if variable in given:
            problems[f"{variable}_FILE"] = f"can't be set together with {variable}"
            continue
        try:
            given[variable] = kinds.expanded(path).read_text(encoding="utf-8").strip()
            del given[f"{variable}_FILE"]  # read only once, even if several models have the field
        except OSError as error:
            problems[f"{variable}_FILE"] = f"({path!r}) cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            problems[f"{variable}_FILE"] = f"({path!r}) is not UTF-8 text"
        except ValueError as error:
            problems[f"{variable}_FILE"] = f"({path!r}) {error}"
        else:
            if not given[variable]:
                problems[f"{variable}_FILE"] = f"({path!r}) is empty"


def variables(model: type[Storage]) -> dict[str, str]:
    """Return the field that each variable sets."""
    fields = model.model_fields.items()
    return {
        str(field.validation_alias or name.upper()): name
        for name, field in fields
        if name not in {"programmes", "prefixed", "master"}
    }


def _values(model: type[Storage], given: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {variable: given[variable] for variable in variables(model) if variable in given}
    if "TREAZURE_PIPELINE_DATABASE_URL" not in values:
        values.setdefault("TREAZURE_PIPELINE_HOME", homes.default())
    return values


def _validated(model: type[S], values: dict[str, Any], problems: dict[str, str]) -> S | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for details in error.errors():
            variable = str(details["loc"][0])
            if variable in _FORMED and details["type"] == "missing":
                continue  # the parts that form it are among the problems already
            field = model.model_fields[variables(model)[variable]]
            if details["type"] == "missing":
                problems[variable] = f"is missing: set it to {field.description}"
                continue
            value = str(values.get(variable, ""))
            secret = "SecretStr" in repr(field.annotation) or "@" in value
            problems[variable] = ("" if secret else f"({value!r}) ") + kinds.reason(details)
        return None


def _error(problems: Mapping[str, str]) -> SettingsError:
    # If a file is wrong, its variable is not reported as missing too.
    problems = {variable: problem for variable, problem in problems.items() if f"{variable}_FILE" not in problems}
    heading = "1 setting needs" if len(problems) == 1 else f"{len(problems)} settings need"
    lines = "".join(f"\n  {variable} {problem}." for variable, problem in problems.items())
    return SettingsError(f"{heading} to be fixed before anything can run:{lines}")


def _form_treazure_base_url(given: Mapping[str, str], values: dict[str, Any], problems: dict[str, str]) -> None:
    if "TREAZURE_BASE_URL" in given:
        return
    parts = ("TREAZURE_CLIENT", "TREAZURE_ENVIRONMENT")
    if not any(part in given for part in parts):
        problems["TREAZURE_BASE_URL"] = (
            "is missing: set it to Treazure's address, or set TREAZURE_CLIENT and TREAZURE_ENVIRONMENT, which form it"
        )
        return
    for part in parts:
        if part not in given:
            problems[part] = "is missing: TREAZURE_CLIENT and TREAZURE_ENVIRONMENT together form Treazure's address"
        elif not _is_label(given[part]):
            problems[part] = f"({given[part]!r}) must be one part of a host name: letters, digits and hyphens"
    if not any(part in problems for part in parts):
        client, environment = (given[part] for part in parts)
        values["TREAZURE_BASE_URL"] = f"https://{client}.posengine.{environment}.cloud"


def _form_engage_base_url(given: Mapping[str, str], values: dict[str, Any], problems: dict[str, str]) -> None:
    staging = kinds.SWITCH.get(given.get("ENGAGE_STAGING", "0").lower())
    if staging is None:
        problems["ENGAGE_STAGING"] = f"({given['ENGAGE_STAGING']!r}) must be 1 or 0"
    if "ENGAGE_BASE_URL" in given:
        return
    client = given.get("ENGAGE_CLIENT")
    if client is None:
        problems["ENGAGE_BASE_URL"] = (
            "is missing: set it to Engage's address, or set ENGAGE_CLIENT (and ENGAGE_STAGING=1), which form it"
        )
    elif not _is_label(client):
        problems["ENGAGE_CLIENT"] = f"({client!r}) must be one part of a host name: letters, digits and hyphens"
    else:
        values["ENGAGE_BASE_URL"] = f"https://{client}{'.staging' if staging else ''}.voyado.com"


def _is_label(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", value) is not None
