"""The simulator protocol: a model with its prior, its name and, where known, its posterior."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from simulators.call import Call
from simulators.distribution import Array, Distribution
from simulators.observation import Observe, Seeds
from simulators.output import OutputError, by_name, own_arrays, shared
from simulators.prior import Prior
from simulators.prior_spec import follows_from_spec, prior_from
from simulators.source import Source, folder_of, source_of

Outputs = dict[str, NDArray[Any]]
Observation = Mapping[str, NDArray[Any]]
Reference = Callable[[Observation, int, Generator], Array]
LogLikelihood = Callable[[Array, Observation], Array]
SHOWN = 20  # names of parameters
PriorLike = Prior | Mapping[str, Distribution | Mapping[str, Any]]


class Simulator:
    """A model x ~ p(x | theta) with its prior p(theta).

    Arguments:
        model: called with one keyword per parameter, and `rng` if it takes one; a model that takes
            `theta` gets the whole vector, shape (D,) or (n, D), instead. Returns an array or a dict
            of arrays.
        prior: a prior, or what `prior_from` takes.
        name, version: part of the identity; change the version when the model changes its outputs.
        batched: the model takes arrays of shape (n,) and returns arrays of shape (n, ...).
        ragged: outputs whose first axis varies in length from simulation to simulation.
        references: name -> exact posterior draws, (x of one observation, n, rng) -> (n, D).
        log_likelihood: (theta (n, D), x of one observation) -> log p(x | theta), shape (n,).
        observe: the noise model, (latent outputs, rng) -> outputs, where the model gives latent ones;
            of a batched simulator both have a first axis of rows. See `simulators.observation`.
        arguments: what the model was made with; JSON.
        address: where `load` finds the definition, "" where it cannot.
        files: data files that the model reads, relative to its own file. They are part of its source, so that a
            changed one is noticed.

    Raises: ValueError naming both sides where the prior's names and the model's parameters differ, or a lost file.
    """

    owns_timeout = False
    factory: Callable[..., Simulator] | None = None  # makes it anew with another prior or arguments

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
        observe: Callable[..., Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        address: str = "",
        files: Iterable[str] = (),
    ) -> None:
        self.name, self.version, self.batched = name, str(version), bool(batched)
        self.prior = prior_from(prior)
        self.ragged = frozenset(ragged)
        if self.ragged and self.batched:
            raise ValueError(f"{name}: a batched simulator cannot have ragged outputs")
        self.observe = None if observe is None else Observe(name, observe, self.batched)
        if self.ragged and self.observe:
            raise ValueError(f"{name}: a simulator with observe cannot have ragged outputs")
        self.arguments = json_arguments(name, arguments or {})
        self.references: dict[str, Reference] = dict(references or {})
        self.address = address
        self._log_likelihood = log_likelihood
        self.defined_by: Source | None = None  # known where it was defined, if that is no file
        self._call = Call(name, model, self.prior.names)
        self.files = _data_files(name, model, files)

    def __repr__(self) -> str:
        names = self.prior.names
        shown = ", ".join(names if len(names) <= SHOWN else (*names[:SHOWN], "..."))
        return f"<simulator {self.name}, version {self.version}: {shown}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        if not self.address:  # a local definition: its parts, for picklers that take functions
            return super().__reduce__()
        own = not follows_from_spec(self.prior)
        return _restore, (self.address, self.name, self.prior.spec(), self.arguments, own)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of theta as an array, of product D: (D,), or that of an image."""
        return self.prior.shape

    def __call__(self, *, seed: Any = None, **parameters: Any) -> Outputs:
        """Run one simulation, observed; a parameter left out takes the model's default.

        Arguments:
            seed: what `numpy.random.default_rng` takes.
            parameters: values by name; of a model that takes `theta` also that, in its shape or flat.

        Raises: TypeError for an unknown or missing parameter.
        """
        rng = np.random.default_rng(seed)
        if self._call.whole and set(parameters) == {"theta"}:
            theta = np.asarray(parameters["theta"], dtype=float).reshape(-1)
        else:
            theta = self._call.vector(parameters)
        outputs = self.simulate(theta, rng)
        seeds = rng.integers(2**64, size=1, dtype=np.uint64)
        one = self.observed({key: value[None] for key, value in outputs.items()}, seeds)
        return {key: value[0] for key, value in one.items()}

    def observed(self, latent: Observation, seeds: Seeds) -> Outputs:
        """Return outputs (n, ...) of latent ones (n, ...), with noise of the seeds (n,) if there is `observe`."""
        return dict(latent) if self.observe is None else self.observe(latent, seeds)

    def simulate(self, theta: Array, rng: Generator, timeout: float | None = None) -> Outputs:
        """Run one simulation at theta, shape (D,); `timeout` has an effect where `owns_timeout`."""
        theta = np.array(theta, dtype=float)  # the model may change its own
        if theta.shape != (len(self.prior.names),):
            what = f"theta must have shape ({len(self.prior.names)},), got {theta.shape}"
            raise ValueError(f"{self.name}: {what}")
        if self.batched:
            return {key: value[0] for key, value in self.simulate_block(theta[None], rng).items()}
        return self._outputs(self._returned(theta, rng))

    def simulate_block(self, theta: Array, rng: Generator) -> Outputs:
        """Run a batched model at theta, shape (n, D); values have shape (n, ...)."""
        if not self.batched:
            raise TypeError(f"{self.name} is not batched; use simulate()")
        outputs = self._outputs(self._returned(np.array(theta, dtype=float), rng))
        for key, value in outputs.items():
            if value.ndim == 0 or len(value) != len(theta):
                what = f"must have shape ({len(theta)}, ...), got {value.shape}"
                raise OutputError(f"{self.name}: output '{key}' of a batched simulator {what}")
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

    @property
    def has_log_likelihood(self) -> bool:
        """Whether there is a `log_likelihood`."""
        return self._log_likelihood is not None

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
            "prior": self.prior.identity(),
        }

    def source(self) -> Source:
        """Return what defines the model: provenance, not identity."""
        files = getattr(self, "files", ())  # one that was pickled before there were any
        return self.defined_by or source_of(self._call.model, self.version, files)

    def without_address(self) -> Simulator:
        """Return this simulator as one that is sent by value, with its source; see `simulators.cell`."""
        from simulators.cell import source_of_cell

        local = object.__new__(type(self))  # `copy` would load it from its address
        local.__dict__.update(self.__dict__)
        local.address, local.defined_by = "", self.defined_by or source_of_cell(self._call.model)
        return local

    @property
    def is_local(self) -> bool:
        """Whether no other process can import it by name: it is defined in a notebook or a script."""
        from simulators.cell import is_local

        return self.defined_by is not None or is_local(self._call.model)

    def source_digest(self) -> str:
        """Return the sha256 of the source, in which comments, docstrings and layout do not count."""
        return self.source().digest

    def _outputs(self, returned: Any) -> Outputs:
        if isinstance(returned, dict) and not returned and not self.prior.has_density:
            return {}  # the rows of the data set are all there is to learn
        return own_arrays(self.name, returned, self.ragged)

    def shared_arrays(self, theta: Array, rng: Generator) -> list[str]:
        """Say which arrays simulations at theta, shape (2, D), share with each other or with theta.

        It does no harm, since outputs and theta are copied, but may show a mistake.
        """
        block = len(theta) // 2 if self.batched else 1
        first = np.array(theta[:block], dtype=float)
        given = first if self.batched else first[0]
        before = given.copy()
        returned = by_name(self.name, self._returned(given, rng))
        kept = {key: np.array(value) for key, value in returned.items()}
        self._returned(np.array(theta[block:] if self.batched else theta[1], dtype=float), rng)
        return shared(returned, kept, given, before)

    @cached_property
    def _whole(self) -> list[int]:
        """The columns of parameters that are whole numbers or categories."""
        return [j for j, kind in enumerate(self.prior.kinds) if kind != "continuous"]

    def _returned(self, theta: Array, rng: Generator) -> Any:
        """Call the model; what it returns is not copied, and it may change theta."""
        columns: list[Any] = list(theta.T) if self.batched else theta.tolist()
        for j in self._whole:
            columns[j] = columns[j].astype(np.int64) if self.batched else int(columns[j])
        return self._call(theta, columns, rng)


def _data_files(name: str, model: Callable[..., Any], files: Iterable[str]) -> tuple[str, ...]:
    """Return the names of data files, checked to be there."""
    given = (files,) if isinstance(files, str) else tuple(files)
    folder = folder_of(model) if given else None
    if given and folder is None:
        raise ValueError(
            f"{name}: files={list(given)}: a model that is in no file has none beside it"
        )
    for file in given:
        if not (folder and (folder / file).is_file()):
            raise ValueError(f"{name}: the data file '{file}' is not in {folder}")
    return given


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
    address: str, name: str, prior: dict[str, Any], arguments: dict[str, Any], own: bool = False
) -> Simulator:
    """Load a simulator in another process; a prior of a class of its `own` comes with its definition."""
    from simulators.registry import load

    restored = load(address, prior=None if own else prior, **arguments)
    if own and restored.prior.spec() != prior:
        raise ValueError(
            f"{name}: a prior of a class of your own must be the simulator's, given to @simulator(prior=...); "
            f"there it is {restored.prior}, not {prior}"
        )
    restored.name = name
    return restored
