"""Which variables depend on each other directly: a graph by names, and what may attend to what."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from estimators.checks import suggest
from estimators.problem import InferenceProblem


def adjacency(problem: InferenceProblem, graph: Mapping[str, Sequence[str]]) -> Tensor:
    """Return which variables are connected, bool (N, N), symmetric, each with itself.

    Arguments:
        problem: names of the parameters, and names and shapes of the outputs.
        graph: names with those that they are connected with; an output `x` stands for all its elements,
            `x[3]` for one of them, counted along its axes from the last.

    Raises:
        ValueError: an unknown name, or an element that is not there.
    """
    places = {name: [k] for k, name in enumerate(problem.names)}
    start = problem.size
    for name, shape in sorted(problem.x.items()):
        stop = start + math.prod(shape)
        if name in places:
            raise ValueError(f"graph: {name!r} is both a parameter and an output")
        places[name], start = list(range(start, stop)), stop
    connected = torch.eye(start, dtype=torch.bool)
    for name, others in graph.items():
        ends = [k for other in others for k in _places(places, other)]
        for i, j in itertools.product(_places(places, name), ends):
            connected[i, j] = connected[j, i] = True
    return connected


def _places(places: Mapping[str, list[int]], name: str) -> list[int]:
    """Return the variables that a name stands for."""
    if name in places:
        return places[name]
    found = re.fullmatch(r"(.+)\[(\d+)\]", name)
    if not found or found[1] not in places:
        raise ValueError(f"graph: unknown name {name!r}{suggest(name, places)}")
    elements, k = places[found[1]], int(found[2])
    if k >= len(elements):
        raise ValueError(f"graph: {name!r} is not there; {found[1]!r} has {len(elements)} elements")
    return [elements[k]]
