"""Free-form networks: what maps a noisy parameter, a summary of x and a time to a parameter."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from estimators.registry import suggest

if TYPE_CHECKING:
    from estimators.network.base import FreeForm

TABLE = {
    "adaptive_mlp": "estimators.network.adaptive_mlp:AdaptiveMLP",
    "mlp": "estimators.network.mlp:ResidualMLP",
    "transformer": "estimators.network.transformer:Transformer",
    "unet": "estimators.network.unet:UNet",
}


def free_form_network(
    name: str, size: int, context: int, time: int, given: Mapping[str, Any]
) -> FreeForm:
    """Return the free-form network of this name.

    Arguments:
        name: one of the table above.
        size, context, time: D, C and F, see `FreeForm`.
        given: the network's own settings; None stands for its default.

    Raises:
        LookupError: there is none of this name.
        TypeError: it has no such argument.
        ValueError: an argument is out of range.
    """
    if name not in TABLE:
        raise LookupError(f"unknown network {name!r}{suggest(name, sorted(TABLE))}")
    module, _, attribute = TABLE[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    settings = {key: value for key, value in given.items() if value is not None}
    signature = inspect.signature(kind).parameters.values()
    valid = sorted(p.name for p in signature if p.kind is p.KEYWORD_ONLY)
    for key in settings:
        if key not in valid:
            raise TypeError(f"network {name!r} has no argument {key!r}{suggest(key, valid)}")
    network: FreeForm = kind(size, context, time, **settings)
    return network
