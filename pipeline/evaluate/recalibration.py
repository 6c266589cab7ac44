"""Recalibration of a trained posterior on the rows that validated its training."""

from __future__ import annotations

from collections.abc import Sequence

from estimators import Posterior
from estimators import recalibrate as fit
from pipeline.config import Config, build, simulator_of
from pipeline.errors import UsageError
from pipeline.progress import log
from pipeline.results import POSTERIOR, Results
from pipeline.run import RunDirectory
from pipeline.store import Store
from pipeline.store.observation import Observation
from pipeline.train.dataset import Table

LEAST = 20  # rows: with fewer, levels beyond 5 % and 95 % are not even known in rank


def recalibrate(
    config: Config,
    run: RunDirectory,
    results: Results,
    posterior: Posterior,
    sampling_steps: Sequence[int | None],
) -> None:
    """Recalibrate a posterior for numbers of sampling steps, and keep that in its folder; once.

    The rows are those of the training's budget that were held out for validation. They chose the weights
    that are kept, and nothing else; test simulations are never used.

    Raises:
        UsageError: too few of them.
    """
    wanted, held = [steps or 0 for steps in sampling_steps], posterior.recalibration
    if held is not None and set(wanted) <= set(held.scores):
        return
    budget, share = _trained(config, results, posterior)
    store = Store.open(run.store("train"))
    observation = Observation.of(simulator_of(config), store.identity)
    table = Table.of(store, budget, share, observation)
    if table.validation_rows < LEAST:
        raise UsageError(
            f"evaluate.calibrated=true: {table.validation_rows} validation rows, and at least {LEAST} are"
            f" needed; train with more: train.validation=0.2 (it was {share:g})"
        )
    batch = table.validation_batch()
    rows = f"the {len(batch.theta)} validation rows among simulations 0 to {budget - 1}"
    log(f"evaluate: recalibrates on {rows}")
    x = {name: values.numpy() for name, values in batch.x.items()}
    steps = sorted({*wanted, *(held.scores if held is not None else ())})
    weights = results.weights_digest() or ""
    found = fit(posterior, batch.theta, x, sampling_steps=steps, rows=rows, weights=weights)
    found.save(results.folder / POSTERIOR)


def _trained(config: Config, results: Results, posterior: Posterior) -> tuple[int, float]:
    """Return the budget of the training and the share of its rows that validated."""
    kept = results.config()
    budget = int(posterior.provenance.get("budget", config.budget))
    return budget, (config if kept is None else build(kept)).train.validation
