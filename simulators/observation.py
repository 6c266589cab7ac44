"""Observation noise that is drawn afresh: a dear latent part that is kept, and a cheap noise model.

    latent = simulate(theta; rng),    x = observe(latent; rng)

A simulator that declares `observe` returns latent outputs, and the store keeps these. Training observes them
anew in every epoch, so that it sees more noise than simulations; everything else observes each row once.
The noise of a row follows from its seed alone, whatever other rows are observed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulators.output import OutputError, own_arrays

Arrays = Mapping[str, NDArray[Any]]
Seeds = NDArray[np.uint64]
INCREMENT = 0xDA3E39CB94B95BDB  # odd; that of all streams, which differ in their state
GOLDEN = 0x9E3779B97F4A7C15


class RowGenerators:
    """Random generators of rows, one for each seed (n,): numbers of a row follow from its seed alone.

        for latent_row, rng in zip(latent["mean"], generators): ...
        noise = generators.standard_normal((n, 10))

    A generator that is taken from here serves until the next one is. Each of the functions begins
    where the one before has ended, as with numpy's own.
    """

    def __init__(self, seeds: Seeds) -> None:
        self.seeds = np.ascontiguousarray(seeds, np.uint64)
        self._states: list[Any] = [None] * len(self.seeds)

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[Generator]:
        bits = np.random.PCG64(0)
        generator = np.random.Generator(bits)
        for row, seed in enumerate(self.seeds.tolist()):
            bits.state = self._states[row] or _state(seed)
            yield generator
            self._states[row] = bits.state

    def standard_normal(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Return normal numbers of mean 0 and variance 1; the first axis of `size` is the rows."""
        return self._rows(size, lambda rng, row: rng.standard_normal(size[1:]))

    def random(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Return uniform numbers in [0, 1); the first axis of `size` is the rows."""
        return self._rows(size, lambda rng, row: rng.random(size[1:]))

    def poisson(self, lam: NDArray[Any]) -> NDArray[np.int64]:
        """Return Poisson counts of the means `lam`, shape (n, ...)."""
        lam = np.asarray(lam)
        return self._rows(lam.shape, lambda rng, row: rng.poisson(lam[row]), np.int64)

    def _rows(
        self, size: tuple[int, ...], draw: Callable[[Generator, int], Any], dtype: Any = np.float64
    ) -> NDArray[Any]:
        if not size or size[0] != len(self):
            raise ValueError(f"there are generators for {len(self)} rows, asked for shape {size}")
        values = np.empty(size, dtype)
        for row, rng in enumerate(self):
            values[row] = draw(rng, row)
        return values


def _state(seed: int) -> Any:
    """Return the state of a generator; to set it takes a tenth of the time of a new generator."""
    state = (seed << 64) | (seed * GOLDEN & (1 << 64) - 1)
    return {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": INCREMENT},
        "has_uint32": 0,
        "uinteger": 0,
    }


class Observe:
    """The noise model of a simulator, or an augmentation of its outputs.

    Arguments:
        name: whose it is, for messages.
        function: `observe(latent, rng)`: from outputs by name and a random generator to outputs. With
            `batched` each output has shape (n, ...), and `rng` is a `RowGenerators`.
        batched: whether the function takes many rows at once.
    """

    def __init__(self, name: str, function: Callable[..., Any], batched: bool) -> None:
        if not callable(function):
            raise TypeError(f"{name}: observe must be a function (latent, rng), got {function!r}")
        self.name, self.function, self.batched = name, function, batched

    def __call__(self, latent: Arrays, seeds: Seeds) -> dict[str, NDArray[Any]]:
        """Return the outputs (n, ...) of latent outputs (n, ...) under noise of the seeds (n,).

        Raises:
            OutputError: outputs of a kind that cannot be used, or that are not finite.
        """
        if self.batched:
            outputs = own_arrays(self.name, self.function(dict(latent), RowGenerators(seeds)))
        else:
            rows = [
                own_arrays(self.name, self.function({k: v[i] for k, v in latent.items()}, rng))
                for i, rng in enumerate(RowGenerators(seeds))
            ]
            outputs = {key: self._stacked(key, [row.get(key) for row in rows]) for key in rows[0]}
        for key, values in outputs.items():
            if values.ndim == 0 or len(values) != len(seeds):
                what = f"must have shape ({len(seeds)}, ...), got {values.shape}"
                raise OutputError(f"{self.name}: observed output '{key}' {what}")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise OutputError(f"{self.name}: observed output '{key}' holds NaN or infinity")
        return outputs

    def _stacked(self, key: str, values: list[Any]) -> NDArray[Any]:
        shapes = {None if value is None else value.shape for value in values}
        if len(shapes) > 1:
            what = f"has other shapes in other rows: {', '.join(map(str, shapes))}"
            raise OutputError(f"{self.name}: observed output '{key}' {what}")
        return np.stack(values)
