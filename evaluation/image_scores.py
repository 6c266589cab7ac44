"""Error and calibration of posteriors whose parameters are an image.

Test image i, draw s, pixel d; functional T of an image (a projection, its mean brightness):

    rmse_image       mean_i sqrt(mean_s mean_d (theta_id - draw_isd)^2): of draws, not of their mean
    coverage_pixels  for each pixel the share of test images whose true value lies in the central interval
    sbc_image        ranks of T(theta_i) among T(draw_is), as `evaluation.calibration.sbc`

Images that were stored as whole grey values hold some values very often, such as that of the background.
Draws are therefore brought to the same grey values first, and a true value that equals k of the draws has
a rank drawn uniformly from the k + 1 that are possible: a calibrated sampler has uniform ranks then.
A perfect posterior does not have an RMSE of 0: that of its draws is about sqrt(2) times that of its mean.

    Validating Bayesian Inference Algorithms with Simulation-Based Calibration, 2018 (arXiv:1804.06788)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from evaluation.calibration import sbc
from evaluation.exchange import exchanged, null_band
from evaluation.score import ComparedScores, Scores, check_finite, check_shapes, streamed

RMSE = "For each test image the root of the mean squared error over draws and pixels, then mean"
LEVELS = (0.5, 0.9)  # of the central intervals
VARIES = 0.05  # a pixel varies where the true values' standard deviation is this share of that of all pixels
GREY_VALUES = 4096  # images with more distinct values are taken as continuous
PROJECTIONS = 16  # random directions
PIXELS = 2**22  # numbers compared at a time

Functional = Callable[[np.ndarray], np.ndarray]  # (..., D) -> (...)


def _roots(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return the error of each image (b,), and with draws in the place of the truth (b, R)."""
    theta, draws = _checked(theta, draws)
    n, centre = draws.shape[1], draws.mean(1, dtype=np.float64)
    variance = np.array([drawn.var(0, dtype=np.float64).mean() for drawn in draws])

    def root(truth: np.ndarray, others: np.ndarray, counted: int = n - 1) -> np.ndarray:
        squares = np.square(truth - centre).mean(1) + variance
        return np.asarray(np.sqrt(squares * n / counted))  # a draw's distance from itself is 0

    return {"values": root(theta, draws, counted=n), "null": exchanged(root, draws)}


def _errors(found: Mapping[str, np.ndarray]) -> ComparedScores:
    return ComparedScores.within(RMSE, found["values"], null_band(found["null"]))


@streamed(_roots, lambda found, n, prior: _errors(found))
def rmse_image(theta: np.ndarray, draws: np.ndarray) -> ComparedScores:
    """Root mean squared error of each test image's draws, as the denoising experiment of arXiv:2312.05440."""
    return _errors(_roots(theta, draws))


@dataclass(frozen=True)
class PixelCoverage:
    """Coverage of central intervals, pixel by pixel.

    Attributes:
        mean: mean over the pixels that vary of the coverage of the 90 % interval.
        coverage_50, coverage_90: mean over the pixels that vary.
        share_50, share_90: share of these pixels within .02 of the level.
        noise_50, noise_90: the standard deviation that chance gives the coverage of one pixel.
        varying: number of pixels that vary.
        map_50, map_90: coverage of each pixel, shape (D,); NaN where it does not vary.
    """

    definition: str
    mean: float
    coverage_50: float
    coverage_90: float
    share_50: float
    share_90: float
    noise_50: float
    noise_90: float
    varying: int
    map_50: np.ndarray
    map_90: np.ndarray


def coverage_pixels(theta: np.ndarray, draws: np.ndarray) -> PixelCoverage:
    """Coverage of the central 50 % and 90 % intervals of every pixel that varies."""
    theta, draws = _checked(theta, draws)
    spread = theta.std(0)
    varies = spread > VARIES * theta.std()
    if not varies.any():
        raise ValueError("no pixel varies between the test images: their coverage says nothing")
    distance = np.abs(2 * fractional_ranks(theta, draws) - 1)
    count = int(varies.sum())

    def near(covered: np.ndarray, level: float) -> float:
        return float((np.abs(covered[varies] - level) <= 0.02).mean())

    half, most = ((distance <= level).mean(0) for level in LEVELS)
    noise = [math.sqrt(level * (1 - level) / len(theta)) for level in LEVELS]
    return PixelCoverage(
        definition="Share of test images whose true value lies in the pixel's central 90 % interval, mean "
        f"over the {count} of {theta.shape[1]} pixels that vary; .9 is perfect",
        mean=float(most[varies].mean()),
        coverage_50=float(half[varies].mean()),
        coverage_90=float(most[varies].mean()),
        share_50=near(half, LEVELS[0]),
        share_90=near(most, LEVELS[1]),
        noise_50=noise[0],
        noise_90=noise[1],
        varying=count,
        map_50=np.where(varies, half, np.nan),
        map_90=np.where(varies, most, np.nan),
    )


