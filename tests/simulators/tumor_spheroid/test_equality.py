"""Our runs equal the original's in distribution; the criteria are those of `tumor_equality`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tumor_equality import (
    OUTPUTS,
    POINTS,
    AtDefault,
    OverPoints,
    compare_default,
    compare_points,
    draw,
    energy_p,
    features,
    halves,
    original_runs,
    our_runs,
    z_scores,
)

REPORT = Path("runs/tumor_equality")


def check_default(found: AtDefault, max_smd: float, rms_smd: float) -> None:
    assert max(found.max_smd.values()) <= max_smd
    assert max(found.rms_smd.values()) <= rms_smd
    assert found.energy_p >= 0.01


def check_points(found: OverPoints) -> None:
    p = np.array(found.energy_p)
    assert (p < 0.05).sum() <= 5
    assert (p < 0.01).sum() <= 2
    assert p.min() >= 0.0005
    assert found.largest_z <= 6
    assert max(found.combined_z.values()) <= 3.5


def test_default_point() -> None:
    found = compare_default(our_runs(0, 128), original_runs(0), np.random.default_rng(0))
    check_default(found, 0.6, 0.4)
    assert found.log_sd_ratio <= 0.5


def test_some_prior_points() -> None:
    check_points(compare_points((2, 3, 13, 15, 20, 24), 24, np.random.default_rng(1)))


@pytest.mark.slow
def test_all_prior_points() -> None:
    check_points(compare_points(POINTS[1:], 64, np.random.default_rng(2)))


def test_halves_of_the_originals_runs_pass() -> None:
    check_default(halves(np.random.default_rng(3)), 0.9, 0.6)


@pytest.mark.parametrize(
    ("wrong", "factor"),
    [("extra_cellular_matrix_profile", 1.1), ("proliferation_profile", 1.3)],
)
def test_a_change_of_one_profile_is_found(wrong: str, factor: float) -> None:
    ours, original = our_runs(0, 64), original_runs(0)
    ours[wrong] = factor * ours[wrong]
    rng = np.random.default_rng(4)
    assert energy_p(features(ours), features(original), rng) < 0.01


def test_another_division_rate_is_found() -> None:
    ours, original = our_runs(24, 24), original_runs(13)
    assert energy_p(features(ours), features(original), np.random.default_rng(5)) < 0.001
    assert np.abs(z_scores(ours, original)).max() > 6


@pytest.mark.slow
def test_report_has_one_picture_per_output() -> None:
    """Pictures for people, in the folder `runs/tumor_equality`: bands of both at every point."""
    files = draw(REPORT, POINTS, 64)
    assert [path.stem for path in files] == list(OUTPUTS)
    assert min(path.stat().st_size for path in files) > 50_000
