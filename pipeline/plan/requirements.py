"""What a configuration names, built once: what can be known without any simulation."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
import numpy as np

from pipeline.config import IMPORTED, Config, simulator_of
from pipeline.errors import UsageError
from pipeline.files import canonical_text

BETWEEN = ("reflect", "clip")  # bounds that a prior without a density can have
MOST_IDS = 1_000_000  # that are divided into training and validation to count them


def require(config: Config, stages: bool = False) -> None:
    """Refuse a configuration that names what is not there.

    Arguments:
        stages: also look at numbers that only training and evaluation need.

    Raises:
        UsageError: names everything that is wrong.
    """
    if found := problems(config, stages):
        raise UsageError("; ".join(found))


def problems(config: Config, stages: bool) -> list[str]:
    """Return everything that is wrong with a configuration and needs no simulation to be seen."""
    looks = [
        check_simulator,
        check_estimator,
        _bounds,
        _augmentation,
        check_preprocessing,
        check_metrics,
        check_backend,
        check_tracking,
    ]
    if stages:
        looks += [check_rows_left, check_test]
    return [problem for look in looks for problem in problems_of(look, config)]


def problems_of(look: Callable[[Config], None], config: Config) -> list[str]:
    """Return the error of one check, as a list of none or one."""
    try:
        look(config)
    except UsageError as error:
        return [str(error)]
    return []


def check_simulator(config: Config) -> None:
    """Load it as this process and as another one does, with its prior, design and reference."""
    from pipeline.simulate.setup import spec_of
    from pipeline.train.row_weights import require_quantiles

    simulator = simulator_of(config)
    if config.train.prior_weights:
        require_quantiles("train.prior_weights=true", simulator.prior)
    reference_of(config, simulator)
    if simulator.name == IMPORTED:
        return
    spec_of(config, "train")
    spec_of(config, "test")
    try:
        canonical_text(simulator.identity())
        pickle.loads(
            cloudpickle.dumps(simulator) if simulator.is_local else pickle.dumps(simulator)
        )
    except Exception as error:
        raise UsageError(
            f"simulator {config.simulator.name!r}: other processes cannot load it: {error}"
        ) from error


def reference_of(config: Config, simulator: Any) -> str | None:
    """Return the name of the reference posterior that is asked for, if the simulator has one."""
    asked, valid = config.evaluate.reference, list(simulator.references)
    if asked is not None and asked not in valid:
        raise UsageError(
            f"evaluate.reference = {asked!r}: {simulator.name} has"
            f" {', '.join(valid) or 'no reference posterior'}"
        )
    return asked or next(iter(valid), None)


def check_estimator(config: Config) -> None:
    """Refuse an unknown estimator, setting, or summary network."""
    import estimators
    from estimators.summary import check_summary

    asked = config.estimator
    _known("estimator.name", estimators.current(asked.name), estimators.available())
    try:
        if asked.settings or ":" in asked.name:
            estimators.check(asked.name, asked.settings)
    except (LookupError, TypeError, ValueError, ImportError) as error:
        raise UsageError(f"estimator.arguments: {error.args[0]}") from None
    if isinstance(summary := asked.settings.get("summary"), str):
        try:
            check_summary(summary, asked.settings.get("summary_arguments") or {})
        except (LookupError, TypeError, ValueError) as error:
            raise UsageError(f"estimator.arguments: {error.args[0]}") from None


def _bounds(config: Config) -> None:
    """Refuse maps that make a uniform prior normal where the prior is a data set."""
    from simulators import DataPrior

    bounds = config.estimator.settings.get("bounds", "reflect")
    if bounds in BETWEEN or config.simulator.name == IMPORTED:
        return
    try:
        prior = simulator_of(config).prior
    except UsageError:  # it is among the problems
        return
    if isinstance(prior, DataPrior):
        raise UsageError(
            f"estimator.arguments: bounds={bounds!r} is for priors with a density between bounds, and the prior "
            f"is a data set; valid: {', '.join(BETWEEN)}"
        )


def _augmentation(config: Config) -> None:
    from pipeline.train.setup import augmentation_of

    if config.train.augmentation is not None:
        augmentation_of(config)


def check_preprocessing(config: Config) -> None:
    """Refuse an unknown step of preprocessing."""
    from estimators.preprocessing import steps_of

    try:
        steps_of(config.estimator.preprocessing)
    except LookupError as error:
        raise UsageError(f"estimator.preprocessing: {error.args[0]}") from None


def check_metrics(config: Config) -> None:
    """Refuse an unknown metric."""
    import evaluation

    valid = evaluation.available()
    for name in config.evaluate.metrics:
        _known("evaluate.metrics", name, valid)
        if name not in evaluation.TABLE:  # those of the table are ours
            try:
                evaluation.load(name)
            except (LookupError, TypeError, ValueError) as error:
                raise UsageError(f"evaluate.metrics: {error.args[0]}") from None


def check_backend(config: Config) -> None:
    """Refuse an unknown cluster backend."""
    import cluster

    _known("cluster.backend", config.cluster.backend, cluster.available())


def check_tracking(config: Config) -> None:
    """Refuse a tracking address that MLflow cannot use."""
    if config.track.uri is None:
        return
    from evaluation.tracking.record import check_uri

    try:
        check_uri(config.track.uri)
    except ValueError as error:
        raise UsageError(f"track.uri: {error}") from None


def _known(key: str, name: str, valid: Iterable[str]) -> None:
    """Refuse a name that is neither in a table nor a place in a module."""
    if name not in valid and ":" not in name:
        close = difflib.get_close_matches(name, valid, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"{key}: unknown {name!r}; {hint}valid: {', '.join(valid)}")


def check_rows_left(config: Config) -> None:
    """Count the rows that train and those that validate, if no simulation fails."""
    from pipeline.train.dataset import validates
    from pipeline.train.setup import check_rows

    if config.budget <= MOST_IDS:
        validation = int(validates(np.arange(config.budget), config.train.validation).sum())
        check_rows(config, config.budget - validation, validation)


def check_test(config: Config) -> None:
    """Refuse an evaluation without test simulations."""
    if not config.test:
        raise UsageError(
            "test=0: there is nothing to evaluate the posterior on; set test=100, or use"
            " `sbiflow simulate` and `sbiflow train` alone"
        )
