"""The YAML of docs/simulators.md is what `load` takes, and its table names every reference.

`tests/test_document_examples.py` runs the Python of the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

import simulators

PAGE = Path(__file__).parents[2] / "docs" / "simulators.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_yaml_blocks_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(blocks("python")[0])
    (tmp_path / "model.py").write_text(
        "import json, sys, numpy as np\n"
        "given = json.load(open(sys.argv[1]))\n"
        "np.savez(sys.argv[2], x=given['parameters']['mu'])\n"
    )
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    for block in blocks("yaml"):
        config = YAML(typ="safe", pure=True).load(block)
        asked = config["simulator"]
        made = simulators.load(asked["name"], prior=config["prior"], **asked["arguments"])
        theta = made.prior.sample(np.random.default_rng(0), 1)[0]
        assert made.simulate(theta, np.random.default_rng(1))["x"].size in (1, 100)


def test_the_table_of_built_in_simulators_is_complete():
    page = PAGE.read_text()
    for name in ("gaussian_linear", "gaussian_mixture", "inverse_kinematics", "slcp", "two_moons"):
        made = simulators.load(name)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        for reference in made.references:
            assert f"`{reference}`" in row
