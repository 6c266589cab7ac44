"""Preprocessing by name: its steps, and an artefact that takes raw outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import estimators
from estimators.preprocessing import PROFILES, TABLE, Crop, Log, Stack, steps_of
from estimators.summary.preprocessed import summary_of

SHAPES = {"growth_curve": (20,), PROFILES[0]: (1000,), PROFILES[1]: (1000,)}
PARTS = {
    "growth": {"network": "recurrent", "inputs": ["growth_curve"], "arguments": {"outputs": 4}},
    "profiles": {
        "network": "temporal_transformer",
        "inputs": ["profiles"],
        "arguments": {"width": 8, "heads": 2, "blocks": 1, "patch": 20},
    },
}
SETTINGS = {"summary": "fusion", "summary_arguments": {"parts": PARTS}}


def raw(rows: int = 32) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Parameters of several orders of magnitude and outputs of the tumour's shapes."""
    rng = np.random.default_rng(0)
    theta = 10 ** rng.uniform(-5, 0, (rows, 2))
    x = {name: rng.gamma(1.0, 5.0, (rows, *shape)) for name, shape in SHAPES.items()}
    return theta, x


@pytest.mark.parametrize("name", TABLE)
def test_shapes_are_those_of_the_values(name: str) -> None:
    shapes = dict(SHAPES)
    x = {key: torch.tensor(values) for key, values in raw()[1].items()}
    kept = {key: values.clone() for key, values in x.items()}
    after = dict(x)
    for step in steps_of(name):
        shapes, after = step.shapes(shapes), step(after)
    assert {key: tuple(values.shape[1:]) for key, values in after.items()} == shapes
    assert all(torch.equal(x[key], kept[key]) for key in x)


def test_the_papers_preprocessing() -> None:
    x = {key: torch.tensor(values) for key, values in raw()[1].items()}
    after = dict(x)
    for step in steps_of("tumor_spheroid"):
        after = step(after)
    profiles = after["profiles"]
    assert profiles.shape == (32, 300, 3)
    assert torch.equal(profiles[..., 0], x[PROFILES[0]][:, :300])
    assert torch.equal(profiles[..., 1], x[PROFILES[1]][:, :300])
    assert torch.equal(profiles[5, :, 2], torch.linspace(0, 1, 300))
    assert torch.equal(after["growth_curve"], x["growth_curve"])


def test_crop_takes_the_mask_along_and_is_no_copy() -> None:
    x = {"a": torch.rand(3, 9), "a_mask": torch.ones(3, 9), "b": torch.rand(3, 9)}
    cut = Crop(("a",), 4)
    assert {k: v.shape[1] for k, v in cut(x).items()} == {"a": 4, "a_mask": 4, "b": 9}
    assert cut(x)["a"].data_ptr() == x["a"].data_ptr()
    assert cut.shapes({"a": (9,), "a_mask": (9,), "b": (9,)}) == {
        "a": (4,),
        "a_mask": (4,),
        "b": (9,),
    }
    assert Crop(("a",), 20)(x)["a"].shape == (3, 9)


def test_log_of_zero_is_that_of_the_floor() -> None:
    values = Log("a", 1e-6)({"a": torch.tensor([[0.0, 1.0, -5.0, 100.0]])})["a"]
    torch.testing.assert_close(values, torch.tensor([[-6.0, 0.0, -6.0, 2.0]]), atol=1e-5, rtol=0)


def test_profiles_and_curve_have_one_mean_and_scale_each() -> None:
    x = {key: torch.tensor(values).float() for key, values in raw()[1].items()}
    network = summary_of(SHAPES, "tumor_spheroid", "fusion", {"parts": PARTS})
    network.fit(x)
    standards = {key: v for key, v in network.state_dict().items() if key.endswith("standard.mean")}
    assert sorted(v.shape for v in standards.values()) == [(1,), (3,)]
    ecm = x[PROFILES[0]][:, :300]
    profiles = next(v for v in standards.values() if len(v) == 3)
    torch.testing.assert_close(profiles[0], ecm.mean(), atol=1e-4, rtol=1e-4)


def test_a_posterior_takes_raw_outputs_with_torch_alone(tmp_path: Path) -> None:
    theta, x = raw()
    estimator = estimators.create(
        "cmpe",
        theta,
        x,
        low=[1e-5] * 2,
        high=[1.0] * 2,
        scales=["log"] * 2,
        preprocessing="tumor_spheroid",
        **SETTINGS,
    )
    estimators.save(tmp_path / "posterior", estimator, {})
    assert json.loads((tmp_path / "posterior" / "posterior.json").read_text())["preprocessing"]
    np.savez(tmp_path / "x.npz", **x)
    program = (
        "import sys, numpy, estimators\n"
        "x = dict(numpy.load(sys.argv[1] + '/x.npz'))\n"
        "draws = estimators.load(sys.argv[1] + '/posterior').sample(x, 5, seed=0)\n"
        "numpy.save(sys.argv[1] + '/draws.npy', draws.numpy())\n"
        "assert not {'pipeline', 'simulators', 'zarr', 'ray'} & set(sys.modules)\n"
    )
    root = Path(estimators.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=root)
    draws = np.load(tmp_path / "draws.npy")
    np.testing.assert_allclose(draws, estimator.posterior().sample(x, 5, seed=0), rtol=1e-5)
    assert ((draws >= 1e-5) & (draws <= 1)).all()


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(LookupError, match="did you mean 'tumor_spheroid'"):
        steps_of("tumour_spheroid")
    with pytest.raises(ValueError, match=r"tumor_spheroid.*Stack.*'a'"):
        summary_of({"a": (3,)}, "tumor_spheroid", "identity", {})


def test_stack_joins_in_the_order_of_the_names() -> None:
    stack = Stack("s", ("b", "a"))
    x = {"a": torch.zeros(2, 3), "b": torch.ones(2, 3), "c": torch.ones(2)}
    assert torch.equal(stack(x)["s"][0, :, :2], torch.tensor([[1.0, 0.0]] * 3))
    assert stack.shapes({"a": (3,), "b": (3,), "c": ()}) == {"c": (), "s": (3, 3)}
