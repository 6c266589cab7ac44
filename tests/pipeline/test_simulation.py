"""From ids to rows: random streams, outcomes and reasons, the schema; no Ray here."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.simulate.seed import generators, points
from pipeline.simulate.spec import SimulationSpec, check_schema, schema_of
from pipeline.store import Outcome
from simulators import Uniform, simulator

PRIOR = {"a": Uniform(0, 1), "b": Uniform(5, 6)}


def one(function, timeout=None, **options):
    return SimulationSpec(simulator(prior=PRIOR, **options)(function), 7, 0, 1, timeout)


def block(function, size):
    return SimulationSpec(simulator(prior=PRIOR, batched=True)(function), 7, 0, size, None)


def normal(a, b, rng):
    return {"x": rng.normal(a, b, 3), "n": np.int32(4)}


def normals(a, b, rng):
    return rng.normal(a[:, None], b[:, None], (len(a), 3))


def test_a_row_follows_from_seed_stream_and_id():
    simulation = one(normal)
    rows = simulation.run(np.array([12]))
    prior_rng, noise_rng = generators(7, 0, 12)
    theta = simulation.simulator.prior.sample(prior_rng, 1)
    assert np.array_equal(rows.theta, theta)
    assert np.array_equal(rows.x["x"], noise_rng.normal(*theta[0], 3)[None])
    assert rows.x["n"].shape == (1,)
    assert rows.x["n"].dtype == np.int32
    assert rows.outcome.tolist() == [Outcome.OK]
    assert np.array_equal(simulation.theta(np.array([12])), theta)
    assert not np.array_equal(simulation.run(np.array([13])).theta, theta)


def test_a_block_is_the_same_whichever_rows_are_wanted():
    simulation = block(normals, 8)
    whole = simulation.run(np.arange(16, 24))
    some = simulation.run(np.array([17, 22]))
    assert np.array_equal(some.theta, whole.theta[[1, 6]])
    assert np.array_equal(some.x["x"], whole.x["x"][[1, 6]])
    assert np.array_equal(simulation.theta(np.array([17, 22])), some.theta)


def sobol(function, block, **options):
    made = simulator(prior=PRIOR, **options)(function)
    return SimulationSpec(made, 7, 0, block, None, "sobol")


def test_points_of_a_design_are_the_same_in_any_order_and_any_block():
    alone, together = sobol(normal, 1), sobol(normals, 8, batched=True)
    whole = np.concatenate([together.theta(np.arange(8 * k, 8 * k + 8)) for k in range(5)])
    for number in (30, 3, 39, 0, 8):
        assert np.array_equal(alone.theta(np.array([number]))[0], whole[number])
        assert np.array_equal(alone.run(np.array([number])).theta[0], whole[number])
    assert np.array_equal(together.run(np.array([17, 22])).theta, whole[[17, 22]])


def test_a_design_is_the_prior_but_more_even():
    simulation = sobol(normals, 1024, batched=True)
    theta = np.concatenate(
        [simulation.theta(np.arange(1024 * k, 1024 * (k + 1))) for k in range(4)]
    )
    u = theta - [0, 5]
    assert np.all((u > 0) & (u < 1))
    for j in range(2):  # each 4096th of an axis has its one point
        assert np.array_equal(np.sort(np.floor(u[:, j] * 4096)), np.arange(4096))
    counts, _, _ = np.histogram2d(*u.T, bins=16, range=[[0, 1], [0, 1]])
    assert np.all(counts == 16)


def test_designs_differ_by_seed_and_stream():
    first = points(0, 0, 3, 0, 4)
    assert not np.array_equal(first, points(1, 0, 3, 0, 4))
    assert not np.array_equal(first, points(0, 1, 3, 0, 4))
    assert np.array_equal(first, points(0, 0, 3, 0, 4))


def raising(error):
    def model(a, b, rng):
        raise error

    return model


@pytest.mark.parametrize(
    "error", [ValueError("no root"), SystemExit(3), KeyboardInterrupt(), TimeoutError("socket")]
)
def test_whatever_is_raised_is_a_failed_row_with_its_reason(error):
    rows = one(raising(error)).run(np.array([5]))
    (failure,) = rows.failures
    assert rows.outcome.tolist() == [Outcome.FAILED]
    assert rows.x == {}
    assert (failure.id, failure.outcome) == (5, Outcome.FAILED)
    assert failure.message.startswith(type(error).__name__)
    assert "in model" in failure.traceback


def test_a_block_that_raises_marks_its_wanted_rows():
    rows = block(raising(ValueError("no root")), 8).run(np.array([9, 10]))
    assert rows.outcome.tolist() == [Outcome.FAILED] * 2
    assert [failure.id for failure in rows.failures] == [9, 10]
    assert rows.failures[0].message == "ValueError: no root (in a block of 8)"


def test_a_simulator_that_keeps_time_itself_times_out():
    simulation = one(raising(TimeoutError("too late")), timeout=1.0)
    simulation.simulator.owns_timeout = True
    rows = simulation.run(np.array([0]))
    assert rows.outcome.tolist() == [Outcome.TIMEOUT]
    assert rows.failures[0].message == "TimeoutError: too late"


def test_nan_and_infinity_are_invalid_and_name_the_output():
    def model(a, b, rng):
        return {"x": np.array([1.0, np.nan]), "y": np.zeros(2), "z": np.array(np.inf)}

    rows = one(model).run(np.array([3]))
    assert rows.outcome.tolist() == [Outcome.INVALID]
    assert rows.failures[0].message == "NaN or Inf in x, z"
    assert np.isnan(rows.x["x"][0, 1])


def test_only_the_bad_rows_of_a_block_are_invalid():
    def model(a, b, rng):
        x = np.ones((len(a), 2))
        x[2, 1] = np.nan
        return x

    rows = block(model, 4).run(np.array([1, 2, 3]))
    assert rows.outcome.tolist() == [Outcome.OK, Outcome.INVALID, Outcome.OK]
    assert [failure.id for failure in rows.failures] == [2]


def test_a_length_that_varies_is_kept_where_it_is_declared():
    def model(a, b, rng):
        return {"x": np.ones((int(10 * a), 2), np.float32)}

    rows = one(model, ragged=["x"]).run(np.array([0]))
    assert rows.lengths["x"].tolist() == [rows.x["x"].shape[1]]
    assert schema_of(rows, frozenset({"x"})).arrays["x"] == ("<f4", (0, 2))


def test_other_byte_orders_become_this_machines():
    rows = one(lambda a, b, rng: np.arange(3, dtype=">f8")).run(np.array([0]))
    assert rows.x["x"].dtype == np.dtype("f8")
    assert rows.x["x"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (np.zeros(4), r"output 'x' is float64 \(4,\), .* float64 \(3,\); .* ragged=\['x'\]"),
        (np.zeros((3, 1)), r"float64 \(3, 1\), .* same dtype and shape"),
        (np.zeros(3, np.float32), r"float32 \(3,\), in other simulations float64 \(3,\)"),
        ({"y": np.zeros(3)}, r"outputs are \['y'\], in other simulations \['x'\]"),
    ],
)
def test_outputs_that_change_are_named_with_id_and_what_was_expected(changed, message):
    schema = schema_of(one(lambda a, b, rng: np.zeros(3)).run(np.array([0])), frozenset())
    rows = one(lambda a, b, rng: changed).run(np.array([41]))
    with pytest.raises(UsageError, match=f"simulation 41: .*{message}"):
        check_schema(rows, schema, "mine")
