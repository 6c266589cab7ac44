"""From a posterior to an answer: draws for the scientist's own observation, and whether they can be trusted."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from estimators import OutOfRangeWarning
from evaluation.scale import on_scale
from pipeline.answer.agreement import POOL, again, agreement, likelihood, members
from pipeline.answer.answer import Answer
from pipeline.answer.check import (
    OPEN,
    Check,
    Quantities,
    local_check,
    model_check,
    predictive,
)
from pipeline.answer.evidence import Evidence, evidence, hidden
from pipeline.answer.resimulate import Resimulated, default_number, resimulate
from pipeline.answer.sensitivity import by_budget, rests_on
from pipeline.answer.write import write
from pipeline.config import IMPORTED, Config, load, simulator_of
from pipeline.errors import UsageError
from pipeline.imported.stage import parameters
from pipeline.infer.observation import Observed
from pipeline.progress import log
from pipeline.results import Results, advising, latest_training
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.train.device import device

DRAWS = 10_000
PRIOR_DRAWS = 4000
SHOWN_PRIOR = 200  # training simulations that stand for the prior predictive
FOLDER = "answers"


@dataclass(frozen=True)
class Question:
    """What is asked of a posterior.

    Arguments:
        run: the run directory.
        draws: posterior draws for each observation.
        training: key of the training; None is the latest.
        sampling_steps: network passes of a draw; None is the estimator's default.
        simulations: at posterior draws, for the predictive check; None: 200 if that takes less than a minute.
        seed: of all draws.
        quantities: further test quantities of the predictive check, functions of one simulation's outputs.
        checks: whether the checks are done.
    """

    run: RunDirectory
    draws: int = DRAWS
    training: str | None = None
    sampling_steps: int | None = None
    simulations: int | None = None
    seed: int = 0
    quantities: Quantities = None  # type: ignore[assignment]
    checks: bool = True

    @cached_property
    def config(self) -> Config:
        """The configuration of the run."""
        return load(self.run)

    @cached_property
    def key(self) -> str:
        """Key of the training."""
        key = self.training or latest_training(self.run)
        if not self.run.training(key).is_dir():
            there = sorted(path.name for path in self.run.path.glob("trainings/*/"))
            raise UsageError(f"{self.run.path} has no training {key!r}; valid: {', '.join(there)}")
        return key

    @cached_property
    def posterior(self) -> Any:
        """The posterior of the training."""
        with advising(self.run, "train"):
            return Results(self.run, self.key).load(
                device("evaluate.device", self.config.evaluate.device)
            )

    @property
    def proposal(self) -> Any:
        """What importance weights begin with: a posterior with draws and a density."""
        return self.posterior

    @cached_property
    def simulator(self) -> Any:
        """The simulator of the run, with its prior."""
        return simulator_of(self.config)

    @cached_property
    def scales(self) -> tuple[str, ...]:
        """The scales of the parameters."""
        return tuple(self.simulator.prior.scales)

    @cached_property
    def evidence(self) -> Evidence:
        """Simulations that observations are compared with."""
        return evidence(self.config, self.run, self.simulator, self.posterior)

    @cached_property
    def prior(self) -> np.ndarray:
        """Prior draws (m, D); where it is not known, imported parameters stand for them."""
        rng = np.random.default_rng(self.seed)
        if self.config.simulator.name == IMPORTED and self.config.prior is None:
            return parameters(self.run, PRIOR_DRAWS, rng)
        return np.asarray(self.simulator.prior.sample(rng, PRIOR_DRAWS))

    @cached_property
    def predictions(self) -> int | str:
        """How many simulations are made at posterior draws, or why there are none."""
        if self.config.simulator.name == IMPORTED:
            return "The simulations of this run were imported: there is no simulator."
        if self.simulations is not None:
            return self.simulations or "Not asked for."
        try:
            return default_number(self.config, self.run)
        except UsageError as error:
            return f"{error}."


def infer(question: Question, observation: Any, out: Path | None, stop: Stop) -> list[Answer]:
    """Answer for one or several observations, and write draws, table, checks and a page for each.

    Arguments:
        question: what is asked.
        observation: outputs of one or of several observations by name, or one array.
        out: folder; for several observations it has one for each. None: in the run, named by the observation.
        stop: a request leaves; a repeat continues.

    Raises:
        UsageError: an observation, a training or a simulator that do not fit; nothing is written.
        Stopped: a stop was requested.
    """
    stop.check("infer")
    partial = question.posterior.has_conditionals
    observed = Observed.of(question.posterior.x_shapes, observation, partial)
    folder = out or question.run.path / FOLDER / digest(observed.outputs)[:12]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is no folder: name another one")
    answers = []
    for b in range(len(observed)):
        one = {name: values[b : b + 1] for name, values in observed.x.items()}
        found = _answer(question, observed.one(b), one, stop)
        if not observed.single:
            found = replace(found, number=b)
        answers.append(write(found, folder if observed.single else folder / str(b)))
    return answers


def _answer(
    question: Question, observed: dict[str, np.ndarray], x: dict[str, np.ndarray], stop: Stop
) -> Answer:
    """Return the answer for one observation; `x` is as the posterior takes it, each array (1, ...)."""
    seed, steps = question.seed, question.sampling_steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)  # a check says it
        try:
            drawn = question.posterior.sample(x, question.draws, sampling_steps=steps, seed=seed)
        except ValueError as error:
            raise UsageError(str(error)) from error
    draws = drawn.cpu().numpy()[0].astype(float)
    origin = {"training": question.key, "observation": digest(observed), "seed": seed}
    answer = Answer(
        names=tuple(question.posterior.names),
        scales=question.scales,
        observed=observed,
        draws=draws,
        prior=question.prior,
        kinds=tuple(question.simulator.prior.kinds),
        provenance={**origin, "draws": question.draws, "sampling_steps": steps,
                    "weights": Results(question.run, question.key).weights_digest()},
    )  # fmt: skip
    if not question.checks:
        return answer
    log("infer: checks the observation and the posterior ...")
    stop.check("infer")
    simulations = question.evidence.like(x)
    checks = [model_check(simulations, question.posterior, x)]
    predicted, predictive_, simulated = _predict(question, x, draws, origin, stop)
    checks.append(predictive_[0])
    scaled = on_scale(draws, question.scales)
    arguments = (simulations, question.posterior, x)
    checks.append(local_check(*arguments, scaled, question.scales, steps, seed))
    stop.check("infer")
    budgets = by_budget(question.run, question.key, x, question.scales, steps, seed)
    checks += _agreements(question, observed, x, draws, simulated, budgets)
    train = question.evidence.train.x
    return replace(
        answer,
        checks=tuple(checks),
        predicted=predicted,
        prior_predicted={name: train[name][:SHOWN_PRIOR] for name in predicted},
        predictive=predictive_[1],
        rests_on=rests_on(*arguments, question.scales, steps, seed),
        budgets=budgets,
        provenance=answer.provenance | {"simulated": simulated.counts if simulated else {}},
    )


def _predict(
    question: Question,
    x: dict[str, np.ndarray],
    draws: np.ndarray,
    origin: Mapping[str, Any],
    stop: Stop,
) -> tuple[dict[str, np.ndarray], tuple[Check, Any], Resimulated | None]:
    """Simulate at the first posterior draws and compare; return outputs, the check, and the simulations."""
    asked = question.predictions
    title = "Do simulations from the posterior look like the observation?"
    if isinstance(asked, str):
        return {}, (Check(title, OPEN, asked), None), None
    theta = draws[:asked]
    found = resimulate(question.config, question.run, question.simulator, theta, origin, stop)
    outputs = {name: _padded(values, x[name].shape[1:]) for name, values in found.x.items()}
    inputs = {name: x[name] for name in outputs}
    outputs = hidden(outputs, inputs)
    check, numbers = predictive(inputs, outputs, question.quantities or {})
    if bad := len(theta) - found.counts["ok"]:
        said = f"{check.sentence} {bad} of {len(theta)} simulations are not ok and left out."
        check = replace(check, sentence=said)
    return outputs, (check, numbers), found


def _agreements(
    question: Question,
    observed: dict[str, np.ndarray],
    x: dict[str, np.ndarray],
    draws: np.ndarray,
    simulated: Resimulated | None,
    budgets: list[dict[str, Any]],
) -> list[Check]:
    """Return the checks against the simulations, other estimators and the likelihood, those that apply."""
    checks: list[Check | None] = []
    prior, scales, seed = question.simulator.prior, question.scales, question.seed
    if simulated is not None and len(simulated.theta):
        inputs = hidden(Observed.of(question.posterior.x_shapes, simulated.x).x, x)
        pool = draws[len(draws) - POOL :] if len(draws) > 2 * POOL else draws[len(draws) // 2 :]
        checks.append(again(question.posterior, prior, simulated.theta, inputs, pool))
    used = next((one["budget"] for one in budgets if one["used"]), None)
    others = [
        (one["training"], np.array(one["mean"]), np.array(one["sd"]))
        for one in budgets
        if one["budget"] == used and not one["used"]
    ]
    others += members(question.posterior, x, scales, seed)
    checks.append(agreement(on_scale(draws, scales), others, question.posterior.names))
    steps = question.sampling_steps
    given = (question.simulator, question.proposal, observed, x, draws, steps, seed)
    checks.append(likelihood(*given))
    return [check for check in checks if check is not None]


def _padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring simulated outputs (n, ...) to the length that the posterior takes."""
    if values.shape[1:] == shape:
        return values
    result = np.zeros((len(values), *shape), values.dtype)
    length = min(values.shape[1], shape[0])
    result[:, :length] = values[:, :length]
    return result


def digest(observed: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of an observation."""
    total = hashlib.sha256()
    for name in sorted(observed):
        values = np.ascontiguousarray(observed[name], np.float64)
        total.update(f"{name} {values.shape} ".encode() + values.tobytes())
    return total.hexdigest()
