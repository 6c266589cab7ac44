"""C2ST by batched classifiers beside sbibm's, with scikit-learn, on the same core: seconds and values.

    python -m benchmarks.c2st [--sets 100] [--draws 10000] [--parameters 2] [--shift 0.5] [--compared 3] [--seed 0]

The pairs are Gaussians whose first parameter differs by `shift` standard deviations. All pairs are measured by
the batched classifiers, and `compared` of them by scikit-learn, each with one thread. sbibm measures one pair
after the other, so that seconds of a pair compare. The best classifier is right in Phi(shift / 2) of all cases.
Prints one JSON object. On several cores, `evaluate.workers` processes share the pairs.
"""

from __future__ import annotations

import argparse
import json
import os

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.stats import norm  # noqa: E402

from evaluation.c2st import c2st, c2st_batch  # noqa: E402
from pipeline.evaluate.blocks import SETS  # noqa: E402


def measured(given: argparse.Namespace) -> dict[str, object]:
    """Return processor and wall seconds of a pair by both, their ratios, and the values."""
    rng = np.random.default_rng(given.seed)
    sides = rng.normal(size=(2, given.sets, given.draws, given.parameters))
    sides[1, ..., 0] += given.shift
    began, used = time.perf_counter(), time.process_time()
    blocks = [c2st_batch(*sides[:, at : at + SETS]) for at in range(0, given.sets, SETS)]
    batched, processor = time.perf_counter() - began, time.process_time() - used
    began, used = time.perf_counter(), time.process_time()
    alone = [c2st(sides[0, i], sides[1, i]) for i in range(given.compared)]
    single, single_processor = time.perf_counter() - began, time.process_time() - used
    values = np.concatenate(blocks)
    gap = values[: given.compared] - alone
    return {
        "seconds_of_a_pair": batched / given.sets,
        "seconds_of_a_pair_scikit_learn": single / given.compared,
        "ratio": single / given.compared / (batched / given.sets),
        "ratio_of_processor_seconds": single_processor / given.compared / (processor / given.sets),
        "mean": float(values.mean()),
        "bayes": float(norm.cdf(given.shift / 2)),
        "mean_difference": float(gap.mean()),
        "largest_difference": float(np.abs(gap).max()),
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--parameters", type=int, default=2)
    parser.add_argument("--shift", type=float, default=0.5)
    parser.add_argument("--compared", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(vars(given) | measured(given) | {"load": load}))


if __name__ == "__main__":
    main()
