"""A search for the settings with the lowest metric: proposed by Optuna, trained as tasks of Ray.

Proposals come from a tree-structured Parzen estimator, given all trials so far. A trial whose validation loss is
not among the best quarter at its step is stopped (asynchronous successive halving). Both are Optuna's; its journal
lies in the folder of the study, so that a search goes on to a total of trials after any kill. The best settings
are trained again with seeds, and hence simulations and test sets, that the search has not seen.

References: Algorithms for Hyper-Parameter Optimization (2011, Bergstra et al.); A System for Massively Parallel
Hyperparameter Tuning (2020, arXiv 1810.05934).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config as configuration
from pipeline import events
from pipeline.config.comparison import FIXED
from pipeline.config.reading import assign
from pipeline.errors import PipelineError, UsageError
from pipeline.files import write_document, write_whole
from pipeline.progress import Progress, log
from pipeline.run import RunDirectory
from pipeline.simulate.stage import connected
from pipeline.stop import Stop
from pipeline.study.case import StudyCase, steps_of
from pipeline.study.naming import label
from pipeline.study.results import measured
from pipeline.study.schedule import Tasks
from pipeline.study.schema import Search, Study
from pipeline.study.simulations import simulations

if TYPE_CHECKING:
    import optuna

TRIALS, JOURNAL, RESULT, BEST = "trials", "search.log", "search.json", "best.yaml"
STARTUP = 8  # random trials before the sampler models anything
RUNGS, REDUCTION = 3, 4  # a trial is compared at 1/64, 1/16 and 1/4 of its steps
FRESH = 1000  # added to the seed of the search


class SearchRun:
    """A search in its folder.

    Arguments:
        study: with a `search`.
        folder: of the study.

    Raises:
        UsageError: Optuna is missing, or a key of the space is none.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        assert study.search is not None
        self.asked: Search = study.search
        self.distributions = {key: _distribution(key, one) for key, one in self.asked.space.items()}
        _check_simulations_shared(self.asked.space)
        (self.shared,) = simulations([self.case(-1, self._first())], folder)
        self.optuna = self._open()
        self.trials: dict[str, optuna.trial.Trial] = {}
        self.pruned: set[str] = set()
        self.reported: dict[str, int] = {}  # last step of each trial

    def _first(self) -> dict[str, Any]:
        """Return any settings of the space, to check its keys."""
        return {
            key: one[0] if isinstance(one, list) else one["low"]
            for key, one in self.asked.space.items()
        }

    def _open(self) -> optuna.Study:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = steps_of(self.shared.cases[0].config)
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            max(1, steps // REDUCTION**RUNGS), reduction_factor=REDUCTION
        )
        return optuna.create_study(
            study_name=self.study.name,
            storage=JournalStorage(JournalFileBackend(str(self.folder / JOURNAL))),
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, seed=self.shared.config.seed, constant_liar=True
            ),
            pruner=pruner if self.asked.early_stopping else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )

    def case(self, number: int, settings: Mapping[str, Any]) -> StudyCase:
        """Return a trial as a case."""
        values = json.loads(json.dumps(self.study.base))
        for key, value in settings.items():
            assign(values, key, value)
        labels = {key: label(value) for key, value in settings.items()}
        name = f"trial-{number:04d}"
        run = RunDirectory(self.folder / TRIALS / name)
        return StudyCase(name, labels, dict(settings), configuration.build(values), run)

    # --- the search ------------------------------------------------------------------------------

    def run(self, stop: Stop) -> None:
        """Go on to the total number of trials."""
        from optuna.trial import TrialState

        unfinished = self.optuna.get_trials(states=[TrialState.RUNNING])
        done = len(self.optuna.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
        total = self.asked.trials
        if done >= total:
            return
        with connected(self.shared.config) as ray_cluster, Tasks() as tasks:
            self.shared.simulate(stop)
            threads = self.shared.cases[0].config.train.threads
            parallel = max(1, self.study.parallel or ray_cluster.capacity(threads, None))
            begun = done
            with Progress("search", total, "trials", done) as progress:
                while begun < total or tasks.running:
                    stop.check("search")
                    while begun < total and len(tasks.running) < parallel:
                        self._start(tasks, unfinished.pop(0) if unfinished else None)
                        begun += 1
                    for ended in tasks.ended():
                        self._tell(ended.case, ended.reason)
                        progress.update(progress.done + 1, ended.case.name)
                    self._prune(tasks)

    def _start(self, tasks: Tasks, unfinished: optuna.trial.FrozenTrial | None) -> None:
        from optuna.trial import Trial

        if unfinished is None:
            trial = self.optuna.ask(self.distributions)
        else:
            trial = Trial(self.optuna, unfinished._trial_id)
        case = self.case(trial.number, {key: trial.params[key] for key in self.asked.space})
        if unfinished is not None:
            self.reported[case.name] = max(unfinished.intermediate_values, default=0)
        self.trials[case.name] = trial
        tasks.start(case, self.shared)

    def _prune(self, tasks: Tasks) -> None:
        """Report the validation losses of running trials, and stop those that are not worth going on with."""
        for case in tasks.running.values():
            if case.name in self.pruned:
                continue
            trial = self.trials[case.name]
            for event in events.read(case.run).events:
                told, step = event.get("validation"), int(event.get("step", 0))
                if told is not None and step > self.reported.get(case.name, 0):
                    trial.report(float(told), step)
                    self.reported[case.name] = step
            if trial.should_prune():
                self.pruned.add(case.name)
                tasks.cancel(case)

    def _tell(self, case: StudyCase, reason: str) -> None:
        from optuna.trial import TrialState

        trial = self.trials[case.name]
        if case.name in self.pruned:
            self.optuna.tell(trial, state=TrialState.PRUNED)
            return
        value = self._value(case) if not reason else None
        if value is None:
            problem = reason or f"it has no {self.asked.metric}"
            log(f"search: {case.name} failed: {problem}")
            self.optuna.tell(trial, state=TrialState.FAIL)
        else:
            self.optuna.tell(trial, value)

    def _value(self, case: StudyCase) -> float | None:
        """Return the metric of a finished trial."""
        results = case.finished()
        if results is None:
            return None
        loss = (results.done() or {}).get("best_validation_loss")
        if self.asked.metric == "validation_loss":
            return loss
        first = next(iter(measured(results.evaluated() or {})))
        value: float | None = first["metrics"].get(self.asked.metric)
        return value

    # --- what came of it -------------------------------------------------------------------------

    def write(self) -> dict[str, Any]:
        """Write all trials to `search.json` and the best configuration to `best.yaml`; return the former.

        Raises:
            PipelineError: no trial was finished.
        """
        from optuna.trial import TrialState

        if not self.optuna.get_trials(states=[TrialState.COMPLETE]):
            raise PipelineError(f"no trial of {self.folder} was finished")
        best = self.optuna.best_trial
        rows = [
            {
                "name": f"trial-{one.number:04d}",
                "state": one.state.name.lower(),
                "value": one.value,
                "settings": one.params,
            }
            for one in self.optuna.get_trials()
        ]
        rows.sort(key=lambda row: (row["value"] is None, row["value"] or 0.0))
        content = {
            "metric": self.asked.metric,
            "best": best.params,
            "value": best.value,
            "trials": rows,
        }
        write_document(self.folder / RESULT, {"format": 1, **content})
        values = self.case(best.number, best.params).config.plain()
        head = f"# Best of {len(rows)} trials by {self.asked.metric}: {best.value:.6g}, {best.params}.\n"
        write_whole(self.folder / BEST, head + configuration.text(values))
        return content

    def final(self, best: Mapping[str, Any]) -> Study:
        """Return the study that measures the best settings with fresh seeds."""
        seeds = [self.shared.config.seed + FRESH + k for k in range(self.asked.seeds)]
        axes = {**{key: [value] for key, value in best.items()}, "seed": seeds}
        return self.study.model_copy(update={"axes": axes, "search": None})


def _check_simulations_shared(space: Mapping[str, Any]) -> None:
    """Refuse keys that would give each trial simulations of its own."""
    for key in space:
        if key.partition(".")[0] in (*FIXED, "budget", "test") or key == "simulate.block":
            raise UsageError(
                f"search.space: {key!r} changes the simulations, which all trials share"
            )


def _distribution(key: str, one: Any) -> Any:
    """Return what Optuna draws a key from: a list of choices, or a range.

    Raises:
        UsageError: it is neither, or Optuna is missing.
    """
    try:
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )
    except ImportError:
        raise UsageError("a search needs Optuna: pip install 'sbiflow[search]'") from None
    if isinstance(one, list) and one:
        return CategoricalDistribution(one)
    valid = (
        f"{key!r} = {one!r}: valid are a list, and a mapping of low, high, and log: true or step"
    )
    if not isinstance(one, dict) or not {"low", "high"} <= one.keys() <= {
        "low",
        "high",
        "log",
        "step",
    }:
        raise UsageError(f"search.space: {valid}")
    whole = all(isinstance(one[name], int) for name in ("low", "high"))
    try:
        return (IntDistribution if whole else FloatDistribution)(**one)
    except (TypeError, ValueError) as error:
        raise UsageError(f"search.space: {key!r}: {error}") from None
