"""Is our tumour spheroid the original's? Outputs of both, compared in distribution.

`python -m benchmarks.tumor_equality [FOLDER]` compares at the default parameters and at 25 draws from
the prior with stored runs of the original, prints one JSON object and, given a folder, draws one
picture per output there. The criteria:

* T1, default parameters: standardised mean differences (SMD) of the features, the spread of the
  growth curve, and an energy distance with its permutation p-value.
* T2, every prior point: the energy distance's p-value.
* T3, over the points: six scalars as z-scores, and their sum over the points.
* T4, the same tests on two halves of the original's own runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

import simulators
from simulators.tumor_spheroid.lattice import c_rand

REFERENCE = Path("tests/simulators/tumor_spheroid/tumor2d_reference.npz")
OUTPUTS = ("growth_curve", "extra_cellular_matrix_profile", "proliferation_profile")
POINTS = range(26)  # the default parameters and the stored draws from the prior
LABELS = {
    "growth_curve": ("radius of the rim [um]", "time [h]"),
    "extra_cellular_matrix_profile": ("ECM", "distance to the rim [um]"),
    "proliferation_profile": ("share of cycling cells", "distance to the rim [um]"),
}
CENTRES = (5049, 5050, 4948, 5048, 4950)  # in the order in which the original's generator picks
BIN, DEEPEST = 20, 700  # um
PERMUTATIONS = 3999

Runs = dict[str, np.ndarray]  # output -> (runs, values)


@lru_cache(maxsize=1)
def reference() -> dict[str, np.ndarray]:
    """The stored runs of the original, with its CPU seconds."""
    with np.load(REFERENCE) as file:
        return dict(file)


def original_runs(point: int) -> Runs:
    """Outputs of the original at one point; 0 is the default, 1 .. 25 draws from the prior."""
    stored = reference()
    rows = stored["run_point"] == point
    return {key: stored[key][rows].astype(float) for key in OUTPUTS}


def original_centres(point: int) -> list[int]:
    """The centre of the initial disc in each of the original's runs, which follows from its seed."""
    stored = reference()
    seeds = stored["effective_seeds"][stored["run_point"] == point]
    return [CENTRES[int(5 * c_rand(int(seed), 1)[0] / (2**31 - 1))] for seed in seeds]


def our_runs(point: int, n: int, seed: int = 0) -> Runs:
    """Outputs of n runs of ours, with the original's centres in turn, so that they weigh alike."""
    stored = reference()
    theta = dict(zip(stored["param_names"].tolist(), stored["theta"][point], strict=True))
    centres = original_centres(point)
    runs = []
    for i in range(n):
        model = simulators.load("tumor_spheroid", centre=centres[i % len(centres)])
        runs.append(model(seed=np.random.SeedSequence((seed, point, i)), **theta))
    return {key: np.stack([run[key] for run in runs]) for key in OUTPUTS}


def features(runs: Runs) -> Runs:
    """Growth (20) and both profiles, averaged over 20-um bins up to 700 um (35 each)."""
    binned = {"growth_curve": runs["growth_curve"]}
    for key in OUTPUTS[1:]:
        profile = np.zeros((len(runs[key]), DEEPEST))
        length = min(runs[key].shape[1], DEEPEST)
        profile[:, :length] = runs[key][:, :length]
        binned[key] = profile.reshape(len(profile), -1, BIN).mean(axis=2)
    return binned


def floors(a: Runs, b: Runs) -> dict[str, float]:
    """The smallest standard deviation that counts: 1 um, 1 % of the largest mean ECM, 0.005."""
    ecm = np.concatenate([a[OUTPUTS[1]], b[OUTPUTS[1]]]).mean(axis=0).max()
    return {OUTPUTS[0]: 1.0, OUTPUTS[1]: max(0.01 * ecm, 1e-300), OUTPUTS[2]: 0.005}


def mean_differences(a: Runs, b: Runs) -> dict[str, np.ndarray]:
    """SMD = |difference of means| / max(pooled s.d., floor) of the features that count."""
    floor, smd = floors(a, b), {}
    for key in OUTPUTS:
        pooled = np.sqrt((a[key].var(axis=0, ddof=1) + b[key].var(axis=0, ddof=1)) / 2)
        difference = np.abs(a[key].mean(axis=0) - b[key].mean(axis=0))
        smd[key] = (difference / np.maximum(pooled, floor[key]))[_counts(key, a[key], b[key])]
    return smd


