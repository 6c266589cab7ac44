"""What a model returns becomes arrays of the simulation's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = "biuf"
VALID = "bool, integers, and floats of at most 64 bits"
MOST_BYTES = 8  # of one number: no store keeps more
MASK = "_mask"  # ends the name under which training keeps where a ragged output ends


class OutputError(TypeError):
    """An output that cannot be kept, whatever its values: the model must be changed."""


def by_name(simulator: str, returned: Any) -> Mapping[str, Any]:
    """Return outputs by name; one that is no mapping is called "x".

    Raises: ValueError where there is none; OutputError for a name that is no Python identifier.
    """
    if returned is None:
        raise ValueError(f"{simulator} returned None")
    outputs = returned if isinstance(returned, Mapping) else {"x": returned}
    if not outputs:
        raise ValueError(f"{simulator} returned no outputs")
    for key, value in outputs.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise OutputError(f"{simulator}: output name {key!r} must be a Python identifier")
        if value is None:
            raise ValueError(f"{simulator}: output '{key}' is None")
    return outputs


def own_arrays(
    simulator: str, returned: Any, ragged: Iterable[str] = ()
) -> dict[str, NDArray[Any]]:
    """Return outputs as new arrays in this machine's byte order.

    A model may go on using what it returned, or return its parameters: nothing it does later
    changes these arrays.

    Raises: ValueError where outputs are missing in this simulation; OutputError naming the output,
    its dtype and what is valid where they are of a kind that cannot be kept.
    """
    outputs = {
        key: _own(simulator, key, value) for key, value in by_name(simulator, returned).items()
    }
    for key in ragged:
        if key not in outputs or outputs[key].ndim == 0:
            what = f"is declared ragged but is no array among the outputs {', '.join(outputs)}"
            raise OutputError(f"{simulator}: '{key}' {what}")
        if key + MASK in outputs:
            what = f"has the name that training gives to the mask of the ragged output '{key}'"
            raise OutputError(f"{simulator}: output '{key + MASK}' {what}; choose another")
    return outputs


def _own(simulator: str, key: str, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        what = "is a masked array, whose mask would be lost"
        advice = "return array.filled(numpy.nan), which counts as invalid, or another value"
        raise OutputError(f"{simulator}: output '{key}' {what}; {advice}")
    try:
        array = np.array(value)
    except ValueError as error:  # lists of unequal lengths
        raise OutputError(f"{simulator}: output '{key}' is no array: {error}") from error
    kind = array.dtype
    if kind.kind not in KINDS or kind.itemsize > MOST_BYTES:
        what = f"must hold real numbers ({VALID}), got dtype {kind}"
        raise OutputError(f"{simulator}: output '{key}' {what}")
    return array if kind.isnative else array.astype(kind.newbyteorder("="))


def shared(
    first: Mapping[str, Any], again: Mapping[str, Any], theta: NDArray[Any], before: NDArray[Any]
) -> list[str]:
    """Say what of a simulation's outputs, as the model returned them, is not its own.

    Arguments:
        first: outputs, looked at after another simulation has run.
        again: copies of them, made before.
        theta: the parameters that were given to the model, and `before`, a copy made earlier.
    """
    arrays = {key: value for key, value in first.items() if isinstance(value, np.ndarray)}
    names = list(arrays)
    found = [
        f"output '{key}' is a view of an array that the next simulation writes again"
        for key in names
        if not np.array_equal(arrays[key], again[key], equal_nan=arrays[key].dtype.kind == "f")
    ]
    found += [
        f"output '{key}' is a view of the parameters"
        for key in names
        if np.may_share_memory(arrays[key], theta)
    ]
    found += [
        f"outputs '{key}' and '{other}' are views of one array"
        for k, key in enumerate(names)
        for other in names[:k]
        if np.may_share_memory(arrays[key], arrays[other])
    ]
    if not np.array_equal(theta, before):
        found.append("the model changes its parameters")
    return [f"{one}; sbiflow copies it" for one in found]
