"""Launchpad forms that are checked before there is a run. If something is wrong, one sentence says so.

Dagster checks the types of run config when a run is requested, but the rules of a `dg.Config` only when a step starts,
which makes a failed run. So a form's rules are checked when Dagster resolves the config for the run's plan: in the code
location, before the run exists. See https://docs.dagster.io/guides/operate/configuration/run-configuration
"""

from typing import Any, Self, TypeVar

import dagster as dg
from dagster._config.config_type import ConfigTypeKind
from pydantic import ValidationError

from treazure_pipeline.errors import SettingsError

F = TypeVar("F", bound="Form")


class Form(dg.Config):
    """Run config of an op or an asset. `check` has the rules that concern several fields, or need a library."""

    def check(self) -> None:
        """Raise SettingsError for values that make no sense."""


class _Checked(dg.Shape):
    """A form's fields and its rules."""

    def __new__(cls, *_: Any) -> Self:
        return object.__new__(cls)  # otherwise shapes with the same fields share an instance

    def __init__(self, form: type[Form], fields: Any) -> None:
        super(dg.Shape, self).__init__(  # type: ignore[no-untyped-call]
            kind=ConfigTypeKind.STRICT_SHAPE,
            key=f"{fields.key}.{form.__name__}",
            description=fields.description,
            fields=fields.fields,
        )
        self.field_aliases: dict[str, str] = {}
        self._form = form

    def post_process(self, value: dict[str, Any]) -> dict[str, Any]:
        """Check the values. Dagster's own error would show them, even those from the environment."""
        try:
            form = self._form(**value)
        except ValidationError as error:
            wrong = "; ".join(f"{each['loc'][0]} {each['msg']}" for each in error.errors())
            raise SettingsError(wrong.replace("Input should", "must").replace("String should", "must") + ".") from None
        form.check()
        return value


def schema(form: type[Form]) -> dg.Field:
    """Return the `config_schema` for an op or an asset."""
    field: Any = form.to_config_schema().as_field()
    checked = _Checked(form, field.config_type)
    if not field.default_provided:
        return dg.Field(checked, description=field.description)
    return dg.Field(checked, description=field.description, is_required=False, default_value=field.default_value)


def filled(context: dg.OpExecutionContext | dg.AssetExecutionContext, form: type[F]) -> F:
    """Return the form with the run's values."""
    return form(**getattr(context, "op_execution_context", context).op_config)
