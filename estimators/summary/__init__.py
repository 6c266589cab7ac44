"""Summary networks: one vector for the outputs of one simulation, trained with the estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from estimators import plugins
from estimators.settings import model_of, validated

if TYPE_CHECKING:
    from estimators.summary.base import Summary

TABLE = {
    "cnn": "estimators.summary.cnn:CNN",
    "deepset": "estimators.summary.deepset:DeepSet",
    "fusion": "estimators.summary.fusion:Fusion",
    "identity": "estimators.summary.identity:Identity",
    "image": "estimators.summary.image:Image",
    "naive_cnn": "estimators.summary.naive_cnn:NaiveCNN",
    "recurrent": "estimators.summary.recurrent:Recurrent",
    "set_transformer": "estimators.summary.set_transformer:SetTransformer",
    "tabular": "estimators.summary.tabular:Tabular",
    "temporal_transformer": "estimators.summary.temporal_transformer:TemporalTransformer",
}


def summary_network(
    name: str, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any]
) -> Summary:
    """Return the summary network of this name.

    Arguments:
        name: one of the table above, `package.module:attribute` or `file.py:attribute`.
        shapes: name -> shape of one simulation's output.
        arguments: the network's own settings.

    Raises:
        LookupError: there is none of this name.
        TypeError: it is no `Summary` class, or has no such argument, or not of this type.
        ValueError: an argument is out of range.
    """
    network: Summary = check_summary(name, arguments)(shapes, **arguments)
    return network


def check_summary(name: str, arguments: Mapping[str, Any]) -> type[Summary]:
    """Return the class of the summary network of this name, which takes these arguments.

    Raises:
        LookupError: there is none of this name.
        TypeError: it is no `Summary` class, or has no such argument, or not of this type.
        ValueError: an argument is out of range.
    """
    from estimators.summary.base import Summary

    found = plugins.find("summary", name, TABLE)
    kind: type[Summary] = plugins.require_subclass("summary", name, found, Summary)
    validated(f"summary {name!r}", model_of(kind), arguments)
    return kind
