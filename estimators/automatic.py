"""`auto`: the estimator and its settings by the shapes of theta and x.

The rule, in order:

1. Parameters that are an image: `cmpe_distilled` with one `image_unet`; observations that are images of
   their own enter as images, others by `unet` and a summary of rule 2.
2. Outputs get a summary by their shape: an image `cnn`; one of varying length, or of more than 512 numbers,
   `temporal_transformer` over at most 64 patches; all others together `tabular`. Several kinds of outputs
   are joined by `fusion`.
3. Where all outputs are `tabular`, the networks learn theta relative to its regression on x (`centre`).

Whatever the user sets stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from estimators.outputs import masked

if TYPE_CHECKING:
    from estimators.problem import InferenceProblem

NAME = "auto"
CHOSEN = "cmpe_distilled"
LONG = 512  # numbers of an output from which on a network summarises it
PATCHES = 64
IMAGE = 8  # as in estimators.transform, which needs torch

Shapes = Mapping[str, tuple[int, ...]]


def choose(shape: tuple[int, ...], x: Shapes) -> dict[str, Any]:
    """Return the arguments of `cmpe_distilled` that the rule gives, see the module's text.

    Arguments:
        shape: of the parameters as an array, (D,) or that of an image.
        x: shapes of one simulation's outputs, after their preprocessing, masks included.
    """
    if len(shape) > 1:
        return _image_arguments(x)
    arguments = _summary(x)
    return arguments | ({"centre": True} if arguments["summary"] == "tabular" else {})


def chosen(problem: InferenceProblem, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `cmpe_distilled` for a problem: what is given, the rest by the rule."""
    from estimators.preprocessing import steps_of

    shapes = dict(problem.x)
    for step in steps_of(problem.preprocessing):
        shapes = step.shapes(shapes)
    return complete(choose(problem.parameter_shape, shapes), given)


def complete(rule: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by the rule where none are given; those that another summary rules out go."""
    rule = dict(rule)
    if "summary" in given:
        rule.pop("summary_arguments", None)
        if given["summary"] not in ("identity", "tabular"):
            rule.pop("centre", None)
    if "network" in given:
        rule = {key: rule[key] for key in rule if key not in ("members", "input_scale", "bounds")}
    return rule | dict(given)


def _image_arguments(x: Shapes) -> dict[str, Any]:
    own = {"input_scale": 1.0, "members": 1, "bounds": "clip"}
    if len(masked(x)) == 1 and all(map(_is_image, x.values())):
        return own | {"network": "image_unet", "summary": "image"}
    return own | {"network": "unet"} | _summary(x)


def _summary(x: Shapes) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, mask in masked(x).items():
        network, arguments = _network(x[name], mask is not None)
        if network == "tabular":
            part = parts.setdefault("numbers", {"network": network, "inputs": []})
            part["inputs"].append(name)
        else:
            parts[name] = {"network": network, "inputs": [name], "arguments": arguments}
    if len(parts) > 1:
        return {"summary": "fusion", "summary_arguments": {"parts": parts}}
    (part,) = parts.values() or ({"network": "tabular"},)
    own = part.get("arguments")
    return {"summary": part["network"]} | ({"summary_arguments": own} if own else {})


def _network(shape: tuple[int, ...], varying: bool) -> tuple[str, dict[str, Any]]:
    """Return which summary network an output gets, with its arguments."""
    if not varying and _is_image(shape):
        return "cnn", {}
    if varying or (shape and math.prod(shape) > LONG):
        return "temporal_transformer", {"patch": max(1, math.ceil(shape[0] / PATCHES))}
    return "tabular", {}


def _is_image(shape: tuple[int, ...]) -> bool:
    return sum(length >= IMAGE for length in shape) >= 2
