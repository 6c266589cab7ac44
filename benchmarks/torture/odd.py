"""Odd simulators, each run through the real stage with one worker and with two: equal, or a clear error.

Those in `odd_simulators.py` give x = a + 2 b unless listed as free; those of `tests/simulators/odd.py` say
themselves what is expected of them.
"""

from __future__ import annotations

import importlib.util
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

import simulators
from benchmarks.torture.command import one
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from benchmarks.torture.base import Base
    from benchmarks.torture.trial import Trial

BUDGET = 40
OWN = Path(__file__).with_name("odd_simulators.py")
OTHERS = Path(__file__).parents[2] / "tests" / "simulators" / "odd.py"
SAME, FREE, LOSSY = "same", "free", "lossy"
EXPECTED: dict[
    str, str
] = {  # every row as it was simulated; only equal with all workers; to be refused
    SAME: """view view_of_slice changes_later forks forks_and_leaves changes_directory environment signals alarm
        threads boolean big_endian fortran_order writes_stdout list_ reads_stdin read_only umask limits scalar""",
    FREE: """aliases_parameters exits exits_hard raises_interrupt complex_ longdouble objects strings huge half
        nothing names_depend shape_depends closes_files global_seed kills_itself mask_name recursion
        unicode_error""",
    LOSSY: "masked",
}


@lru_cache(maxsize=1)
def every() -> dict[tuple[Path, str], str]:
    """Return what is expected of each odd simulator, by file and name."""
    found = {(OWN, name): kind for kind, names in EXPECTED.items() for name in names.split()}
    if OTHERS.exists():
        found |= {(OTHERS, name): kind for name, kind in _module(OTHERS).EXPECTED.items()}
    return found


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("_torture_odd", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def judge(base: Base, trial: Trial, number: int) -> None:
    """Simulate with one worker and with two; compare digests, and rows with what they should be."""
    (file, name), expected = list(every().items())[number % len(every())]
    trial.what, trial.how, trial.where = name, "1 and 2 workers", file.name
    shutil.rmtree(base.disk / "tmp", ignore_errors=True)
    (base.disk / "tmp").mkdir(parents=True)
    found = [_simulate(base, trial, f"{file}:{name}", expected, workers) for workers in (1, 2)]
    if found[0] != found[1]:
        trial.bad("silent", "two workers give other rows than one", str(found))
    if expected in ("refused", LOSSY) and any(found):
        trial.bad("silent", "what no store can hold is not refused", str(found))


def _simulate(base: Base, trial: Trial, source: str, expected: str, workers: int) -> str:
    """Return the digest, "" where the command failed."""
    run = base.disk / f"odd-{workers}"
    shutil.rmtree(run, ignore_errors=True)
    simulate = {
        **{"workers": workers, "cpus": 0.5, "leases": 4},
        **{"term": 2, "timeout": 20, "block": 16},
    }
    values = {"name": "odd", "simulator": source, "budget": BUDGET, "test": 0, "max_failed": 1.0}
    (base.disk / "odd.yml").write_text(yaml.safe_dump(values | {"simulate": simulate}))
    words = ["simulate", "-c", str(base.disk / "odd.yml"), "-o", str(run), "--leases", "--json"]
    done = one(*words, timeout=120, real=("workers",))
    if not trial.judge(done) or done.code:
        trial.errors += [done.message] if done.clear else []
        return ""
    verified = one("store", "verify", "-o", str(run))
    if verified.code:
        trial.bad("silent", "store verify finds damage", verified.message)
    try:
        return _compared(run, trial, source, expected)
    except (PipelineError, ValueError) as error:
        trial.bad("stuck", "the store cannot be read", str(error))
        return ""
    finally:
        shutil.rmtree(run, ignore_errors=True)


def _compared(run: Path, trial: Trial, source: str, expected: str) -> str:
    from pipeline.store import Store, to_numpy

    store = Store.open(run / "store" / "train")
    ids, theta, x, _ = to_numpy(store, BUDGET)
    if expected.startswith(SAME):
        given = x["x"].reshape(len(ids), -1).astype(float)
        wanted = _truth(source, theta, ids, expected)
        right = np.isclose(given[:, : wanted.shape[1]], wanted).all(axis=1)
        if len(ids) < BUDGET or not right.all():
            said = f"{right.sum()} of {len(ids)} rows are what was simulated, {BUDGET} asked for"
            trial.bad("silent", "wrong rows", said)
    return store.digest(BUDGET)


def _truth(source: str, theta: np.ndarray, ids: np.ndarray, expected: str) -> np.ndarray:
    """Return what x should be, (n, k)."""
    if source.startswith(str(OWN)):
        return theta @ np.array([[1.0], [2.0]])
    from pipeline.simulate.spec import SimulationSpec

    plain = simulators.load(f"{OTHERS}:{expected.replace(SAME, 'plain').replace(' ', '_')}")
    simulation = SimulationSpec(plain, 0, 0, 16 if plain.batched else 1, None)
    groups = np.split(ids, np.flatnonzero(np.diff(ids // simulation.key_size)) + 1)
    return np.concatenate([simulation.run(group).x["x"] for group in groups])
