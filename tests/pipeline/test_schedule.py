"""The simulated schedule: known limits, conservation, and what grows with what."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.plan.stage import FILES_PER_OUTPUT, FIXED_SHARD_FILES
from pipeline.simulate.driver import POLL
from pipeline.simulate.forecast import Forecast, Rates, Workload, forecast
from pipeline.store import Rows, Schema, Spool, Store, Writer

FREE = replace(
    Rates(), idle=0.0, agent=0.0, message=0.0, note=0.0, publish=0.0, lease=0.0, entry=0.0,
    operations=1e12, session=0.0, fold=1e18,
)  # fmt: skip
STEADY = Workload(count=6000, seconds=1.0, row_bytes=100.0, variation=1e-6, leases=60_000)


def of(layout: str, work: Workload, workers: int, rates: Rates | None = None) -> Forecast:
    return forecast(work, workers, rates)[layout]


@pytest.mark.parametrize("workers", [1, 7, 100])
def test_without_costs_equal_simulations_take_as_long_as_they_must(workers: int) -> None:
    found = of("array", STEADY, workers, FREE)
    rounds = -(-STEADY.count // workers)
    assert found.wall_seconds == pytest.approx(rounds * STEADY.seconds, rel=1e-3)


@pytest.mark.parametrize("per_agent", [1, 32])
@pytest.mark.parametrize("workers", [1, 7, 100])
def test_without_costs_agents_lose_at_most_a_few_simulations_at_the_end(
    workers: int, per_agent: int
) -> None:
    found = of("ray", replace(STEADY, per_agent=per_agent), workers, FREE)
    least = STEADY.count / workers * STEADY.seconds
    assert least * (1 - 1e-6) <= found.wall_seconds <= least + 3 * STEADY.seconds


def test_leases_hold_all_simulations_where_they_do_not_divide_evenly() -> None:
    found = of("array", replace(STEADY, count=160, leases=64), 1, FREE)
    assert found.wall_seconds == pytest.approx(160 * STEADY.seconds, rel=1e-3)


@pytest.mark.parametrize("layout", ["ray", "array"])
def test_the_last_simulations_cost_as_much_as_they_vary(layout: str) -> None:
    even, uneven = (of(layout, replace(STEADY, variation=v), 1000, FREE) for v in (0.01, 1.0))
    assert uneven.efficiency < even.efficiency <= 1.0 + 1e-3


def test_a_driver_that_is_busy_all_the_time_hands_out_what_its_messages_allow() -> None:
    rates = replace(FREE, message=0.6)
    found = of("ray", replace(STEADY, count=6_000_000, per_agent=10), 1000, rates)
    assert found.messages_per_second == pytest.approx(1 / 0.6, rel=0.05)
    assert found.busy == pytest.approx(1.0, abs=0.01)
    assert found.bottleneck == "the driver"


def test_a_slow_metadata_server_limits_leases() -> None:
    found = of("array", replace(STEADY, count=60_000), 1000, replace(FREE, operations=200))
    assert found.wall_seconds >= 60_000 * 3 / 200
    assert found.bottleneck == "the metadata server"


def test_a_long_run_is_followed_in_part_and_scales() -> None:
    short, long = (
        of("ray", Workload(count, 1.0, 100.0), 100, Rates()) for count in (200_000, 20_000_000)
    )
    assert long.wall_seconds / short.wall_seconds == pytest.approx(100, rel=0.02)


def test_one_driver_feeds_thousands_of_workers_through_agents_and_not_one_by_one() -> None:
    work = Workload(6_000_000, 1.0, 100.0)
    found = of("ray", work, 10_000)
    assert found.bottleneck == "none"
    assert found.efficiency > 0.95
    assert found.busy < 0.3
    alone = of("ray", replace(work, per_agent=1), 10_000)
    assert alone.bottleneck == "the driver"
    assert alone.busy > 3 * found.busy


def test_plan_says_what_limits_so_many_workers(tmp_path: Path) -> None:
    words = ["-o", str(tmp_path / "never"), "-c", "configs/two_moons.yaml", "budget=100000"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "plan", *words, "--workers", "1000", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    values = json.loads(done.stdout)
    assert values["workers"] == 1000
    assert values["files"] == 15 * values["shards"]
    assert set(values["schedule"]) == {"ray", "array"}
    assert values["schedule"]["array"]["workers"] == 1000
    text = subprocess.run(
        [sys.executable, "-m", "pipeline", "plan", *words, "cluster.options={nodes: 4, cpus-per-task: 8}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "on 32 workers" in text
    assert "bottleneck" in text
    assert not (tmp_path / "never").exists()


def test_a_driver_that_only_waits_still_looks_for_answers() -> None:
    work = Workload(count=20, seconds=10.0, row_bytes=100.0, variation=1e-6)
    found = of("ray", replace(work, per_agent=1), 20, replace(FREE, idle=0.02, agent=1e-3))
    assert found.busy == pytest.approx(0.02 + 20 * 1e-3 / POLL, rel=0.05)


def test_a_shard_has_as_many_files_as_are_planned(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", {"names": ["a"]}, Schema({"x": ("<f8", ())}))
    rows = Rows(np.arange(5), np.zeros((5, 1)), {"x": np.zeros(5)}, {}, np.zeros(5, np.uint8),
                np.zeros(5, np.float32))  # fmt: skip
    with Writer(store) as writer, Spool(writer.spool_directory, "a", store.schema, 5) as spool:
        spool.append(rows)
    (shard,) = (store.path / "shards").iterdir()
    files = sum(path.is_file() for path in shard.rglob("*"))
    assert files == FIXED_SHARD_FILES + FILES_PER_OUTPUT == Workload(1, 1.0, 1.0).shard_files
