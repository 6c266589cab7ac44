"""What libraries do not promise stands in one file for each of them, and is still there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

import estimators
from estimators.network import numba_private, product, torch_private

ROOT = Path(estimators.__file__).parent
LIBRARIES = ("torch", "numba", "zuko", "numpy", "scipy", "pydantic")
PLACES = {"torch": "network/torch_private.py", "numba": "network/numba_private.py"}


def private(dotted: str) -> bool:
    """Say whether a dotted name leads through a private part, `torch.ops` or `numba.core`."""
    parts = dotted.split(".")
    hidden = any(part.startswith("_") and not part.startswith("__") for part in parts)
    return hidden or parts[:2] in (["torch", "ops"], ["numba", "core"])


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def uses(source: str) -> Iterator[str]:
    """Yield the private names of the libraries that a module imports or reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [dotted(node)]
        else:
            continue
        yield from (n for n in names if n.split(".")[0] in LIBRARIES and private(n))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_private_names_stand_in_one_file_for_each_library(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for name in uses(path.read_text()):
        assert place == PLACES.get(name.split(".")[0]), f"{place} uses {name}"


def test_the_search_finds_private_names() -> None:
    found = set(uses("import torch\nfrom numba.core import x\ntorch._C.f()\ntorch.ops.a.b()"))
    assert {"numba.core.x", "torch._C.f", "torch.ops.a.b"} <= found
    assert not set(uses("import torch\nself._x\ntorch.nn.Linear\ntorch.__version__"))


def test_what_torch_does_not_promise_is_there() -> None:
    where = "see estimators/network/torch_private.py"
    assert torch_private.onednn_linear is not None, where
    h, weight, bias = torch.randn(40, 33), torch.randn(50, 33), torch.randn(50)
    ours = torch_private.onednn_linear(h, weight, bias)
    torch.testing.assert_close(ours, torch.nn.functional.linear(h, weight, bias))
    assert torch_private.function_transforms_are_active() is False, where
    seen = []
    torch.func.vmap(lambda v: (seen.append(torch_private.function_transforms_are_active()), v)[1])(
        h
    )
    assert seen == [True], where


def test_without_them_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "onednn_linear", None)
    h, weight = torch.randn(40, 33), torch.randn(50, 33)
    assert torch.equal(product.linear(h, weight), torch.nn.functional.linear(h, weight))
    monkeypatch.setattr(product, "function_transforms_are_active", lambda: True)
    assert not product.is_single_precision_matrix(h)


def test_numba_keeps_and_survives_without_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def double(values: np.ndarray) -> np.ndarray:
        return 2 * values

    kept = numba_private.compiled(double, {})
    assert isinstance(kept._cache, numba_private._Cache), "see estimators/network/numba_private.py"
    assert kept(np.ones(2)).tolist() == [2.0, 2.0]

    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(numba.core.caching.FunctionCache, "save_overload", full)
    assert numba_private.compiled(lambda v: 3 * v, {})(1) == 3

    def nowhere(*arguments: object) -> None:
        raise RuntimeError("cannot cache function")

    monkeypatch.setattr(numba_private, "_Cache", nowhere)
    assert numba_private.compiled(lambda v: 4 * v, {})(1) == 4
