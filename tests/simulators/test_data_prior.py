"""A prior that is a data set: files, rows of ids, what it cannot do."""

from __future__ import annotations

import gzip
import json
import pickle
import struct

import numpy as np
import pytest

import simulators
import simulators.testing
from simulators import DataPrior, prior_from
from simulators.data_set import IDX_TYPES, read_data, read_idx

ROWS = np.arange(40.0).reshape(20, 2)


def idx(values, code):
    return (
        struct.pack(">BBBB", 0, 0, code, values.ndim)
        + b"".join(struct.pack(">I", n) for n in values.shape)
        + values.astype(IDX_TYPES[code]).tobytes()
    )


def written(folder, name, values=ROWS):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, values)
    elif name.endswith(".npz"):
        np.savez(path, a=values, b=values + 1)
    else:
        data = idx(values, 0x0E)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.idx", "a.idx.gz", "a-ubyte", "a-ubyte.gz"])
def test_a_file_holds_the_rows(tmp_path, name):
    key = "b" if name.endswith("npz") else None
    found = read_data(written(tmp_path, name), key)
    np.testing.assert_array_equal(found, ROWS + 1 if key else ROWS)


@pytest.mark.parametrize("code", IDX_TYPES)
def test_idx_files_of_every_type_come_in_native_order(tmp_path, code):
    values = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a.idx").write_bytes(idx(values, code))
    found = read_idx(tmp_path / "a.idx")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.idx", b"\1\2\3\4", "no idx file"),
        ("a.idx", idx(ROWS, 0x0E)[:-1], "its head says"),
        ("a.idx.gz", b"no gzip", "cannot be read"),
        ("a.idx.gz", gzip.compress(idx(ROWS, 0x0E))[:-9], "damaged"),
        ("a.npy", b"no numpy", "damaged"),
        ("a.npz", b"no numpy", "damaged"),
        ("a.txt", b"", "valid: .npy"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        DataPrior(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"data": np.array([["a"]])}, "must hold real numbers, got dtype <U1"),
        ({"data": ROWS * 1j}, "must hold real numbers"),
        ({"data": np.arange(3)}, r"shape \(rows, ...\)"),
        ({"data": np.where(ROWS == 7, np.nan, ROWS)}, "NaN or infinity, first in row 3"),
        ({"data": ROWS, "key": "a"}, "names an array of an .npz file"),
        ({"data": ROWS, "held_out": 20}, "a whole number below 20"),
        ({"data": ROWS, "held_out": 2.5}, "a whole number below 20"),
        ({"data": ROWS, "held_out": ROWS[:, :1]}, r"shape \(1,\), those of the data set \(2,\)"),
        ({"data": ROWS, "names": ["a"]}, "a row has 2 values"),
        (
            {"data": ROWS, "low": 0, "high": 10},
            r"outside of \[0, 10\], first in row 5, theta\[1\] = 11",
        ),
        ({"data": ROWS, "low": [1, 2, 3]}, "one number or 2, got 3"),
        ({"data": ROWS, "sha256": "0" * 64}, "has changed"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        DataPrior(**given)


def test_a_missing_array_of_an_npz_file_lists_the_others(tmp_path):
    path = written(tmp_path, "a.npz")
    for key, says in ((None, "choose one by key; valid: a, b"), ("c", "no array 'c'; valid: a, b")):
        with pytest.raises(ValueError, match=says):
            DataPrior(path, key=key)


@pytest.mark.parametrize("held_out", [5, 0.25, ROWS[:5] + 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_training_and_test_never_share_a_row(held_out, shuffle):
    prior = DataPrior(ROWS, held_out=held_out, shuffle=shuffle)
    ids = [np.arange(prior.available(stream)) for stream in (0, 1)]
    training, test = (prior.rows(s, prior.row_numbers(3, s, ids[s])) for s in (0, 1))
    assert len(training) + len(test) == (25 if isinstance(held_out, np.ndarray) else 20)
    assert len(test) == 5
    both = np.concatenate([training, test])
    assert len(np.unique(both, axis=0)) == len(both)
    ordered = np.array_equal(training, np.sort(training, axis=0))
    assert ordered is not shuffle


def test_the_row_of_an_id_follows_from_seed_stream_and_id():
    prior = DataPrior(ROWS)
    whole = prior.row_numbers(1, 0, np.arange(18))
    assert [prior.row_numbers(1, 0, np.array([i]))[0] for i in range(18)] == whole.tolist()
    assert not np.array_equal(whole, prior.row_numbers(2, 0, np.arange(18)))


def test_rows_with_replacement_are_uniform_and_disjoint_from_those_of_tests():
    prior = DataPrior(ROWS, held_out=10, replace=True)
    training, test = (prior.row_numbers(0, stream, np.arange(2000)) for stream in (0, 1))
    assert not set(training) & set(test)
    counts = np.bincount(training, minlength=20)
    assert np.sort(counts[counts > 0]).tolist() == sorted(counts)[10:]
    assert abs(counts[counts > 0] - 200).max() < 5 * np.sqrt(200)  # binomial


def test_parameters_are_scaled_rows_and_have_the_shape_of_a_row():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    prior = DataPrior(images, held_out=1, shuffle=False, offset=-1, scale=2 / 255, label="image")
    assert prior.shape == (3, 4)
    assert prior.names[5] == "image[1,1]"
    np.testing.assert_allclose(prior.rows(0, np.array([0]))[0], images[0].ravel() / 255 * 2 - 1)


def test_there_is_no_density_and_no_quantile():
    prior = DataPrior(ROWS)
    assert not prior.has_density
    assert not prior.has_quantile
    with pytest.raises(NotImplementedError, match="a data set has no density"):
        prior.log_prob(ROWS)
    for function in (prior.quantile, prior.cube):
        with pytest.raises(NotImplementedError, match="DataPrior has no quantile"):
            function(ROWS)
    with pytest.raises(ValueError, match="not for stream 2"):
        prior.row_numbers(0, 2, np.arange(3))


def test_the_json_form_names_the_file_and_notices_another_one(tmp_path):
    path = written(tmp_path, "a.npy")
    prior = prior_from({"name": "data", "path": str(path), "held_out": 3, "names": ["a", "b"]})
    assert prior.names == ("a", "b")
    spec = json.loads(json.dumps(prior.spec()))
    assert prior_from(spec) == prior
    assert "path" not in prior.identity()
    np.save(path, ROWS + 1)
    with pytest.raises(ValueError, match="has changed"):
        prior_from(spec)
    with pytest.raises(ValueError, match="needs a path"):
        prior_from(DataPrior(ROWS).spec())
    with pytest.raises(ValueError, match="no key 'rows'; valid: name, path"):
        prior_from({"name": "data", "rows": 3})


SOURCE = """
from simulators import simulator

@simulator()
def shifted(a, b, rng):
    return rng.normal([a, b], 0.1)
"""


def test_a_simulator_with_a_data_set_goes_to_another_process(tmp_path):
    (tmp_path / "model.py").write_text(SOURCE)
    spec = {"name": "data", "path": str(written(tmp_path, "a.npy")), "names": ["a", "b"]}
    model = simulators.load(f"{tmp_path}/model.py:shifted", prior=spec)
    again = pickle.loads(pickle.dumps(model))
    assert again.identity() == model.identity()
    simulators.testing.check_simulator(model)
