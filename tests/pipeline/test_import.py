"""Ready-made simulations from files: by real processes from import to draws, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.imported.stage import read_pairs
from pipeline.store import Store, to_numpy

N = 300
PRIOR = "a: {name: uniform, low: -1, high: 1}\nb: {name: uniform, low: -1, high: 1}\n"


def sbiflow(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """theta ~ U(-1, 1)^2 and x = theta + noise, in every format; row 7 holds NaN."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    theta = rng.uniform(-1, 1, (N, 2))
    x = theta + 0.1 * rng.normal(size=theta.shape)
    x[7, 0] = np.nan
    np.save(folder / "theta.npy", theta)
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", signal=x, total=x.sum(axis=1).astype("f4"))
    np.savez(folder / "both.npz", theta=theta, names=np.array(["a", "b"]), x=x)
    np.savetxt(folder / "x.csv", x, delimiter=",", fmt="%.17g")
    np.savetxt(folder / "theta.csv", theta, delimiter=",", fmt="%.17g", header="a,b", comments="")
    (folder / "prior.yaml").write_text(PRIOR)
    return folder


@pytest.fixture(scope="module")
def imported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("imported") / "run"
    words = ["--test", "40", "--names", "a,b", "train.steps=60", "evaluate.draws=50"]
    sbiflow("import", "-o", run, "--theta", data / "theta.npy", "--x", data / "x.npz", *words)
    return run


def test_every_row_is_in_one_stream_and_rows_with_nan_are_listed(data, imported):
    theta, x = np.load(data / "theta.npy"), np.load(data / "x.npy")
    stores = {name: Store.open(imported / "store" / name) for name in ("train", "test")}
    assert {name: len(store.ids()) for name, store in stores.items()} == {"train": 260, "test": 40}
    rows = [store.rows(store.ids()) for store in stores.values()]
    found = np.concatenate([np.c_[part.theta, part.x["signal"]] for part in rows])
    both = np.c_[theta, x]
    assert np.array_equal(np.sort(found, axis=0), np.sort(both, axis=0), equal_nan=True)
    (failure,) = [row for store in stores.values() for row in store.failures()]
    assert failure.message == "NaN or infinity in the outputs of row 7"
    assert np.array_equal(failure.theta, theta[7])
    assert "row 7" in sbiflow("failures", "-o", imported).stdout


def test_all_stages_work_on_an_imported_run(data, imported, tmp_path):
    sbiflow("train", "-o", imported, "track.live=false")
    metrics = json.loads(sbiflow("evaluate", "-o", imported, "--json").stdout)["metrics"]
    assert metrics["rmse"]["mean"] < 1
    assert "no reference posterior" in metrics["c2st"]["note"]
    np.savez(tmp_path / "obs.npz", signal=np.zeros(2), total=np.float32(0))
    out = tmp_path / "draws.npz"
    sbiflow("sample", "-o", imported, "--obs", tmp_path / "obs.npz", "--out", out, "-n", "20")
    assert np.load(out)["theta"].shape == (20, 2)
    sbiflow("report", "-o", imported)
    assert "imported" in (imported / "report.html").read_text()
    status = json.loads(sbiflow("status", "-o", imported, "--json").stdout)
    assert (status["done"], status["invalid"], status["missing"]) == (260, 1, 0)
    sbiflow("simulate", "-o", imported)  # nothing to do


def test_an_imported_run_has_nothing_to_simulate(imported):
    before = (imported / "config.yml").read_bytes()
    done = sbiflow("simulate", "-o", imported, "budget=1000", code=2)
    assert "budget=1000" in done.stderr
    assert "260 imported simulations to train and no simulator to run more" in done.stderr
    assert "no simulator" in sbiflow("simulate", "-o", imported, "--retry", "all", code=2).stderr
    assert "ready-made" in sbiflow("plan", "-o", imported, code=2).stderr
    assert (imported / "config.yml").read_bytes() == before


def test_a_repeat_changes_nothing_and_other_pairs_are_refused(data, imported, tmp_path):
    words = ["import", "-o", imported, "--test", "40", "--names", "a,b", "--x", data / "x.npz"]
    digest = Store.open(imported / "store" / "train").digest()
    sbiflow(*words, "--theta", data / "theta.npy")
    assert Store.open(imported / "store" / "train").digest() == digest
    np.save(tmp_path / "other.npy", np.load(data / "theta.npy") + 1)
    assert "content" in sbiflow(*words, "--theta", tmp_path / "other.npy", code=2).stderr
    assert Store.open(imported / "store" / "train").digest() == digest


