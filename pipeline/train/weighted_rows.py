"""The weights of the rows of a training, by the prior alone or by the proposals of their parameters."""

from __future__ import annotations

import numpy as np

from pipeline.errors import UsageError
from pipeline.store import Store
from pipeline.store.observation import PROPOSAL
from pipeline.train.dataset import IDS, Table, validates
from pipeline.train.row_weights import importance_weights, prior_weights, require_quantiles
from simulators import Prior


def by_prior(store: Store, budget: int, table: Table, prior: Prior | None) -> np.ndarray:
    """Return weights of the training rows by which low-order cosine moments of theta match the prior, shape (n,).

    Arguments:
        store, budget: all simulations, also those that failed.
        table: the rows.
        prior: of the parameters.

    Raises:
        UsageError: the prior is not known or has no quantiles.
    """
    known = require_quantiles("train.prior_weights=true", prior)
    ids, cubes = [], []
    for start in range(0, budget, IDS):
        some, theta = store.parameters(min(start + IDS, budget), start)
        counted = ~validates(some, table.share)
        ids.append(some[counted])
        cubes.append(known.cube(theta[counted]))
    weights = prior_weights(np.concatenate(cubes))
    return np.asarray(weights[np.searchsorted(np.concatenate(ids), table.train)])


def by_proposal(table: Table, prior: Prior | None, ids: np.ndarray) -> np.ndarray:
    """Return the weights p / q of rows, shape (n,), where the density q of its proposal is kept with each.

    Arguments:
        table: the rows.
        prior: p.
        ids: of some of the rows, sorted, shape (n,).

    Raises:
        UsageError: the prior is not known or has no density.
    """
    if prior is None or not prior.has_density:
        raise UsageError(
            f"the output {PROPOSAL!r} is the density by which parameters were proposed: weights need a prior with "
            "a density as well; give one, or train with train.prior_weights=false"
        )
    log_q, theta = table.column(f"x/{PROPOSAL}", ids), table.column("theta", ids)
    return importance_weights(np.asarray(prior.log_prob(theta)), log_q)
