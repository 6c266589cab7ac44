"""A run: one object for one run directory, from the simulator to the answer.

Every method is a stage of the command line; what is done already is found and not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simulators
from pipeline import config as configuration
from pipeline import stages
from pipeline.config import Config, flat
from pipeline.config import defined as by_value
from pipeline.errors import UsageError
from pipeline.run import STREAMS, RunDirectory
from pipeline.stop import Stop, stop_on_signals
from sbiflow.result import Result

if TYPE_CHECKING:
    from xarray import Dataset

    from estimators import Posterior
    from pipeline.answer.answer import Answer
    from simulators import Simulator
    from simulators.simulator import PriorLike

SimulatorLike = Any  # a simulator, a factory of one, a function with a prior, or a name


class Run:
    """One run directory: simulations, trainings, answers.

        run = Run("runs/mine", simulator=my_model, budget=2000)
        run = Run("runs/mine")                                  # one that exists
        run = Run("runs/mine", config="my_model.yaml")

    Arguments:
        path: the run directory; made by the first stage.
        simulator: what `@simulator` makes, also in a notebook's cell; a function, with a prior; or a name as in a
            configuration.
        prior: replaces the simulator's own.
        config: a configuration file, or its values as a mapping.
        settings: keys of the configuration, such as `budget=2000`, `estimator="nsf"` or `train={"steps": 500}`.

    Raises:
        UsageError: an unknown key or a wrong value; a path that is no run, where no simulator is given; or a
            simulator that is not the one that made the simulations of the run: the message shows the difference.
    """

    def __init__(
        self,
        path: str | Path,
        simulator: SimulatorLike = None,
        *,
        prior: PriorLike | None = None,
        config: str | Path | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._directory = RunDirectory(Path(path))
        self._local: Simulator | None = None
        source, words = self._source(simulator, prior, config), _words(settings)
        if source is None and configuration.kept(self._directory) is None:
            raise UsageError(
                f"{path} is no run yet: give a simulator, or a configuration by config=..."
            )
        self._check_source(bool(settings.get("simulate", {}).get("accept_source")))
        self._config = stages.configure(self._directory, source, words)

    def _source(
        self,
        simulator: SimulatorLike,
        prior: PriorLike | None,
        config: str | Path | Mapping[str, Any] | None,
    ) -> Path | dict[str, Any] | None:
        """Return where the configuration comes from, None for that of the run."""
        known = configuration.kept(self._directory)
        if isinstance(config, (str, Path)):
            if simulator is not None:
                raise UsageError("give either a simulator or a configuration file, which names one")
            return Path(config)
        if simulator is None and config is None:
            return None
        values = {"name": self._directory.path.name, **(known or {}), **(config or {})}
        if simulator is not None:
            values |= self._simulator_values(simulator, prior)
        return values

    def _simulator_values(self, given: SimulatorLike, prior: PriorLike | None) -> dict[str, Any]:
        if isinstance(given, str):
            spec = simulators.prior_from(prior).spec() if prior is not None else None
            return {"simulator": given} | ({"prior": spec} if spec else {})
        made = _made(given, prior)
        if not made.is_local and made.address:
            values: dict[str, Any] = {
                "simulator": {"name": _name(made.address), "arguments": made.arguments}
            }
            return values | ({"prior": made.prior.spec()} if prior is not None else {})
        self._local = made.without_address()
        return {"simulator": by_value.define(self._local)}

    def _check_source(self, accept: bool) -> None:
        """Refuse a cell that is another than the one that made the simulations."""
        from pipeline.simulate import sources

        if self._local is not None:
            for stream in STREAMS:
                sources.check(self._directory.store(stream), self._local, accept)

    # --- what it is --------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._directory.path

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._config

    @property
    def simulator(self) -> Simulator:
        """The simulator, with its prior; calling it simulates once."""
        self._define()
        found: Simulator = configuration.simulator_of(self._config)
        return found

    def __repr__(self) -> str:
        from pipeline import show

        head = f"Run {self.path}: {self._config.simulator.name}, {self._config.estimator.name}"
        return f"{head}\n{show.status(show.status_values(self._config, self._directory))}"

    # --- stages ------------------------------------------------------------------------------

    def simulate(self, *, retry: str | None = None, **settings: Any) -> Result:
        """Bring the simulations up to the budget, a total.

        Arguments:
            retry: also rerun rows that are failed, timeout, invalid, or all of these.
            settings: changes of the configuration, such as `budget=4000`.

        Raises:
            UsageError, TooManyFailed, PipelineError: see `pipeline.stages.simulate`.
            Stopped: interrupted; what is finished is kept, and a repeat continues.
        """
        from pipeline import show

        with self._stage(settings) as stop:
            stages.simulate(self._config, self._directory, stop, retry)
        values = show.status_values(self._config, self._directory)
        return Result(values, show.status(values))

    def train(self, **settings: Any) -> Result:
        """Train the estimator on the budget, or continue, or find it done."""
        from pipeline import show

        with self._stage(settings) as stop:
            result = stages.train(self._config, self._directory, stop)
        return Result(show.plain(result), show.training(result))

    def evaluate(self, **settings: Any) -> Result:
        """Measure the latest posterior on the test simulations."""
        from pipeline import show

        with self._stage(settings) as stop:
            result = stages.evaluate(self._config, self._directory, stop)
        return Result(result, show.metrics(result))

    def grow(self, budget: int | None = None, **settings: Any) -> Result:
        """Enlarge the budget, a total: simulate what is missing and train on all of it."""
        self.simulate(**(settings if budget is None else settings | {"budget": budget}))
        return self.train()

    def report(self) -> Path:
        """Write the report of the run, one HTML page, and bring MLflow up to date; return where the page is."""
        with self._stage({}) as stop:
            stages.publish(self._config, self._directory, stop)
        return self._directory.report

    # --- answers -----------------------------------------------------------------------------

    def trainings(self) -> list[str]:
        """Return the keys of the finished trainings."""
        from pipeline.results import DONE

        return sorted(mark.parent.name for mark in self.path.glob(f"trainings/*/{DONE}"))

    def posterior(self, training: str | None = None, device: str = "cpu") -> Posterior:
        """Return the posterior of a training; None is the latest."""
        from pipeline.results import Results, advising, latest_training

        with advising(self._directory, "train"):
            return Results(self._directory, training or latest_training(self._directory)).load(
                device
            )

    def draws(self, training: str | None = None) -> Dataset:
        """Return the draws of an evaluation as `xarray.Dataset`; large ones are read where they are asked for.

        Arguments:
            training: key of the training; None is the latest.

        Raises:
            UsageError: it is not evaluated yet.
            DamagedError: a file, or later a chunk that is read, is damaged.

        Returns:
            `theta` (test, parameter) and `draws_STEPS` (test, draw, parameter), in natural units.
        """
        from pipeline.evaluate.draws import view
        from pipeline.results import Results, latest_training

        return view(Results(self._directory, training or latest_training(self._directory)))

    def infer(
        self,
        x: Any,
        draws: int = 10_000,
        *,
        training: str | None = None,
        sampling_steps: int | None = None,
        simulations: int | None = None,
        quantities: Mapping[str, Callable[[dict[str, Any]], float]] | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        checks: bool = True,
    ) -> Answer | list[Answer]:
        """Answer for an observation: draws, table, checks and a page; of several, a list.

        Arguments:
            x: outputs by name as the simulator returns them, one array where there is one output, or a file: .npz,
                .npy, .csv, .json or .nc. A first axis more holds several observations.
            draws: posterior draws for each.
            training: key of the training; None is the latest.
            sampling_steps: network passes of a draw; None is the estimator's default.
            simulations: from the posterior, for the predictive check; None: 200 if that takes less than a minute.
            quantities: further test quantities by name: functions of the outputs of one simulation.
            seed: of all draws.
            out: folder for the files; None: within the run.
            checks: whether model and posterior are checked.

        Raises:
            UsageError: an observation or a training that does not fit; nothing is written.
            Stopped: interrupted; a repeat continues.
        """
        from pipeline.answer.stage import Question, infer
        from pipeline.infer.observation import read_observation

        self._define()
        observation = read_observation(Path(x)) if isinstance(x, (str, Path)) else x
        question = Question(
            self._directory,
            draws,
            training,
            sampling_steps,
            simulations,
            seed,
            quantities or {},
            checks,
        )
        with stop_on_signals() as stop:
            answers = infer(question, observation, None if out is None else Path(out), stop)
        return _one_or_all(answers)

    def refine(
        self,
        x: Any,
        simulations: int,
        rounds: int = 2,
        *,
        level: float = 1e-3,
        draws: int = 10_000,
        seed: int = 0,
        out: str | Path | None = None,
    ) -> Answer | list[Answer]:
        """Simulate and train where the posterior for an observation has its mass, and answer.

        Truncated sequential inference: see `pipeline.refine.region`.

        Arguments:
            x: one or several observations, as `infer` takes them; of several the union is simulated.
            simulations: of all rounds together, a total.
            rounds: how many rounds share them.
            level: share of the posterior that a round leaves out.
            draws, seed, out: see `infer`.
        """
        from pipeline.answer.stage import Question
        from pipeline.infer.observation import read_observation
        from pipeline.refine.answer import refined
        from pipeline.refine.stage import Refinement

        observation = read_observation(Path(x)) if isinstance(x, (str, Path)) else x
        question = Question(self._directory, draws, seed=seed)
        with self._stage({}) as stop:
            asked = Refinement(question, simulations, rounds, level)
            _, answers = refined(asked, observation, None if out is None else Path(out), stop)
        return _one_or_all(answers)

    # --- inner -------------------------------------------------------------------------------

    def _define(self) -> None:
        """Let this process find a simulator that was defined in a notebook."""
        if self._local is not None:
            by_value.define(self._local)

    @contextmanager
    def _stage(self, settings: Mapping[str, Any]) -> Iterator[Stop]:
        """Hold the run for a stage, with its settings and its simulator in place."""
        self._define()
        if settings:
            source = None if self._directory.config.exists() else self._config.plain()
            self._config = stages.configure(self._directory, source, _words(settings))
        with self._directory.lock(), stop_on_signals() as stop:
            if self._local is not None:
                by_value.keep(self._directory, self._local)
            yield stop


def _one_or_all(answers: list[Answer]) -> Answer | list[Answer]:
    """Return the answer of a single observation, or all."""
    return answers[0] if answers[0].number is None else answers


def _made(given: SimulatorLike, prior: PriorLike | None) -> Simulator:
    """Return a simulator from what is given for one."""
    from simulators.factory import SimulatorFactory
    from simulators.simulator import Simulator

    if isinstance(given, SimulatorFactory):
        return given(prior=prior)
    if isinstance(given, Simulator):
        if prior is None or given.prior == simulators.prior_from(prior):
            return given
        if given.factory is None:
            raise UsageError(f"{given} takes no other prior")
        return given.factory(prior=prior)
    if not callable(given):
        raise UsageError(
            f"simulator={given!r}: valid are a function under @simulator, a function with prior=..., or a name"
        )
    if prior is None:
        raise UsageError(
            f"{given!r} has no prior: give prior=..., or put @simulator(prior=...) above it"
        )
    try:
        made: Simulator = simulators.simulator(prior=prior)(given)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    return made


def _name(address: str) -> str:
    """Return under which name a configuration finds a simulator: files that are in no package by their path."""
    import sys

    from simulators.registry import BUILT_IN

    built_in = {place: name for name, place in BUILT_IN.items()}
    if address in (*BUILT_IN, *built_in):
        return built_in.get(address, address)
    place, _, attribute = address.rpartition(":")
    file = getattr(sys.modules.get(place), "__file__", None)
    if "." in place or not file or "-packages" in file:
        return address
    return f"{Path(file).resolve()}:{attribute}"


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as the words of a command, which say a change on purpose."""
    return [
        f"{key}={json.dumps(value, default=str)}" for key, value in flat(dict(settings)).items()
    ]
