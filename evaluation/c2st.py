"""Classifier two-sample test: how well a small network tells posterior draws from reference draws.

    C2ST = held-out accuracy of MLP(z),  z = (theta - mean(reference)) / sd(reference)

0.5 says that the two cannot be told apart, 1 that they do not overlap.

Reference: Revisiting Classifier Two-Sample Tests (2017), arXiv 1610.06545; Benchmarking Simulation-Based
Inference (2021), arXiv 2101.04653. The random forest is the default of `sbi.utils.metrics.c2st` (2020), which
published tables use as well as sbibm's MLP.

`c2st` is sbibm's definition on scikit-learn, for one pair, and the cross-check. `c2st_batch` is the
same definition, of an MLP, with the classifiers of all pairs and folds trained at once (`classifier.py`): same
folds, same initial weights, same row orders, other arithmetic. The pipeline uses it;
`docs/metrics.md` has the measured agreement with scikit-learn and the cost of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold, train_test_split
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from evaluation import classifier
from evaluation.score import Tick, paired
from evaluation.two_sample import by_set, two_sample

Split = tuple[np.ndarray, np.ndarray]  # rows to train on, rows to score


@dataclass(frozen=True)
class C2STDefinition:
    """What the test leaves open: the classifier, and how its accuracy is estimated.

    Attributes:
        sentence: the definition in words.
        units: hidden units per parameter; both hidden layers have units * D. 0: a random forest.
        folds: cross-validation folds; 0: a single split that scores a quarter.
        seed: of the split and, in scikit-learn, of the classifiers.
    """

    sentence: str
    units: int
    folds: int
    seed: int

    def classifier(self, parameters: int, seed: int) -> Any:
        """Return scikit-learn's classifier of D parameters."""
        if not self.units:
            return RandomForestClassifier(random_state=seed)  # 100 trees
        units = self.units * parameters
        return MLPClassifier((units, units), max_iter=10_000, random_state=seed)  # ReLU, Adam

    def splits(self, n: int, seed: int) -> list[Split]:
        """Split n rows."""
        if self.folds:
            folds = KFold(self.folds, shuffle=True, random_state=seed)
            return list(folds.split(np.empty(n)))
        return [tuple(train_test_split(np.arange(n), test_size=0.25, random_state=seed))]


SBIBM = C2STDefinition(
    "sbibm: MLP with two layers of 10 D units, 5-fold cross-validated accuracy", 10, 5, 1
)
FOREST = C2STDefinition("sbi: random forest of 100 trees, 5-fold cross-validated accuracy", 0, 5, 1)
PAPER = C2STDefinition(
    "CMPE paper's code: MLP with two layers of 16 D units, one 75/25 split", 16, 0, 0
)