def _counts(key: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if key == "extra_cellular_matrix_profile":
        return ((a != 0).mean(axis=0) >= 0.9) & ((b != 0).mean(axis=0) >= 0.9)
    if key == "proliferation_profile":
        return np.concatenate([a, b]).mean(axis=0) > 1e-3
    return np.ones(a.shape[1], dtype=bool)


def energy_p(a: Runs, b: Runs, rng: np.random.Generator) -> float:
    """Permutation p-value of the energy distance between two sets of runs.

    Features are divided by max(total s.d., floor) and by the root of their number per output.
    """
    floor, scaled = floors(a, b), []
    for key in OUTPUTS:
        both = np.concatenate([a[key], b[key]])
        scale = np.maximum(both.std(axis=0, ddof=1), floor[key]) * np.sqrt(both.shape[1])
        scaled.append((both - both.mean(axis=0)) / scale)
    points = np.concatenate(scaled, axis=1)
    squares = (points**2).sum(axis=1)
    gram = squares[:, None] + squares - 2 * points @ points.T
    distance = np.sqrt(np.maximum(gram, 0.0))
    np.fill_diagonal(distance, 0.0)
    n, total = len(a[OUTPUTS[0]]), len(points)
    first = np.zeros((PERMUTATIONS + 1, total))
    first[0, :n] = 1
    for row in first[1:]:
        row[rng.permutation(total)[:n]] = 1
    second = 1 - first
    m = total - n
    to_first, to_second = first @ distance, second @ distance
    energy = 2 * (to_first * second).sum(axis=1) / (n * m)
    energy -= (to_first * first).sum(axis=1) / n**2 + (to_second * second).sum(axis=1) / m**2
    return float((energy >= energy[0] - 1e-12).mean())


SCALARS = ("radius_240h", "radius_480h", "ecm_300um", "cycling_300um", "cycling_30um", "depth")


def scalars(runs: Runs) -> np.ndarray:
    """Six scalars per run, shape (runs, 6), in the order of SCALARS."""
    growth, ecm, cycling = (runs[key] for key in OUTPUTS)
    return np.stack(
        [
            growth[:, 9],
            growth[:, 19],
            ecm[:, :300].mean(axis=1),
            cycling[:, :300].mean(axis=1),
            cycling[:, :30].mean(axis=1),
            (ecm != 0).sum(axis=1),
        ],
        axis=1,
    )


def z_scores(a: Runs, b: Runs) -> np.ndarray:
    """Difference of the scalars' means by its standard error, with floors; shape (6,)."""
    one, two = scalars(a), scalars(b)
    n, m = len(one), len(two)
    floor = np.array([0.5, 0.5, 0.005 * np.concatenate([one, two])[:, 2].mean(), 2e-4, 2e-3, 3])
    pooled = ((n - 1) * one.var(axis=0, ddof=1) + (m - 1) * two.var(axis=0, ddof=1)) / (n + m - 2)
    error = np.sqrt(pooled * (1 / n + 1 / m) + floor**2)
    return (one.mean(axis=0) - two.mean(axis=0)) / error


@dataclass(frozen=True)
class AtDefault:
    """T1 and T4: largest and root-mean-square SMD by output, largest |log s.d. ratio|, energy p."""

    max_smd: dict[str, float]
    rms_smd: dict[str, float]
    log_sd_ratio: float
    energy_p: float


def compare_default(ours: Runs, original: Runs, rng: np.random.Generator) -> AtDefault:
    """The figures of T1 for two sets of runs."""
    a, b = features(ours), features(original)
    smd = mean_differences(a, b)
    spread = np.log(a[OUTPUTS[0]].std(axis=0, ddof=1) / b[OUTPUTS[0]].std(axis=0, ddof=1))
    return AtDefault(
        {key: float(value.max()) for key, value in smd.items()},
        {key: float(np.sqrt((value**2).mean())) for key, value in smd.items()},
        float(np.abs(spread).max()),
        energy_p(a, b, rng),
    )


@dataclass(frozen=True)
class OverPoints:
    """T2 and T3: energy p by point; z by point and scalar; |sum of z| / sqrt(points) by scalar."""

    points: list[int]
    energy_p: list[float]
    largest_z: float
    combined_z: dict[str, float]


def compare_points(points: Sequence[int], n: int, rng: np.random.Generator) -> OverPoints:
    """The figures of T2 and T3 with n runs of ours at every point."""
    p, z = [], []
    for point in points:
        ours, original = our_runs(point, n), original_runs(point)
        p.append(energy_p(features(ours), features(original), rng))
        z.append(z_scores(ours, original))
    combined = np.abs(np.sum(z, axis=0)) / np.sqrt(len(z))
    by_scalar = dict(zip(SCALARS, combined.tolist(), strict=True))
    return OverPoints(list(points), p, float(np.abs(z).max()), by_scalar)


def halves(rng: np.random.Generator) -> AtDefault:
    """T4: 32 against 32 of the original's own runs at the default parameters."""
    runs = original_runs(0)
    order = rng.permutation(len(runs[OUTPUTS[0]]))
    first, second = order[:32], order[32:]
    return compare_default(
        {key: value[first] for key, value in runs.items()},
        {key: value[second] for key, value in runs.items()},
        rng,
    )


def quantiles(runs: Runs, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Where an output's values lie, in h or um up to 700, and their 5, 50 and 95 % quantiles."""
    if key == "growth_curve":
        at = 24.0 * np.arange(1, runs[key].shape[1] + 1)
    else:
        at = np.arange(min(runs[key].shape[1], DEEPEST)) + 1.0
    return at, np.quantile(runs[key][:, : len(at)], (0.05, 0.5, 0.95), axis=0)


def deepest(runs: Runs) -> int:
    """The largest distance to the rim at which any run has a cell, um."""
    return int(np.flatnonzero(runs["extra_cellular_matrix_profile"].any(axis=0)).max(initial=0)) + 1


def draw(folder: Path, points: Sequence[int], n: int) -> list[Path]:
    """One picture per output, a panel per point: bands of n runs of ours and of the original's."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    ours = {point: our_runs(point, n) for point in points}
    original = {point: original_runs(point) for point in points}
    columns = min(len(points), 5)
    rows = -(-len(points) // columns)
    files = []
    for key, (label, axis) in LABELS.items():
        size = (max(2.3 * columns, 4.6), max(1.7 * rows, 3.2))
        figure, axes = plt.subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False
        )
        for panel, point in zip(axes.flat, points, strict=False):
            for runs, name, colour in ((original, "original", "C1"), (ours, "sbiflow", "C0")):
                at, (low, middle, high) = quantiles(runs[point], key)
                panel.fill_between(at, low, high, color=colour, alpha=0.3, linewidth=0)
                panel.plot(at, middle, color=colour, label=name, linewidth=1)
            counts = f"{len(original[point][key])} / {n} runs"
            where = "defaults" if point == 0 else f"prior point {point}"
            panel.set_title(f"{where}, {counts}", fontsize=8)
            panel.tick_params(labelsize=7)
            panel.set_xlim(0, at[-1] if key == "growth_curve" else 1.2 * deepest(ours[point]))
            panel.set_ylim(0, None)
        for panel in axes.flat[len(points) :]:
            panel.axis("off")
        axes.flat[0].legend(frameon=False, fontsize=6)
        figure.supxlabel(axis, fontsize=9)
        figure.supylabel(label, fontsize=9)
        files.append(folder / f"{key}.png")
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
    return files


def draw_summary(path: Path, n: int) -> Path:
    """The three outputs at the default parameters side by side."""
    import matplotlib.pyplot as plt

    ours, original = our_runs(0, n), original_runs(0)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    for panel, (key, (label, axis)) in zip(axes, LABELS.items(), strict=True):
        for runs, name, colour in ((original, "original", "C1"), (ours, "sbiflow", "C0")):
            at, (low, middle, high) = quantiles(runs, key)
            panel.fill_between(at, low, high, color=colour, alpha=0.3, linewidth=0)
            panel.plot(at, middle, color=colour, label=f"{name}, {len(runs[key])} runs")
        panel.set(xlabel=axis, ylabel=label, xlim=(0, None), ylim=(0, None))
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def main() -> None:
    """Compare everywhere and print."""
    rng = np.random.default_rng(0)
    result = {
        "T1": asdict(compare_default(our_runs(0, 128), original_runs(0), rng)),
        "T2_T3": asdict(compare_points(POINTS[1:], 64, rng)),
        "T4": asdict(halves(rng)),
    }
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]), POINTS, 64)
        draw_summary(Path(sys.argv[1]) / "defaults.png", 128)
    print(json.dumps({"benchmark": "tumor_equality", **result}))


if __name__ == "__main__":
    main()