def fractional_ranks(theta: np.ndarray, draws: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return ranks of the true values among the draws in (0, 1), uniform for a calibrated sampler.

        (number of draws below + U (number of draws equal + 1)) / (n + 1),   U ~ uniform(0, 1)

    Arguments:
        theta: shape (B, D). draws: shape (B, n, D). seed: of U.

    Returns:
        Shape (B, D).
    """
    step, low = grey_step(theta), theta.min()
    uniform = np.random.default_rng(seed).random(theta.shape)
    result = np.empty(theta.shape)
    rows = max(1, PIXELS // draws[0].size)
    for start in range(0, len(theta), rows):
        part = slice(start, start + rows)
        truth, drawn = theta[part, None], draws[part]
        if step:
            truth, drawn = (np.round((values - low) / step) for values in (truth, drawn))
        below, equal = (drawn < truth).sum(1), (drawn == truth).sum(1)
        result[part] = (below + uniform[part] * (equal + 1)) / (draws.shape[1] + 1)
    return result


def grey_step(theta: np.ndarray) -> float:
    """Return the distance of neighbouring grey values, 0 for images of continuous values."""
    values = np.unique(theta)
    if not 2 <= len(values) <= GREY_VALUES or len(values) > theta.size / 8:
        return 0.0
    step = float(np.diff(values).min())
    places = (values - values[0]) / step
    # Grey values in single precision lie on a grid up to rounding.
    return step if np.abs(places - np.round(places)).max() < 0.05 else 0.0


@dataclass(frozen=True)
class ImageSbc:
    """Ranks of functionals of an image.

    Attributes:
        max: largest |ECDF - uniform| over points and functionals.
        functionals: their names. differences: the same for each of them.
        outside: names of those that leave their simultaneous 95 % band; one in twenty does by chance.
    """

    definition: str
    max: float
    functionals: tuple[str, ...]
    differences: np.ndarray
    outside: tuple[str, ...]


def sbc_image(theta: np.ndarray, draws: np.ndarray) -> ImageSbc:
    """Simulation-based calibration of random projections, mean brightness, contrast and roughness."""
    theta, draws = _checked(theta, draws)
    return sbc_functionals(theta, draws, functionals(theta.shape[1]))


def sbc_functionals(
    theta: np.ndarray, draws: np.ndarray, given: Mapping[str, Functional]
) -> ImageSbc:
    """Simulation-based calibration of functionals of images.

    Arguments:
        theta: shape (B, D). draws: shape (B, n, D). given: name -> functional.
    """
    truth = np.stack([f(theta) for f in given.values()], axis=-1)
    drawn = np.stack(
        [np.stack([f(one) for f in given.values()], axis=-1) for one in draws]
    )  # one test image after the other: memory stays that of the draws
    result = sbc(truth, drawn)
    names = tuple(given)
    return ImageSbc(
        f"Largest ECDF difference of the ranks of {len(names)} functionals of the image: random "
        "projections, mean brightness, contrast and roughness",
        result.max,
        names,
        result.per_parameter,
        tuple(name for name, inside in zip(names, result.inside, strict=True) if not inside),
    )


def functionals(size: int, projections: int = PROJECTIONS) -> dict[str, Functional]:
    """Return the named functionals of images of D = `size` pixels.

    brightness   mean over the pixels
    contrast     standard deviation over the pixels
    roughness    root of the mean squared difference of horizontal neighbours (square images)
    projection   w . theta with w ~ N(0, I / D), fixed
    """
    directions = np.random.default_rng(20180804).normal(0, size**-0.5, (projections, size))
    named: dict[str, Functional] = {
        "brightness": lambda images: images.mean(-1),
        "contrast": lambda images: images.std(-1),
    }
    side = math.isqrt(size)
    if side**2 == size and side > 1:
        named["roughness"] = lambda images: np.sqrt(
            np.square(np.diff(images.reshape(*images.shape[:-1], side, side), axis=-1)).mean(
                (-2, -1)
            )
        )
    for k, direction in enumerate(directions):
        named[f"projection_{k + 1}"] = partial(_project, direction)
    return named


def _project(direction: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.asarray(images @ direction)


@dataclass(frozen=True)
class ClassCalibration:
    """How sure the draws are of an image's class, beside how often they are right.

    Attributes:
        confidence: mean share of the draws that have the most frequent class.
        accuracy: share of test images whose true class is the most frequent one of the draws.
        overconfidence: confidence - accuracy; sem: its standard error.
        error: mean |confidence - accuracy| over ten groups of images by confidence.
    """

    definition: str
    mean: float
    sem: float
    confidence: float
    accuracy: float
    overconfidence: float
    error: float


def class_calibration(truth: np.ndarray, drawn: np.ndarray) -> ClassCalibration:
    """Compare the classes of draws with those of the true images.

    Arguments:
        truth: class of each true image, whole numbers from 0, shape (B,).
        drawn: class of each draw, shape (B, n).
    """
    truth, drawn = np.asarray(truth), np.asarray(drawn)
    if truth.ndim != 1 or drawn.ndim != 2 or len(truth) != len(drawn):
        raise ValueError(f"classes {truth.shape} and {drawn.shape}; valid: (B,) and (B, n)")
    classes = int(max(truth.max(), drawn.max())) + 1
    shares = np.stack([np.bincount(row, minlength=classes) for row in drawn]) / drawn.shape[1]
    confidence, right = shares.max(1), shares.argmax(1) == truth
    gap = confidence - right
    groups = np.array_split(np.argsort(confidence, kind="stable"), min(10, len(truth)))
    error = sum(len(g) * abs(float(gap[g].mean())) for g in groups) / len(truth)
    scores = Scores.of("", gap)
    return ClassCalibration(
        "Share of the draws with the most frequent class minus how often it is the true one; above 0 is "
        "overconfident",
        scores.mean,
        scores.sem,
        float(confidence.mean()),
        float(right.mean()),
        scores.mean,
        error,
    )


def _checked(theta: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    theta, draws = np.asarray(theta), np.asarray(draws)
    check_shapes(theta, draws)
    check_finite(theta, draws)
    return theta, draws
