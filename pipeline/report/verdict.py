"""What the numbers of a posterior mean, in words, and what to try: all thresholds are in this file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

FAILED = 0.05  # share of failed simulations above which they are reported
EFFECTIVE = 0.8  # share of weighted rows; draws of the prior keep more than nine tenths
TRIVIAL_NRMSE, TRIVIAL_R2 = 1.38, 0.02  # the prior itself has 1.41 and 0
ROUNDING = 1e-9  # coverages are whole numbers of test sets
LEAVES_BAND = 0.05  # probability that a parameter of a perfect posterior leaves its band
OVER = (
    "To try: more simulations (budget=...); train.weight_decay=0.01 or, where the estimator has it,"
    " estimator.arguments.dropout=0.1; fewer steps (train.steps=...)."
)
UNDER = (
    "To try: longer training (train.steps=...); more sampling steps (evaluate.sampling_steps=...), where the"
    " estimator has a choice; a wider network (see `docs/estimators.md`) or more simulations (budget=...)."
)
RECALIBRATE = (
    "Or, without another training: evaluate.calibrated=true moves the draws so that intervals cover as often"
    " as they say (see `docs/calibration.md`)."
)


def verdicts(
    result: Mapping[str, Any] | None = None, done: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what is wrong with a posterior, a paragraph for each problem; an empty list if nothing is.

    Arguments:
        result: the evaluation, as in `metrics.json`.
        done: the training, as in `done.json`.
    """
    found = [*_overfitted(done or {}), *_weights(done or {})]
    if result:
        metrics, names = result.get("metrics", {}), result.get("posterior", {}).get("names", ())
        calibrated = result.get("settings", {}).get("calibrated")
        found += _calibration(metrics, names, calibrated, (done or {}).get("validation_rows"))
        found += _ranks(metrics, names)
        found += _trivial(metrics, names)
        found += _failed(result.get("failed_share", {}))
    return found


def _overfitted(done: Mapping[str, Any]) -> Iterator[str]:
    for minimum in done.get("minima", ()):
        phase = "" if minimum["phase"] == "training" else f" in the phase {minimum['phase']}"
        yield (
            f"Training overfits{phase}: the validation loss rose from {minimum['loss']:.4g} at step"
            f" {minimum['step']} to {minimum['end']:.4g}. The weights of step {minimum['step']} are kept. {OVER}"
        )


def _weights(done: Mapping[str, Any]) -> Iterator[str]:
    share = done.get("effective_share")
    if share is not None and share < EFFECTIVE:
        yield (
            f"Rows weighted by the prior count as {share:.0%} of their number: the parameters are hardly"
            " draws of the prior. To try: check `prior`; design=sobol in a new run; more simulations (budget=...);"
            " train.prior_weights=false, if the parameters are meant to be others."
        )


def _calibration(
    metrics: Mapping[str, Any],
    names: Sequence[str],
    calibrated: Mapping[str, Any] | None,
    rows: int | None,
) -> Iterator[str]:
    ece = metrics.get("ece", {})
    if ece.get("max") is None or ece["max"] <= ece["null_band"][1] + ROUNDING:
        return
    low, high = ece["null_band"]
    worst = [k for k, value in enumerate(ece["per_parameter"]) if value > high]
    excess = ece.get("excess")
    narrow = [names[k] for k in worst if excess and excess[k] < 0]
    wide = [names[k] for k in worst if excess and excess[k] >= 0]
    parts = []
    if narrow:
        parts.append(
            f"overconfident about {_listed(narrow)}: its intervals miss true values too often"
        )
    if wide:
        parts.append(f"underconfident about {_listed(wide)}: its intervals are too wide")
    what = f" It is {'; '.join(parts)}." if parts else ""
    advice = " ".join([*([OVER] if narrow else []), *([UNDER] if wide else [])])
    yield (
        f"The posterior is out of its calibration band: MaxECE is {ece['max']:.3f}, a perfect posterior has"
        f" {low:.3f} to {high:.3f} on {ece.get('n', 'as many')} test sets.{what} {advice}".rstrip()
        + f" {_recalibration(ece['max'], calibrated, rows)}"
    )


def _recalibration(max_ece: float, calibrated: Mapping[str, Any] | None, rows: int | None) -> str:
    """Return what recalibration can do: with m rows it leaves a MaxECE of up to about 1 / sqrt(m)."""
    if calibrated is not None:
        count = calibrated["count"]
        return (
            f"Draws were recalibrated on {calibrated['rows']}: with these, coverage of a half is off by"
            f" {0.5 / np.sqrt(count + 2):.3f} (one standard deviation). More rows: train.validation=0.2."
        )
    needed = int(np.ceil(1 / max_ece**2))
    if rows is None or rows < needed:
        return (
            f"Recalibrated draws (evaluate.calibrated=true) would need {needed} validation rows to be"
            f" better{'' if rows is None else f'; there are {rows}'}: train.validation=..., or a larger budget."
        )
    return RECALIBRATE


def _ranks(metrics: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    sbc = metrics.get("sbc", {})
    out = [k for k, inside in enumerate(sbc.get("inside", ())) if not inside]
    if not out:
        return
    shown = [names[k] + _shift(np.asarray(sbc["fractions"])[:, k]) for k in out]
    probability = binom.sf(len(out) - 1, len(sbc["inside"]), LEAVES_BAND)
    doubt = (
        f" So do the ranks of one in {1 / probability:.0f} perfect posteriors: use test=1000 to decide."
        if probability > LEAVES_BAND / 5
        else f" {UNDER}"
    )
    yield (f"The ranks of {_listed(shown)} leave the band of simulation-based calibration.{doubt}")


def _shift(fractions: np.ndarray) -> str:
    """Return in which direction ranks are shifted, if they clearly are."""
    shift = float(fractions.mean()) - 0.5
    if abs(shift) < 3 / np.sqrt(12 * len(fractions)):
        return ""
    return " (its draws are too low)" if shift > 0 else " (its draws are too high)"


def _trivial(metrics: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    errors = metrics.get("nrmse", {}).get("per_parameter") or ()
    explained = metrics.get("r2", {}).get("per_parameter") or [None] * len(errors)
    same = [
        name
        for name, error, share in zip(names, errors, explained, strict=False)
        if error is not None and error > TRIVIAL_NRMSE and (share is None or share < TRIVIAL_R2)
    ]
    if same:
        yield (
            f"The posterior knows no more than the prior about {_listed(same)} (NRMSE above {TRIVIAL_NRMSE})."
            " Either the outputs do not tell, or the estimator has not learned it. To try: longer training"
            " (train.steps=...); another summary network (estimator.arguments.summary); outputs that depend on it."
        )


def _failed(shares: Mapping[str, Any]) -> Iterator[str]:
    for stream, counts in shares.items():
        if counts.get("share", 0) > FAILED:
            purpose = "training" if stream == "train" else "test"
            yield (
                f"{counts['share']:.1%} of the {purpose} simulations are not ok, and are left out: this is the"
                " posterior given that the simulation succeeds. To try: `sbiflow failures` says why;"
                " simulate.timeout=...; a prior without the parameters that fail."
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