def test_what_is_refused_leaves_nothing(data, tmp_path):
    words = ["import", "-o", tmp_path / "run", "--theta", data / "theta.npy", "--x", data / "x.npy"]
    assert "test=300: valid is 0 <= test < 300" in sbiflow(*words, "--test", "300", code=2).stderr
    assert "leave 200 to train" in sbiflow(*words, "budget=250", code=2).stderr
    assert "unknown key" in sbiflow(*words, "trian.steps=3", code=2).stderr
    assert not (tmp_path / "run").exists()


def test_every_format_gives_the_same_pairs(data):
    first = read_pairs(data / "theta.npy", data / "x.npy", ["a", "b"])
    for theta, x in (("theta.csv", "x.csv"), ("both.npz", "both.npz"), ("theta.csv", "x.npy")):
        other = read_pairs(data / theta, data / x)
        assert other.names == ("a", "b")
        assert np.array_equal(other.theta, first.theta)
        assert np.array_equal(other.x["x"], first.x["x"], equal_nan=True)


def test_what_was_exported_can_be_imported(data, imported, tmp_path):
    sbiflow("store", "export", "-o", imported, "--out", tmp_path / "all.npz")
    pairs = read_pairs(tmp_path / "all.npz", tmp_path / "all.npz")
    _, theta, x, _ = to_numpy(Store.open(imported / "store" / "train"))
    assert pairs.names == ("a", "b")
    assert np.array_equal(pairs.theta, theta)
    assert pairs.x.keys() == x.keys()
    assert all(np.array_equal(pairs.x[name], x[name]) for name in x)


def test_a_prior_gives_names_and_bounds_and_is_kept(data, tmp_path):
    words = ["--theta", data / "theta.npy", "--x", data / "x.npy"]
    sbiflow("import", "-o", tmp_path / "run", *words, "--prior", data / "prior.yaml")
    identity = Store.open(tmp_path / "run" / "store" / "train").identity
    assert identity["names"] == ["a", "b"]
    assert identity["prior"]["a"] == {"name": "uniform", "low": -1.0, "high": 1.0}
    spec = {name: {"name": "uniform", "low": 0, "high": 1} for name in ("a", "b")}
    with pytest.raises(UsageError, match=r"theta lies outside the prior in .* valid is 0 to 1"):
        read_pairs(data / "theta.npy", data / "x.npy", prior=spec)
    with pytest.raises(UsageError, match=r"parameter names: --names has \['b', 'a'\], the prior"):
        read_pairs(data / "theta.npy", data / "x.npy", ["b", "a"], spec)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("t.csv", "a,b\n1,2\n3,x\n", "line 3 holds 'x', which is no number"),
        ("t.csv", "a,b,c\n1,2\n", "3 names stand above 2 columns"),
        ("t.csv", "a,b\n", "it has no rows"),
        ("t.txt", "1,2\n", "valid are files that end in .npy, .npz, .csv"),
        ("t.npy", "1,2\n", "cannot read"),
    ],
)
def test_files_that_cannot_be_read_are_named(data, tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_pairs(tmp_path / file, data / "x.npy")
    assert file in str(error.value)


def test_an_empty_cell_is_nan(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "x.csv").write_text("1,2\n,4\n")
    pairs = read_pairs(tmp_path / "t.csv", tmp_path / "x.csv")
    assert np.array_equal(pairs.x["x"], [[1, 2], [np.nan, 4]], equal_nan=True)


def test_shapes_that_do_not_fit_are_refused(data, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    words = ["--theta", data / "theta.npy", "--x", tmp_path / "x.npy"]
    done = sbiflow("import", "-o", tmp_path / "run", *words, code=2)
    assert "shape (5, 2)" in done.stderr
    assert "theta has 300 rows" in done.stderr
    words = ["--theta", data / "theta.npy", "--x", data / "x.npy", "--names", "a,b,c"]
    done = sbiflow("import", "-o", tmp_path / "run", *words, code=2)
    assert "must be 2 different parameter names" in done.stderr
    np.save(tmp_path / "t.npy", np.float64(3))
    with pytest.raises(UsageError, match=r"theta is float64 \(\)"):
        read_pairs(tmp_path / "t.npy", data / "x.npy")
