"""The contract of a simulator as laws that authors run in their own tests.

    from simulators.testing import LAWS, check_simulator

    def test_my_simulator():
        check_simulator(simulators.load("my_package.my_module:my_model"))

or law by law: `@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)`. A broken law
raises AssertionError saying what was expected and what was found.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from simulators.distribution import Array
from simulators.prior_spec import follows_from_spec, prior_from
from simulators.simulator import Outputs, Simulator


@dataclass(frozen=True)
class Case:
    """What the laws are tried on.

    Arguments:
        simulator: the simulator under test.
        n: simulations per law.
        seed: of all draws.
        deterministic: the model has no noise, equal theta give equal outputs.
        timeout: seconds for one simulation, where the simulator enforces it itself.
    """

    simulator: Simulator
    n: int = 8
    seed: int = 0
    deterministic: bool = False
    timeout: float | None = None

    def rng(self, stream: int = 0) -> Generator:
        return np.random.default_rng([self.seed, stream])

    def theta(self, n: int | None = None) -> Array:
        return self.simulator.prior.sample(self.rng(), self.n if n is None else n)

    def run(self, theta: Array, stream: int = 1) -> Outputs:
        """Simulate at theta of shape (D,), and observe, with the noise of a stream; a copy of the outputs."""
        rng = self.rng(stream)
        outputs = self.simulator.simulate(theta, rng, timeout=self.timeout)
        if self.simulator.observe is not None:
            latent = {key: value[None] for key, value in outputs.items()}
            observed = self.simulator.observed(latent, rng.integers(2**64, size=1, dtype=np.uint64))
            outputs = {key: value[0] for key, value in observed.items()}
        return {key: value.copy() for key, value in outputs.items()}


def identity_is_json(case: Case) -> None:
    """The identity survives JSON, and the name is not empty."""
    identity = case.simulator.identity()
    text = json.dumps(identity, allow_nan=False)
    assert json.loads(text) == identity, f"the identity changes in JSON: {identity}"
    assert identity["name"], "the name is empty"


def prior_draws_are_in_bounds(case: Case) -> None:
    """Draws have shape (n, D), lie within the bounds and have a finite density, if there is one."""
    prior = case.simulator.prior
    theta = prior.sample(case.rng(), 100)
    shape = (100, len(prior.names))
    assert theta.shape == shape, f"prior draws have shape {theta.shape}, not {shape}"
    assert theta.dtype == np.float64, f"prior draws have dtype {theta.dtype}, not float64"
    outside = np.any((theta < prior.low) | (theta > prior.high), axis=0)
    assert not outside.any(), f"prior draws outside the bounds: {np.array(prior.names)[outside]}"
    if not prior.has_density:
        return
    density = prior.log_prob(theta)
    assert density.shape == (100,), f"log_prob has shape {density.shape}, not (100,)"
    assert np.all(np.isfinite(density)), "log_prob is not finite at draws from the prior"


def prior_follows_from_its_spec(case: Case) -> None:
    """The prior of another process, made from `prior.spec()` or with its file, draws the same."""
    prior = case.simulator.prior
    if follows_from_spec(prior):
        again = prior_from(json.loads(json.dumps(prior.spec(), allow_nan=False)))
    else:
        again = pickle.loads(pickle.dumps(case.simulator)).prior
    assert again.names == prior.names, f"names {again.names} after spec(), not {prior.names}"
    same = np.array_equal(again.sample(case.rng(), 10), prior.sample(case.rng(), 10))
    assert same, "the prior made from spec() draws other values"


def outputs_have_one_form(case: Case) -> None:
    """Every simulation has the same outputs, dtypes and shapes, but for ragged first axes."""
    ragged = case.simulator.ragged

    def form(outputs: Outputs) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {k: (str(v.dtype), v.shape[k in ragged :]) for k, v in outputs.items()}

    forms = [form(case.run(theta, stream)) for stream, theta in enumerate(case.theta(), 1)]
    for other in forms[1:]:
        assert other == forms[0], f"outputs change their form: {forms[0]} and {other}"


def outputs_are_finite(case: Case) -> None:
    """No output at a draw from the prior is NaN or infinite."""
    for stream, theta in enumerate(case.theta(), 1):
        for key, value in case.run(theta, stream).items():
            assert np.all(np.isfinite(value)), f"output '{key}' is not finite at theta={theta}"


def equal_seeds_give_equal_outputs(case: Case) -> None:
    """Outputs follow from theta and `rng` alone, not from global generators or earlier runs."""
    theta = case.theta(1)[0]
    first = case.run(theta)
    case.run(case.theta(2)[1], stream=2)
    with _other_global_seeds():
        again = case.run(theta)
    _assert_equal(first, again, "equal theta and seed give other outputs; draw noise from `rng`")


def other_seeds_give_other_outputs(case: Case) -> None:
    """Noise comes from `rng`: other streams give other outputs (equal ones if deterministic)."""
    theta = case.theta(1)[0]
    runs = [case.run(theta, stream) for stream in range(1, 5)]
    equal = all(_equal(runs[0], run) for run in runs[1:])
    if case.deterministic:
        assert equal, "declared deterministic, but other seeds give other outputs"
    else:
        assert equal is False, "other seeds give equal outputs: is a seed fixed in the model?"


def arrays_are_not_shared(case: Case) -> None:
    """A simulation neither changes theta nor the outputs of an earlier one, nor returns theta itself."""
    shared = case.simulator.shared_arrays(case.theta(2), case.rng(1))
    assert not shared, "; ".join(shared)


def blocks_have_rows(case: Case) -> None:
    """A batched simulator returns one row per theta, for one theta and for many, reproducibly."""
    if not case.simulator.batched:
        return
    for n in (1, case.n):
        theta = case.theta(n)
        block = case.simulator.simulate_block(theta, case.rng(1))
        for key, value in block.items():
            assert len(value) == n, f"output '{key}' has {len(value)} rows for {n} theta"
        again = case.simulator.simulate_block(theta, case.rng(1))
        _assert_equal(block, again, "equal theta and seed give another block")


def rows_are_observed_alone(case: Case) -> None:
    """Where there is a noise model, the noise of a row follows from its seed, whatever other rows there are."""
    if case.simulator.observe is None:
        return
    rows = [case.simulator.simulate(theta, case.rng(1)) for theta in case.theta()]
    latent = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    seeds = case.rng(2).integers(2**64, size=case.n, dtype=np.uint64)
    together = case.simulator.observed(latent, seeds)
    for i in range(case.n):
        one = {key: value[i : i + 1] for key, value in latent.items()}
        alone = case.simulator.observed(one, seeds[i : i + 1])
        part = {key: value[i : i + 1] for key, value in together.items()}
        _assert_equal(part, alone, "observe gives a row other noise beside other rows")


def pickling_keeps_it(case: Case) -> None:
    """The simulator goes to another process: after pickling it is the same."""
    again = pickle.loads(pickle.dumps(case.simulator))
    assert again.identity() == case.simulator.identity(), "pickling changes the identity"
    theta = case.theta(1)[0]
    other = replace(case, simulator=again).run(theta)
    _assert_equal(case.run(theta), other, "pickling changes the outputs")


def references_are_draws(case: Case) -> None:
    """Every reference returns finite draws of shape (n, D), which follow from the seed."""
    x = case.run(case.theta(1)[0])
    shape = (case.n, len(case.simulator.prior.names))
    for name in case.simulator.references:
        draws = case.simulator.reference(x, case.n, case.rng(2), name)
        assert draws.shape == shape, f"reference '{name}' has shape {draws.shape}, not {shape}"
        assert np.all(np.isfinite(draws)), f"reference '{name}' has draws that are not finite"
        again = case.simulator.reference(x, case.n, case.rng(2), name)
        assert np.array_equal(draws, again), f"reference '{name}' does not follow from its seed"


Law = Callable[[Case], None]
LAWS: tuple[Law, ...] = (
    identity_is_json,
    prior_draws_are_in_bounds,
    prior_follows_from_its_spec,
    outputs_have_one_form,
    outputs_are_finite,
    equal_seeds_give_equal_outputs,
    other_seeds_give_other_outputs,
    arrays_are_not_shared,
    blocks_have_rows,
    rows_are_observed_alone,
    pickling_keeps_it,
    references_are_draws,
)


def check_simulator(
    simulator: Simulator,
    *,
    n: int = 8,
    seed: int = 0,
    deterministic: bool = False,
    timeout: float | None = None,
) -> None:
    """Try every law on a simulator; the arguments are those of `Case`.

    Raises AssertionError naming the first law that does not hold.
    """
    case = Case(simulator, n=n, seed=seed, deterministic=deterministic, timeout=timeout)
    for law in LAWS:
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f"{simulator.name} breaks {law.__name__}: {error}") from error


class _other_global_seeds:  # noqa: N801
    """Give the global generators another state for a while, so that a use of them shows."""

    def __enter__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        random.seed(1)
        np.random.seed(1)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)


def _equal(first: Outputs, second: Outputs) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key], equal_nan=True) for key in first
    )


def _assert_equal(first: Outputs, second: Outputs, otherwise: str) -> None:
    assert _equal(first, second), otherwise
