"""A user's own network, summary network and preprocessing, by module and by file."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

import estimators
from estimators import testing
from estimators.network import TABLE as NETWORKS
from estimators.network import free_form_network
from estimators.preprocessing import steps_of
from estimators.summary import summary_network

PARTS = """
    from typing import Annotated

    import torch
    from pydantic import Field
    from torch import nn

    from estimators.network.base import FreeForm
    from estimators.summary.base import Summary


    class Net(FreeForm):
        def __init__(self, size, context, time, *, units: Annotated[int, Field(ge=2)] = 8):
            super().__init__(size, context, time)
            self.units = units
            self.layers = nn.Sequential(
                nn.Linear(size + context + time, units), nn.Tanh(), nn.Linear(units, size)
            )

        @property
        def row_memory(self):
            return 3 * self.units

        def forward(self, noisy, context, time, masks=None):
            return self.layers(torch.cat([noisy, context, time], dim=-1))


    class Mean(Summary):
        def __init__(self, shapes, *, outputs: int = 3):
            super().__init__()
            self.names, self.width = sorted(shapes), outputs
            self.head = nn.Linear(len(self.names), outputs)

        def fit(self, x):
            pass

        def forward(self, x):
            means = [x[name].clamp(-100, 100).flatten(1).mean(1) for name in self.names]
            return self.head(torch.stack(means, dim=1))


    class Scale:
        def shapes(self, shapes):
            return shapes

        def __call__(self, x):
            return {name: 2 * values for name, values in x.items()}


    class Careless(Scale):
        def __call__(self, x):
            for values in x.values():
                values.mul_(2)
            return x


    class Centred(Scale):
        def __call__(self, x):
            return {name: values - values.mean(0) for name, values in x.items()}


    class Deaf(Net):
        def forward(self, noisy, context, time, masks=None):
            return super().forward(noisy, context, 0 * time)


    steps = [Scale(), Scale()]
    careless, centred, nothing = Careless(), Centred(), 3
"""
SHAPES = {"counts": (3,), "trace": (4, 2)}


@pytest.fixture(params=["file", "module"])
def parts(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what stands before the colon: a file, or a module."""
    stem = f"parts_{request.param}"
    path = tmp_path / f"{stem}.py"
    path.write_text(textwrap.dedent(PARTS))
    monkeypatch.syspath_prepend(str(tmp_path))
    return str(path) if request.param == "file" else stem


def test_own_parts_keep_their_laws(parts: str) -> None:
    testing.check_network(f"{parts}:Net", units=5)
    testing.check_summary(f"{parts}:Mean", SHAPES)
    testing.check_preprocessing(f"{parts}:steps", SHAPES)


def test_an_estimator_of_own_parts_survives_a_fresh_process(parts: str) -> None:
    testing.an_artefact_survives_a_fresh_process(
        "cmpe",
        network=f"{parts}:Net",
        network_arguments={"units": 6},
        summary=f"{parts}:Mean",
        preprocessing=f"{parts}:steps",
    )


def test_an_estimator_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from estimators.npse import NPSE\n\n\nclass Mine(NPSE):\n    pass\n")
    assert testing.make(f"{file}:Mine", width=4, members=1).settings.width == 4
    with pytest.raises(LookupError, match="did you mean 'Mine'"):
        estimators.check(f"{file}:Mien", {})


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    for factor in (2, 3):
        text = textwrap.dedent(PARTS).replace("2 * values", f"{factor} * values")
        file.write_text(text)
        assert steps_of(f"{file}:steps")[0]({"a": 1}) == {"a": factor}


def test_bounds_of_own_settings_are_those_of_the_signature(parts: str) -> None:
    with pytest.raises(ValueError, match=r"units = 1: .*greater than or equal to 2"):
        free_form_network(f"{parts}:Net", 2, 3, 4, {"units": 1})
    with pytest.raises(TypeError, match=r"'unit'.*did you mean 'units'"):
        free_form_network(f"{parts}:Net", 2, 3, 4, {"unit": 3})


@pytest.mark.parametrize(
    ("load", "attribute", "error", "message"),
    [
        (lambda name: free_form_network(name, 2, 3, 4, {}), "Mean", TypeError, "FreeForm"),
        (lambda name: summary_network(name, SHAPES, {}), "Net", TypeError, "Summary"),
        (steps_of, "nothing", TypeError, "is no step"),
        (steps_of, "stesp", LookupError, "did you mean 'steps'"),
    ],
)
def test_something_else_behind_the_name(
    parts: str, load: Any, attribute: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(f"{parts}:{attribute}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"gone\.py' cannot be read"):
        steps_of(f"{tmp_path}/gone.py:steps")
    (tmp_path / "broken.py").write_text("import no_such_thing")
    with pytest.raises(ValueError, match=r"broken\.py cannot be imported.*no_such_thing"):
        steps_of(f"{tmp_path}/broken.py:steps")


def test_laws_catch_what_is_wrong(parts: str) -> None:
    with pytest.raises(AssertionError, match="the time has no effect"):
        testing.check_network(f"{parts}:Deaf")
    with pytest.raises(AssertionError, match="was changed"):
        testing.check_preprocessing(f"{parts}:careless", SHAPES)
    with pytest.raises(AssertionError, match="depends on the others"):
        testing.check_preprocessing(f"{parts}:centred", SHAPES)
    with pytest.raises(AssertionError, match="padding of 'a' counts"):
        testing.check_summary(f"{parts}:Mean", {"a": (9,), "a_mask": (9,)})


FOR_IMAGES = {"image_unet", "patch_transformer"}  # see test_network.py


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - FOR_IMAGES))
def test_built_in_networks_keep_the_laws(name: str) -> None:
    testing.check_network(name, size=9, width=8)


@pytest.mark.parametrize("name", ["recurrent", "deepset", "set_transformer", "cnn"])
def test_built_in_summaries_keep_the_laws(name: str) -> None:
    testing.check_summary(name, {"a": (9, 2), "a_mask": (9,)}, outputs=5)
