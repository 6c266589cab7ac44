"""What the source of a model is, and what of it counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import simulators
from simulators import Program
from simulators.source import Source

MODEL = '''"""A model."""

import numpy as np
from simulators import Uniform, simulator


@simulator(prior={"a": Uniform(0, 1)})
def model(a, rng):
    """Return a and noise."""
    return {"x": np.array([a, 2 * a]) + rng.normal(size=2)}  # both
'''


def digest(folder: Path, text: str) -> str:
    (folder / "model.py").write_text(text)
    return simulators.load(f"{folder / 'model.py'}:model").source_digest()


def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path) -> None:
    first = digest(tmp_path, MODEL)
    assert (
        digest(tmp_path, MODEL.replace("# both", "# two of them").replace("2 * a", "2*a")) == first
    )
    assert digest(tmp_path, MODEL.replace("    return {", "\n    # here\n    return {")) == first
    assert (
        digest(tmp_path, MODEL.replace("Return a and noise.", "Both.").partition("\n")[2]) == first
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * a", "3 * a"),
        ("2 * a", "2.0 * a"),
        ("Uniform(0, 1)", "Uniform(0, 2)"),
        ("import numpy as np", "import numpy as np\nnp.seterr(all='raise')"),
        ("rng.normal(size=2)", "rng.normal(size=2) * (1 if 'a' else 0)"),
    ],
)
def test_code_counts(tmp_path: Path, old: str, new: str) -> None:
    assert digest(tmp_path, MODEL) != digest(tmp_path, MODEL.replace(old, new))


def test_a_file_that_is_no_python_counts_by_its_bytes() -> None:
    one, other = Source({"model.c": "int a; // a\n"}), Source({"model.c": "int a; // b\n"})
    assert not one.same(other)
    assert one.digest != other.digest


def test_files_beside_it_that_it_imports_belong_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_helper.py").write_text("from odd_deeper import factor\n")
    (tmp_path / "odd_deeper.py").write_text("factor = 2\n")
    (tmp_path / "other.py").write_text("unused = 1\n")
    text = MODEL.replace("import numpy as np", "import numpy as np\nimport odd_helper")
    first = digest(tmp_path, text)
    (tmp_path / "other.py").write_text("unused = 2\n")
    assert digest(tmp_path, text) == first
    (tmp_path / "odd_deeper.py").write_text("factor = 3\n")
    assert digest(tmp_path, text) != first


def test_a_package_is_its_modules_that_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "odd_package"
    package.mkdir()
    texts = {
        "__init__.py": "",
        "model.py": "from . import physics\nfrom odd_package.units import metre\n" + MODEL,
        "physics.py": "from .units import metre\n",
        "units.py": "metre = 1\n",
        "plots.py": "import matplotlib\n",
    }
    for name, text in texts.items():
        (package / name).write_text(text)
    (tmp_path / "numpy_like.py").write_text("")  # beside the package, as in site-packages
    source = simulators.load("odd_package.model:model").source()
    # `import odd_package.units` runs the package's own file too
    assert set(source.files) == {
        f"odd_package/{name}" for name in ("__init__.py", "model.py", "physics.py", "units.py")
    }


def test_installed_files_beside_it_do_not_belong_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "numpy.py").write_text("")
    (folder / "model.py").write_text(MODEL)
    assert set(simulators.load(f"{folder / 'model.py'}:model").source().files) == {"model.py"}


def test_of_a_built_in_simulator_the_version_counts() -> None:
    for name in ("two_moons", "slcp"):
        model = simulators.load(name)
        assert model.source() == Source({"version": model.version})


def test_a_program_is_the_files_of_its_command(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.py").write_text(f"print('{folder}')\n")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    command = [sys.executable, "one/run.py", "two/run.py", "binary", "{parameters}", "{output}"]
    prior = {"a": simulators.Uniform(0, 1)}
    files = Program(command, prior, directory=str(tmp_path)).source().files
    assert {name: text for name, text in files.items() if "run" in name} == {
        "run.py": "print('one')\n",
        "2/run.py": "print('two')\n",
    }
    assert len(files["binary"]) == 64


def test_data_files_belong_to_it(tmp_path: Path) -> None:
    text = MODEL.replace("Uniform(0, 1)}", 'Uniform(0, 1)}, files=["table.csv"]')
    with pytest.raises(ValueError, match=r"the data file 'table.csv' is not in"):
        digest(tmp_path, text)
    (tmp_path / "table.csv").write_text("1\n2\n")
    first = digest(tmp_path, text)
    assert digest(tmp_path, text) == first
    (tmp_path / "table.csv").write_text("1\n3\n")
    assert digest(tmp_path, text) != first
