"""Simulators without a module: their source is what they use, and other processes get them by value."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest

import simulators
from simulators import Simulator, Uniform, simulator


def made(factor: float = 2.0, inner: Callable[[float], float] = float) -> Simulator:
    table = np.arange(3.0)

    @simulator(prior={"a": Uniform(0, 1)})
    def model(a: float, rng: Any) -> Any:
        return factor * inner(a) + table + rng.normal(size=3)

    local: Simulator = model.without_address()
    return local


def test_the_source_has_what_the_model_uses() -> None:
    source = made().source()
    assert (
        "factor * inner(a)" in source.files[next(name for name in source.files if "model" in name)]
    )
    assert source.files["factor ="] == "2.0"
    assert source.files["table ="].startswith("# array float64 (3,)")
    assert source.same(made().source())
    assert not source.same(made(3.0).source())


def test_a_helper_that_changes_changes_the_source() -> None:
    def double(a: float) -> float:
        return 2 * a

    def triple(a: float) -> float:
        return 3 * a

    assert not made(inner=double).source().same(made(inner=triple).source())


def test_another_process_gets_it_by_value() -> None:
    local = made()
    assert local.is_local
    content = cloudpickle.dumps(local)
    again = pickle.loads(content)
    assert np.array_equal(again(a=0.5, seed=1)["x"], local(a=0.5, seed=1)["x"])
    assert again.source().same(local.source())
    assert again.identity() == local.identity()


def test_it_is_loaded_by_name_where_it_is_defined() -> None:
    local = made()
    name = simulators.define("model", lambda: local)
    loaded = simulators.load(name)
    assert (loaded.name, loaded.address) == ("model", "")
    assert loaded.source().same(local.source())
    with pytest.raises(LookupError, match="'absent' was defined in a notebook or a script"):
        simulators.load("__main__:absent")


def test_a_file_imports_files_of_its_folder(tmp_path: Any) -> None:
    (tmp_path / "helper_of_mine.py").write_text("def twice(a):\n    return 2 * a\n")
    (tmp_path / "model_of_mine.py").write_text(
        "from helper_of_mine import twice\nfrom simulators import Uniform, simulator\n\n"
        "@simulator(prior={'a': Uniform(0, 1)})\ndef model(a):\n    return twice(a)\n"
    )
    code = (
        f"import simulators; m = simulators.load({str(tmp_path / 'model_of_mine.py') + ':model'!r}); "
        "print(m(a=0.25)['x'], sorted(m.source().files))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[0] == "0.5"
    assert "helper_of_mine.py" in done.stdout
