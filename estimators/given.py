"""Parameters that are given: values by name, in the form that an estimator takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.checks import suggest
from estimators.transform import ParameterTransform


def given_parameters(
    names: Sequence[str],
    transform: ParameterTransform,
    given: Mapping[str, ArrayLike] | None,
    count: int,
) -> Tensor:
    """Return the given values, NaN for all other parameters, shape (B, D).

    Arguments:
        names: of the D parameters.
        transform: has their bounds.
        given: values by name, each a number or of shape (B,).
        count: B.

    Raises:
        ValueError: an unknown name, another shape, no number, or a value outside of the prior's support; or
            nothing is left to draw.
    """
    low, high = transform.theta_low, transform.theta_high
    known = torch.full((count, len(names)), torch.nan, device=low.device)
    for name, values in (given or {}).items():
        if name not in names:
            raise ValueError(f"given: unknown parameter {name!r}{suggest(name, names)}")
        array = np.asarray(values, dtype=np.float64)
        if array.shape not in ((), (1,), (count,)):
            raise ValueError(
                f"given[{name!r}] has shape {array.shape}; valid is a number, or ({count},): one for each "
                "observation"
            )
        k = list(names).index(name)
        known[:, k] = torch.as_tensor(array, dtype=torch.float32)
        a, b = float(low[k]), float(high[k])
        inside = (array >= a) & (array <= b) & np.isfinite(array)
        if not inside.all():
            worst = float(array[~inside].flat[0])
            raise ValueError(
                f"given[{name!r}] = {worst:g} is outside of the prior's support [{a:g}, {b:g}]"
            )
    if count and known.shape[1] and not known.isnan().any():
        raise ValueError("given names all parameters: nothing is left to draw")
    return known
