"""Settings of estimators, networks and summary networks: names, types, bounds and defaults, declared once.

An estimator's settings are a model, with the two specifications `NetworkSpec` and `SummarySpec` among its
bases. Those of a network or summary network, and of a plug-in, are the keyword-only parameters of its
constructor; `Annotated[int, Field(ge=1)]` declares a bound there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from estimators.checks import suggest

Float = Annotated[float, Field(strict=True)]
PositiveFloat = Annotated[float, Field(strict=True, ge=1e-6)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0)]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
Bins = Annotated[int, Field(strict=True, ge=2)]  # of a spline
Exponent = Annotated[float, Field(strict=True, ge=1)]
Dropout = Annotated[float, Field(strict=True, ge=0, le=0.99)]
Flag = Annotated[bool, Field(strict=True)]


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()
    )


class NetworkSpec(Settings):
    """Which free-form network, see `estimators.network`.

    Arguments:
        network: its name.
        width, depth, dropout: its size and dropout; None is the network's own default.
        network_arguments: its other settings.
    """

    network: str = "mlp"
    width: Annotated[int, Field(strict=True)] | None = None
    depth: Annotated[int, Field(strict=True)] | None = None
    dropout: Float | None = None
    network_arguments: dict[str, Any] | None = None

    @property
    def network_settings(self) -> dict[str, Any]:
        """The network's settings that are given."""
        given = {"width": self.width, "depth": self.depth, "dropout": self.dropout}
        return {**given, **(self.network_arguments or {})}


class SummarySpec(Settings):
    """Which summary network, see `estimators.summary`.

    Arguments:
        summary: its name.
        summary_arguments: its own settings.
    """

    summary: str = "identity"
    summary_arguments: dict[str, Any] | None = None


class EstimatorSettings(SummarySpec):
    """What every estimator has.

    Arguments:
        bounds: treatment of bounded parameters, see `estimators.transform`.
    """

    bounds: str = "reflect"


def model_of(kind: Any) -> type[Settings]:
    """Return the model of a class's settings: its `settings_type`, or its keyword-only parameters."""
    own: type[Settings] | None = getattr(kind, "settings_type", None)
    if own is not None:
        return own
    try:
        hints = get_type_hints(kind.__init__, include_extras=True)
    except (NameError, TypeError):  # names that only a type checker knows
        hints = {}
    fields: dict[str, Any] = {
        p.name: (_strict(hints.get(p.name, Any)), ... if p.default is p.empty else p.default)
        for p in inspect.signature(kind).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    model: type[Settings] = create_model(kind.__name__, __base__=Settings, **fields)
    return model


def _strict(hint: Any) -> Any:
    """Return a type that takes no number or word for a flag."""
    if hint is bool:
        return Flag
    return Flag | None if hint == bool | None else hint


def defaults(model: type[Settings]) -> dict[str, Any]:
    """Return the names of the settings with their defaults."""
    return {name: field.get_default() for name, field in model.model_fields.items()}


def check_names(what: str, model: type[Settings], given: Mapping[str, Any]) -> None:
    """Raise TypeError where a setting is unknown; the message lists the valid ones.

    Arguments:
        what: whose settings, for the message.
        model: the valid settings.
        given: name -> value.
    """
    for key in given:
        if key not in model.model_fields:
            raise TypeError(f"{what} has no argument {key!r}{suggest(key, model.model_fields)}")


def validated(what: str, model: type[Settings], given: Mapping[str, Any]) -> Any:
    """Return an instance of the model with the settings that are given, checked.

    Raises:
        TypeError: an unknown or missing setting, or a value of another type.
        ValueError: a value out of its bounds.
    """
    check_names(what, model, given)
    try:
        return model(**given)
    except ValidationError as error:
        raise _readable(what, error) from None


def _readable(what: str, error: ValidationError) -> Exception:
    """Return the first of pydantic's errors as a TypeError or ValueError in one line."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    if cause := first.get("ctx", {}).get("error"):
        return ValueError(f"{what}: {cause}")
    if first["type"] == "missing":
        return TypeError(f"{what} needs the argument {name!r}")
    message = f"{what}: {name} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    wrong_type = first["type"].endswith(("_type", "_parsing", "_from_float", "is_instance_of"))
    return TypeError(message) if wrong_type else ValueError(message)