def _standardise(references: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both, z-scored by the reference and stacked (B, n + m, D), and labels (n + m,)."""
    references, draws = paired(references, draws, "references, draws")
    mean, sd = references.mean(1, keepdims=True), references.std(1, keepdims=True, ddof=1)
    if not (sd > 0).all():
        sets, _, columns = np.nonzero(~(sd > 0))
        raise ValueError(
            f"reference draws do not vary: test set {sets[0]}, parameter {columns[0]};"
            " C2ST has no scale there"
        )
    rows = np.concatenate([(references - mean) / sd, (draws - mean) / sd], axis=1)
    return rows, np.repeat([0.0, 1.0], [references.shape[1], draws.shape[1]])


def c2st(
    reference: np.ndarray,
    draws: np.ndarray,
    *,
    seed: int | None = None,
    definition: C2STDefinition = SBIBM,
) -> float:
    """Return the accuracy for one pair, with scikit-learn.

    Arguments:
        reference: draws of the reference posterior, shape (n, D).
        draws: draws to compare with it, shape (m, D).
        seed: of folds and classifiers; None takes the definition's (1 in sbibm).
        definition: whose C2ST.

    Raises:
        ValueError: shapes that do not fit, NaN, or a reference that does not vary.
    """
    rows, labels = _standardise(np.asarray(reference)[None], np.asarray(draws)[None])
    seed = definition.seed if seed is None else seed
    scores = []
    for fit, score in definition.splits(len(labels), seed):
        fitted = definition.classifier(rows.shape[2], seed).fit(rows[0, fit], labels[fit])
        scores.append(fitted.score(rows[0, score], labels[score]))
    return float(np.mean(scores))


def c2st_paper(reference: np.ndarray, draws: np.ndarray) -> float:
    """Return the CMPE paper's accuracy for one pair: 16 D units, one 75/25 split, seed 0."""
    return c2st(reference, draws, definition=PAPER)


def c2st_forest(reference: np.ndarray, draws: np.ndarray) -> float:
    """Return the accuracy of sbi's default for one pair: a random forest, 5 folds, seed 1."""
    return c2st(reference, draws, definition=FOREST)


def c2st_batch(
    references: np.ndarray,
    draws: np.ndarray,
    *,
    seed: int | None = None,
    definition: C2STDefinition = SBIBM,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    tick: Tick | None = None,
) -> np.ndarray:
    """Return the accuracies for B pairs, all classifiers trained at once.

    Arguments:
        references: draws of the reference posteriors, shape (B, n, D).
        draws: draws to compare with them, shape (B, m, D).
        seed: of folds and classifiers; None takes the definition's.
        definition: whose C2ST.
        dtype: float64 is scikit-learn's own precision, float32 is faster.
        device: on which the classifiers are trained.
        tick: called now and then with the number of finished pairs; may raise to stop.

    Returns:
        Shape (B,).

    Raises:
        ValueError: as `c2st`.
    """
    rows, labels = _standardise(references, draws)
    seed = definition.seed if seed is None else seed
    x = torch.as_tensor(rows, dtype=dtype, device=device)
    y = torch.as_tensor(labels, dtype=dtype, device=device)
    splits = definition.splits(len(labels), seed)
    scores = torch.zeros(len(splits), len(rows), dtype=torch.float64)
    finished = 0

    def count(classifiers: int) -> None:
        if tick:
            tick((finished + classifiers) // len(splits))

    # folds differ by a row where their number does not divide n + m
    for size in sorted({len(fit) for fit, _ in splits}):
        group = [i for i, (fit, _) in enumerate(splits) if len(fit) == size]
        scores[group] = _score(x, y, [splits[i] for i in group], definition.units, seed, count)
        finished += len(group) * len(rows)
    return scores.mean(0).numpy()


def _score(x: Tensor, y: Tensor, splits: list[Split], units: int, seed: int, tick: Tick) -> Tensor:
    """Return held-out accuracies, shape (splits, B), for splits of equal size."""
    fit, score = (
        torch.as_tensor(np.stack(part), device=x.device) for part in zip(*splits, strict=True)
    )
    pairs = len(x)

    def of(rows: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, rows].flatten(0, 1), y[rows].expand(pairs, -1, -1).flatten(0, 1)

    inputs, labels = of(fit)
    weights, _ = classifier.train(inputs, labels, units * x.shape[2], seed, tick=tick)
    inputs, labels = of(score)
    right = (classifier.forward(weights, inputs)[2] > 0) == (labels > 0.5)
    return right.double().mean(1).view(pairs, len(splits)).T.cpu()


@two_sample(SBIBM.sentence)
def c2st_sets(
    references: np.ndarray, draws: np.ndarray, tick: Tick | None = None, device: str = "cpu"
) -> np.ndarray:
    """C2ST of every test set by sbibm's definition, with the batched classifiers."""
    return c2st_batch(references, draws, tick=tick, device=device)


@two_sample(PAPER.sentence)
def c2st_paper_sets(
    references: np.ndarray, draws: np.ndarray, tick: Tick | None = None, device: str = "cpu"
) -> np.ndarray:
    """C2ST of every test set by the CMPE paper's definition, with the batched classifiers."""
    return c2st_batch(references, draws, definition=PAPER, tick=tick, device=device)


@two_sample(FOREST.sentence)
def c2st_forest_sets(
    references: np.ndarray, draws: np.ndarray, tick: Tick | None = None
) -> np.ndarray:
    """C2ST of every test set by the definition of sbi, with scikit-learn's random forest."""
    return by_set(c2st_forest, references, draws, tick)
