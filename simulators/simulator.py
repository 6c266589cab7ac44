"""The simulator protocol: a model with its prior, its name and, where known, its posterior."""

from __future__ import annotations

import hashlib
import inspect
import json
import marshal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from simulators.call import Call
from simulators.distribution import Array, Distribution
from simulators.prior import Prior, prior_from

Outputs = dict[str, NDArray[Any]]
Observation = Mapping[str, NDArray[Any]]
Reference = Callable[[Observation, int, Generator], Array]
LogLikelihood = Callable[[Array, Observation], Array]
PriorLike = Prior | Mapping[str, Distribution | Mapping[str, Any]]


class Simulator:
    """A model x ~ p(x | theta) with its prior p(theta).

    Args:
        model: called with one keyword per parameter, and `rng` if it takes one; a model that takes
            `theta` gets the whole vector, shape (D,) or (n, D), instead. Returns an array or a dict
            of arrays.
        prior: a prior, or what `prior_from` takes.
        name, version: part of the identity; change the version when the model changes its outputs.
        batched: the model takes arrays of shape (n,) and returns arrays of shape (n, ...).
        ragged: outputs whose first axis varies in length from simulation to simulation.
        references: name -> exact posterior draws, (x of one observation, n, rng) -> (n, D).
        log_likelihood: (theta (n, D), x of one observation) -> log p(x | theta), shape (n,).
        arguments: what the model was made with; JSON.
        address: where `load` finds the definition, "" where it cannot.

    Raises: ValueError naming both sides where the prior's names and the model's parameters differ.
    """

    owns_timeout = False
    recipe: Callable[..., Simulator] | None = None  # makes it anew with another prior or arguments

    def __init__(
        self,
        model: Callable[..., Any],
        prior: PriorLike,
        *,
        name: str,
        version: str = "1",
        batched: bool = False,
        ragged: Iterable[str] = (),
        references: Mapping[str, Reference] | None = None,
        log_likelihood: LogLikelihood | None = None,
        arguments: Mapping[str, Any] | None = None,
        address: str = "",
    ) -> None:
        self.name, self.version, self.batched = name, str(version), bool(batched)
        self.prior = prior_from(prior)
        self.ragged = frozenset(ragged)
        if self.ragged and self.batched:
            raise ValueError(f"{name}: a batched simulator cannot have ragged outputs")
        self.arguments = json_arguments(name, arguments or {})
        self.references: dict[str, Reference] = dict(references or {})
        self.address = address
        self._log_likelihood = log_likelihood
        self._call = Call(name, model, self.prior.names)

    def __repr__(self) -> str:
        return f"<simulator {self.name}, version {self.version}: {', '.join(self.prior.names)}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        if not self.address:  # a local definition: its parts, for picklers that take functions
            return super().__reduce__()
        return _restore, (self.address, self.name, self.prior.spec(), self.arguments)

    def __call__(self, *, seed: Any = None, **parameters: float) -> Outputs:
        """Run one simulation; a parameter left out takes the model's default.

        Args:
            seed: what `numpy.random.default_rng` takes.
            parameters: values by name.

        Raises: TypeError for an unknown or missing parameter.
        """
        return self.simulate(self._call.vector(parameters), np.random.default_rng(seed))

    def simulate(self, theta: Array, rng: Generator, timeout: float | None = None) -> Outputs:
        """Run one simulation at theta, shape (D,); `timeout` has an effect where `owns_timeout`."""
        theta = np.asarray(theta, dtype=float)
        if theta.shape != (len(self.prior.names),):
            what = f"theta must have shape ({len(self.prior.names)},), got {theta.shape}"
            raise ValueError(f"{self.name}: {what}")
        if self.batched:
            return {key: value[0] for key, value in self.simulate_block(theta[None], rng).items()}
        return self._outputs(self._call(theta, theta.tolist(), rng))

    def simulate_block(self, theta: Array, rng: Generator) -> Outputs:
        """Run a batched model at theta, shape (n, D); values have shape (n, ...)."""
        if not self.batched:
            raise TypeError(f"{self.name} is not batched; use simulate()")
        outputs = self._outputs(self._call(theta, theta.T, rng))
        for key, value in outputs.items():
            if value.ndim == 0 or len(value) != len(theta):
                what = f"must have shape ({len(theta)}, ...), got {value.shape}"
                raise ValueError(f"{self.name}: output '{key}' of a batched simulator {what}")
        return outputs

    def reference(
        self, x: Mapping[str, ArrayLike], n: int, rng: Generator, name: str | None = None
    ) -> Array:
        """Draw from the reference posterior p(theta | x) of one observation, shape (n, D).

        `name` chooses among `references`; None is the first. Raises ValueError where there is none.
        """
        if not self.references:
            raise ValueError(f"{self.name} has no reference posterior for its prior and arguments")
        chosen = next(iter(self.references)) if name is None else name
        if chosen not in self.references:
            valid = ", ".join(self.references)
            raise ValueError(f"{self.name} has no reference {chosen!r}; valid: {valid}")
        return self.references[chosen](_arrays(x), n, rng)

    def log_likelihood(self, theta: ArrayLike, x: Mapping[str, ArrayLike]) -> Array:
        """Return log p(x | theta) of one observation, shape (n,), for theta of shape (n, D).

        Raises ValueError where the simulator gives none.
        """
        if self._log_likelihood is None:
            raise ValueError(f"{self.name} gives no likelihood")
        return self._log_likelihood(np.asarray(theta, dtype=float), _arrays(x))

    def identity(self) -> dict[str, Any]:
        """Return what the data follow from, beside seed and id: JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "arguments": self.arguments,
            "prior": self.prior.spec(),
        }

    def source_digest(self) -> str:
        """Return the sha256 of the file that defines the model, or of its code without a file."""
        model = inspect.unwrap(getattr(self._call.model, "func", self._call.model))
        try:
            source = Path(inspect.getfile(model)).read_bytes()
        except (TypeError, OSError):
            source = marshal.dumps(getattr(model, "__code__", None))
        return hashlib.sha256(source).hexdigest()

    def _outputs(self, returned: Any) -> Outputs:
        if not isinstance(returned, Mapping):
            returned = {"x": returned}
        if not returned:
            raise ValueError(f"{self.name} returned no outputs")
        outputs = {}
        for key, value in returned.items():
            if not isinstance(key, str) or not key.isidentifier():
                raise TypeError(f"{self.name}: output name {key!r} must be a Python identifier")
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":
                what = f"must hold real numbers, got dtype {array.dtype}"
                raise TypeError(f"{self.name}: output '{key}' {what}")
            outputs[key] = array
        for key in self.ragged:
            if key not in outputs or outputs[key].ndim == 0:
                what = f"is declared ragged but is no array among the outputs {', '.join(outputs)}"
                raise ValueError(f"{self.name}: '{key}' {what}")
        return outputs


def json_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments in their JSON form; TypeError or ValueError names the one that has none."""
    converted = {}
    for key, value in arguments.items():
        try:
            converted[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            what = f"must be finite numbers, text, lists or mappings of them, got {value!r}"
            raise TypeError(f"{name}: argument '{key}' {what}") from None
    return converted


def _arrays(x: Mapping[str, ArrayLike]) -> Observation:
    return {key: np.asarray(value) for key, value in x.items()}


def _restore(
    address: str, name: str, prior: dict[str, Any], arguments: dict[str, Any]
) -> Simulator:
    from simulators.registry import load

    restored = load(address, prior=prior, **arguments)
    restored.name = name
    return restored
