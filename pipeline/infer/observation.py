"""Observations: read from files of several kinds, and brought into the form that a posterior takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estimators.observation import absent_outputs, batched
from estimators.outputs import MASK
from pipeline.errors import UsageError
from pipeline.imported.arrays import read_arrays, reading, require_numbers

MOST_NAMED = 5  # elements in a message

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Observed:
    """B observations.

    Attributes:
        outputs: as the simulator gives them, each (B, ...).
        x: as the posterior takes them: outputs of varying length padded, with their masks.
        single: whether one was given without an axis B.
    """

    outputs: dict[str, np.ndarray]
    x: dict[str, np.ndarray]
    single: bool

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    @classmethod
    def of(cls, shapes: Shapes, observation: Any, partial: bool = False) -> Observed:
        """Bring an observation into form.

        Arguments:
            shapes: the arrays that the posterior takes: name -> shape.
            observation: arrays by name, with the key "" or as one array where there is one output.
            partial: whether the posterior takes observations of which some elements are absent: NaN, or outputs
                that are left out.

        Raises:
            UsageError: other names or shapes, values that are no finite numbers, or no observation at all.
        """
        if not shapes:
            raise UsageError(
                "this posterior has no observation: it is a prior, see `sbiflow invert`"
            )
        given = observation if isinstance(observation, Mapping) else {"": observation}
        require_numbers("the observation", given)
        given = {name: np.asarray(values) for name, values in given.items()}
        outputs = [name for name in shapes if name.removesuffix(MASK) == name]
        if set(given) == {""} and len(outputs) == 1:
            given = {outputs[0]: _shaped(given[""], shapes[outputs[0]])}
        try:
            if partial:
                given |= absent_outputs(shapes, given)
            x, single = batched(shapes, given)
        except ValueError as error:
            raise UsageError(f"the observation does not fit: {error}") from None
        _require_values({name: x[name] for name in outputs}, partial)
        if not len(x[outputs[0]]):
            raise UsageError(
                "the observation's arrays hold no observation: their first axis is 0 long"
            )
        several = {
            name: np.asarray(given[name])[None] if single else np.asarray(given[name])
            for name in outputs
        }
        return cls(several, x, single)

    def one(self, b: int) -> dict[str, np.ndarray]:
        """Return the outputs of an observation, each of its own shape."""
        return {name: values[b] for name, values in self.outputs.items()}


def _require_values(outputs: dict[str, np.ndarray], partial: bool) -> None:
    """Refuse outputs (B, ...) with infinity, with NaN if that is not allowed, or without any value."""
    bad = {name: ~np.isfinite(values) for name, values in outputs.items()}
    if partial:
        bad = {name: np.isinf(values) for name, values in outputs.items()}
        absent = [np.isnan(values).reshape(len(values), -1).all(1) for values in outputs.values()]
        if np.all(absent, axis=0).any():
            raise UsageError("the observation holds NaN alone: give at least one value")
    if broken := [_broken(name, values) for name, values in bad.items() if values.any()]:
        kinds = "infinity" if partial else "NaN or infinity"
        raise UsageError(
            f"the observation holds {kinds} in {', '.join(broken)}: this posterior has learned from complete "
            "outputs alone. NaN is an absent value for posteriors of the estimators `joint` and "
            "`joint_distilled`; for others where the simulator leaves values out itself, with a mask among its "
            "outputs"
        )


def _broken(name: str, values: np.ndarray) -> str:
    """Return which elements of an output (B, ...) are marked, for people."""
    places = np.argwhere(values)
    shown = [f"[{', '.join(map(str, place[1:]))}]" for place in places[:MOST_NAMED]]
    if values.ndim == 1 or len(places) == values.size:
        return repr(name)
    more = ", ..." if len(places) > MOST_NAMED else ""
    return f"{name!r} ({len(places)} of {values.size} values: {', '.join(shown)}{more})"


def _shaped(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the numbers of a table in the shape of an output: a table has two axes, whatever it holds."""
    if values.ndim == 2 and values.shape != tuple(shape):
        size = int(np.prod(shape))
        if values.size == size and 1 in values.shape:
            return values.reshape(shape)
        if values.shape[1] == size:
            return values.reshape(len(values), *shape)
    return values


def read_observation(path: Path) -> dict[str, np.ndarray]:
    """Read an observation: arrays by name, with the key "" for one that has none.

    Kinds of files: .npz and .npy of numpy, .csv (a head names outputs), .json (a mapping, or one list), .nc.

    Raises:
        UsageError: another kind of file, one that cannot be read, or what is no number.
    """
    if path.suffix not in READERS:
        raise UsageError(f"{path}: valid are files that end in {', '.join(READERS)}")
    with reading(path):
        observation = READERS[path.suffix](path)
    require_numbers(path, observation)
    if not observation:
        raise UsageError(f"{path} holds no array")
    return observation


def _read_numpy(path: Path) -> dict[str, np.ndarray]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"": loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    """Read a table: with a head one output for each column, else all numbers as one array."""
    table = read_arrays(path)
    rows = table.arrays[""]
    if not table.columns:
        return {"": rows}
    if len(table.columns) == 1:
        return {table.columns[0]: rows[:, 0] if len(rows) > 1 else rows[0, 0]}
    return {
        name: rows[:, column] if len(rows) > 1 else rows[0, column]
        for column, name in enumerate(table.columns)
    }


def _read_json(path: Path) -> dict[str, np.ndarray]:
    values = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(values, list):
        values = {"": values}
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}; valid are a mapping or a list")
    return {name: np.array(_numbers(one)) for name, one in values.items()}


def _numbers(value: Any) -> Any:
    """Return nested lists with NaN in the place of null."""
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float("nan") if value is None else value


def _read_netcdf(path: Path) -> dict[str, np.ndarray]:
    """Read the variables of a file, or those of its group `observed_data`, as ArviZ writes them."""
    import xarray

    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        node = tree["observed_data"] if "observed_data" in tree.children else tree
        return {str(name): values.to_numpy() for name, values in node.data_vars.items()}


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": _read_numpy,
    ".npy": _read_numpy,
    ".csv": _read_csv,
    ".json": _read_json,
    ".nc": _read_netcdf,
}
