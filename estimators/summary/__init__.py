"""Summary networks: one vector for the outputs of one simulation, trained with the estimator."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from estimators.registry import suggest

if TYPE_CHECKING:
    from estimators.summary.base import Summary

MASK = "_mask"  # an output of varying length comes padded, with the mask of this ending beside it

TABLE = {
    "cnn": "estimators.summary.cnn:CNN",
    "deepset": "estimators.summary.deepset:DeepSet",
    "fusion": "estimators.summary.fusion:Fusion",
    "identity": "estimators.summary.identity:Identity",
    "recurrent": "estimators.summary.recurrent:Recurrent",
    "set_transformer": "estimators.summary.set_transformer:SetTransformer",
    "temporal_transformer": "estimators.summary.temporal_transformer:TemporalTransformer",
}


def summary_network(
    name: str, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any]
) -> Summary:
    """Return the summary network of this name.

    Arguments:
        name: one of the table above.
        shapes: name -> shape of one simulation's output.
        arguments: the network's own settings.

    Raises:
        LookupError: there is none of this name.
        TypeError: it has no such argument.
    """
    if name not in TABLE:
        raise LookupError(f"unknown summary {name!r}{suggest(name, sorted(TABLE))}")
    module, _, attribute = TABLE[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    valid = [
        p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    for key in arguments:
        if key not in valid:
            raise TypeError(
                f"summary {name!r} has no argument {key!r}{suggest(key, sorted(valid))}"
            )
    network: Summary = kind(shapes, **arguments)
    return network
