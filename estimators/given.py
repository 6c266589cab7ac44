"""Parameters that are given: values by name, in the form that an estimator takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.checks import suggest
from estimators.problem import InferenceProblem
from estimators.transform import ParameterTransform


def given_parameters(
    problem: InferenceProblem,
    transform: ParameterTransform,
    given: Mapping[str, ArrayLike],
    count: int,
) -> Tensor:
    """Return the given values, NaN for all other parameters, shape (B, D).

    Arguments:
        problem: names and bounds of the D parameters.
        transform: has the bounds in single precision.
        given: values by name, each a number or of shape (B,).
        count: B.

    Raises:
        ValueError: an unknown name, another shape, no number, or a value outside of the prior's support; or
            nothing is left to draw.
    """
    names, low = problem.names, transform.theta_low
    known = torch.full((count, len(names)), torch.nan, device=low.device)
    for name, values in given.items():
        if name not in names:
            raise ValueError(f"given: unknown parameter {name!r}{suggest(name, names)}")
        array = np.asarray(values, dtype=np.float64)
        if array.shape not in ((), (1,), (count,)):
            raise ValueError(
                f"given[{name!r}] has shape {array.shape}; valid is a number, or ({count},): one for each "
                "observation"
            )
        k = names.index(name)
        a, b = problem.low[k], problem.high[k]
        inside = (array >= a) & (array <= b) & np.isfinite(array)
        if not inside.all():
            worst = float(array[~inside].flat[0])
            raise ValueError(
                f"given[{name!r}] = {worst:g} is outside of the prior's support [{a:g}, {b:g}]"
            )
        single = torch.as_tensor(array, dtype=torch.float32).to(low.device)
        known[:, k] = single.clamp(low[k], transform.theta_high[k])
    if count and known.shape[1] and not known.isnan().any():
        raise ValueError("given names all parameters: nothing is left to draw")
    return known
