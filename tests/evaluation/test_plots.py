"""Every plot draws for one and for many parameters, and equal data give equal pictures."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation import plots, simulation_plots


def pictures(dims: int) -> dict[str, str]:
    rng = np.random.default_rng(0)
    theta, draws = rng.normal(size=(20, dims)), rng.normal(size=(20, 50, dims))
    names = [f"p<{d}>" for d in range(dims)]
    counts = {"train": {"ok": 90, "failed": 7, "missing": 3}, "test": {"ok": 0, "failed": 0}}
    curves = [{"step": i, "train": 1 / (i + 1), "validation": None} for i in range(5)]
    bad = {"failed": theta[:1], "timeout": theta[1:3]}
    drawn = {
        "recovery": plots.recovery(theta, draws, names),
        "sbc": plots.sbc_ecdf(rng.random((20, dims)), names),
        "pairs": plots.pairs(draws[0], names, theta[0], draws[1]),
        "alone": plots.pairs(draws[0], names, theta[0]),
        "training": plots.training(curves),
        "distribution": plots.distribution(rng.random(20), "C2ST", 0.5),
        "outcomes": simulation_plots.outcomes(counts),
        "seconds": simulation_plots.seconds({"ok": rng.random(90), "failed": np.zeros(2)}),
        "nothing": simulation_plots.seconds({"ok": np.zeros(3)}),
        "failures": simulation_plots.failures(theta, bad, names),
    }
    return {name: plots.svg(figure) for name, figure in drawn.items()}


@pytest.mark.parametrize("dims", [1, 2, 14])
def test_every_picture_is_whole(dims: int) -> None:
    for name, svg in pictures(dims).items():
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg"), name
        assert len(list(root.iter())) > 20, name


def test_equal_data_give_equal_pictures() -> None:
    assert pictures(2) == pictures(2)


def test_the_most_telling_parameter_comes_first() -> None:
    rng = np.random.default_rng(1)
    ok, bad = rng.normal(size=(500, 3)), rng.normal(size=(50, 3)) + np.array([0, 0, 3])
    figure = simulation_plots.failures(ok, {"failed": bad}, ["a", "b", "c"])
    left, right = figure.axes
    assert left.get_xlabel() == "c"
    assert right.get_lines()[0].get_label() == "c"
    assert right.get_lines()[0].get_ydata()[-1] > 0.5


def test_long_names_are_broken_behind_underscores_and_lose_nothing() -> None:
    name = "initial_radius_of_the_spheroid"
    lines = plots.wrapped(name).split("\n")
    assert "".join(lines) == name
    assert len(lines) > 1
    assert all(line.endswith("_") for line in lines[:-1])
    assert plots.wrapped("theta_1") == "theta_1"
    assert plots.title("theta_1", "R² = 0.9") == "theta_1,  R² = 0.9"
    assert plots.title(name, "R² = 0.9") == f"{name}\nR² = 0.9"
    assert plots.title(f"log10 {name}", "R² = 0.9").split("\n")[1:] == ["spheroid", "R² = 0.9"]
    assert "" not in plots.title(name, "").split("\n")
