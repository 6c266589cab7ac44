"""Simulators that do what they should not, one per way; `EXPECTED` says what must come of each.

    load("tests/simulators/odd.py:view")

Those expected to give "same" rows have the parameters and the outputs of `plain`, those in "same batched" of
`plain_batched`, whatever else they do.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from simulators import Uniform, simulator

PRIOR = {"a": Uniform(0, 1), "b": Uniform(-2, 2)}
SAME, SAME_BATCHED = "same", "same batched"  # the rows of `plain`, of `plain_batched`
OK = "ok"  # rows of its own, all ok
FAILED = "failed"  # some or all rows are not ok, each with a reason; the others are ok
REFUSED = "refused"  # a UsageError that names the output
MARK = "SBIFLOW_ODD_CHILD"  # in the environment of every child that is left behind

EXPECTED: dict[str, str] = {
    "plain": SAME,
    "plain_batched": SAME_BATCHED,
    "view": SAME,
    "view_reversed": SAME,
    "view_batched": SAME_BATCHED,
    "byte_swapped": SAME,
    "aliases_theta": OK,
    "aliases_theta_batched": OK,
    "aliases_outputs": OK,
    "changes_theta": SAME,
    "changes_theta_batched": SAME_BATCHED,
    "forks": SAME,
    "forks_daemon": SAME,
    "starts_program": SAME,
    "starts_process": SAME,
    "uses_pool": SAME,
    "keeps_pool": SAME,
    "changes_directory": SAME,
    "changes_environment": SAME,
    "changes_umask": SAME,
    "installs_handlers": SAME,
    "blocks_signals": SAME,
    "starts_threads": SAME,
    "prints": SAME,
    "closes_stdout": SAME,
    "closes_files": FAILED,
    "sets_numpy_errors": SAME,
    "sets_warnings_to_errors": SAME,
    "seeds_global_generators": SAME,
    "limits_recursion": SAME,
    "exits": FAILED,
    "exits_at_once": FAILED,
    "interrupts": FAILED,
    "kills_itself": FAILED,
    "aborts": FAILED,
    "recursion": FAILED,
    "memory": FAILED,
    "raises_odd_error": FAILED,
    "returns_none": FAILED,
    "returns_nothing": FAILED,
    "nan": FAILED,
    "huge": OK,
    "nested": REFUSED,
    "text": REFUSED,
    "objects": REFUSED,
    "ragged_list": REFUSED,
    "masked": REFUSED,
    "longdouble": REFUSED,
    "complex_numbers": REFUSED,
    "datetimes": REFUSED,
    "structured": REFUSED,
    "empty": REFUSED,
    "mask_name": REFUSED,
    "bad_name": REFUSED,
    "names_by_parameters": REFUSED,
    "ragged_undeclared": REFUSED,
    "int_then_float": REFUSED,
    "shape_by_parameters": REFUSED,
    "batch_of_other_length": REFUSED,
}


def outputs(a: Any, b: Any, rng: np.random.Generator) -> np.ndarray:
    """Return what all that behave like `plain` give: (4,)."""
    return np.array([a, b, a * b, rng.standard_normal()])


def batch(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same for arrays (n,): (n, 4)."""
    return np.stack([a, b, a * b, rng.standard_normal(len(a))], axis=1)


# --- as they should be -------------------------------------------------------------------------


@simulator(prior=PRIOR)
def plain(a, b, rng):
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR, batched=True)
def plain_batched(a, b, rng):
    return {"x": batch(a, b, rng)}


# --- arrays that are shared --------------------------------------------------------------------

BUFFER = np.zeros(4)
BATCH = np.zeros((1 << 16, 4))


@simulator(prior=PRIOR)
def view(a, b, rng):
    BUFFER[:] = outputs(a, b, rng)
    return {"x": BUFFER}


@simulator(prior=PRIOR)
def view_reversed(a, b, rng):
    """One array, a view that is not contiguous."""
    BUFFER[::-1] = outputs(a, b, rng)
    return BUFFER[::-1]


@simulator(prior=PRIOR, batched=True)
def view_batched(a, b, rng):
    BATCH[: len(a)] = batch(a, b, rng)
    return {"x": BATCH[: len(a)]}


@simulator(prior=PRIOR)
def byte_swapped(a, b, rng):
    return {"x": outputs(a, b, rng).astype(">f8")}


given: list[np.ndarray] = []


@simulator(prior=PRIOR)
def aliases_theta(theta, rng):
    """An output is the parameters' own array, which the next call spoils."""
    for old in given:
        old.fill(np.nan)
    given[:] = [theta]
    return {"x": outputs(*theta, rng), "same": theta}


@simulator(prior=PRIOR, batched=True)
def aliases_theta_batched(a, b, rng):
    """Outputs are the parameters' own columns."""
    return {"x": a, "y": b[:, None]}


@simulator(prior=PRIOR)
def aliases_outputs(a, b, rng):
    """Two outputs are views of one buffer that the next call writes again."""
    BUFFER[:] = outputs(a, b, rng)
    return {"x": BUFFER, "y": BUFFER[::-1]}


@simulator(prior=PRIOR)
def changes_theta(theta, rng):
    x = outputs(*theta, rng)
    theta *= 7
    return {"x": x}


@simulator(prior=PRIOR, batched=True)
def changes_theta_batched(a, b, rng):
    x = batch(a, b, rng)
    a *= 7
    b[:] = 0
    return {"x": x}


# --- processes and threads left behind ---------------------------------------------------------


@simulator(prior=PRIOR)
def forks(a, b, rng):
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def forks_daemon(a, b, rng):
    """A child in a session of its own whose parent has gone, as daemons are."""
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(600)
        os._exit(0)
    os.waitpid(child, 0)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def starts_program(a, b, rng):
    """Two programs, one of them in a session of its own, each with a child."""
    for alone in (False, True):
        subprocess.Popen(
            ["/bin/sh", "-c", "sleep 600 & wait"],
            env=os.environ | {MARK: "1"},
            start_new_session=alone,
        )
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def starts_process(a, b, rng):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=[600]).start()
    return {"x": outputs(a, b, rng)}


def square(value: float) -> float:
    return value * value


@simulator(prior=PRIOR)
def uses_pool(a, b, rng):
    """A pool for each simulation, closed as it should be."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    return {"x": outputs(a, b, rng)}


pools: list[ProcessPoolExecutor] = []


@simulator(prior=PRIOR)
def keeps_pool(a, b, rng):
    """One pool for all simulations of a process."""
    if not pools:
        pools.append(ProcessPoolExecutor(2, multiprocessing.get_context("fork")))
    assert list(pools[0].map(abs, [-1, 2])) == [1, 2]
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def starts_threads(a, b, rng):
    for _ in range(3):
        threading.Thread(target=time.sleep, args=[0.05]).start()
    threading.Thread(target=time.sleep, args=[600], daemon=True).start()
    return {"x": outputs(a, b, rng)}


# --- the process' own state --------------------------------------------------------------------


@simulator(prior=PRIOR)
def changes_directory(a, b, rng):
    os.chdir(random.choice(["/", "/tmp", "/usr"]))
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def changes_environment(a, b, rng):
    os.environ.clear()
    os.environ.update({"HOME": "/nowhere", "TMPDIR": "/nowhere", "PATH": "/nowhere"})
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def changes_umask(a, b, rng):
    os.umask(0o777)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def installs_handlers(a, b, rng):
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def blocks_signals(a, b, rng):
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def prints(a, b, rng):
    for stream in (sys.stdout, sys.stderr):
        print("much to say " * 100, file=stream, flush=True)
    os.write(2, b"\x1b[31m and more\n")
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def closes_stdout(a, b, rng):
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def closes_files(a, b, rng):
    """Takes the process' files from under it in one simulation of many: those of others must not suffer."""
    if a < 0.1:
        os.closerange(3, 1 << 12)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def sets_numpy_errors(a, b, rng):
    np.seterr(all="raise")
    np.set_printoptions(precision=1)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def sets_warnings_to_errors(a, b, rng):
    warnings.simplefilter("error")
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def seeds_global_generators(a, b, rng):
    random.seed(1)
    np.random.seed(1)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def limits_recursion(a, b, rng):
    """Leaves a limit that our own code cannot live with."""
    if a < 0.1:
        sys.setrecursionlimit(60)
    return {"x": outputs(a, b, rng)}


# --- ends that are no return -------------------------------------------------------------------


@simulator(prior=PRIOR)
def exits(a, b, rng):
    if a < 0.3:
        sys.exit(3)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def exits_at_once(a, b, rng):
    if a < 0.05:
        os._exit(0)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def interrupts(a, b, rng):
    if a < 0.3:
        raise KeyboardInterrupt
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def kills_itself(a, b, rng):
    if a < 0.02:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def aborts(a, b, rng):
    if a < 0.05:
        os.abort()
    return {"x": outputs(a, b, rng)}


def deeper(depth: int) -> int:
    return 1 + deeper(depth + 1)


@simulator(prior=PRIOR)
def recursion(a, b, rng):
    if a < 0.3:
        deeper(0)
    return {"x": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def memory(a, b, rng):
    if a < 0.3:
        np.ones(1 << 45)
    return {"x": outputs(a, b, rng)}


class OddError(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@simulator(prior=PRIOR)
def raises_odd_error(a, b, rng):
    if a < 0.3:
        raise OddError(lambda: None)
    return {"x": outputs(a, b, rng)}


# --- outputs of wrong kinds --------------------------------------------------------------------


@simulator(prior=PRIOR)
def returns_none(a, b, rng):
    return {"x": outputs(a, b, rng)} if a > 0.3 else None


@simulator(prior=PRIOR)
def returns_nothing(a, b, rng):
    return {"x": outputs(a, b, rng)} if a > 0.3 else {}


@simulator(prior=PRIOR)
def nan(a, b, rng):
    return {"x": outputs(a, b, rng) if a > 0.3 else np.full(4, np.nan)}


@simulator(prior=PRIOR)
def huge(a, b, rng):
    """64 MB a row."""
    return {"x": np.full(1 << 23, a)}


@simulator(prior=PRIOR)
def nested(a, b, rng):
    return {"x": {"y": outputs(a, b, rng)}}


@simulator(prior=PRIOR)
def text(a, b, rng):
    return {"x": outputs(a, b, rng), "label": "a text"}


@simulator(prior=PRIOR)
def objects(a, b, rng):
    return {"x": np.array([a, None, "text"], dtype=object)}


@simulator(prior=PRIOR)
def ragged_list(a, b, rng):
    return {"x": [[1.0, 2.0], [3.0]]}


@simulator(prior=PRIOR)
def masked(a, b, rng):
    return {"x": np.ma.masked_less(outputs(a, b, rng), 0)}


@simulator(prior=PRIOR)
def longdouble(a, b, rng):
    return {"x": outputs(a, b, rng).astype(np.longdouble)}


@simulator(prior=PRIOR)
def complex_numbers(a, b, rng):
    return {"x": outputs(a, b, rng) * 1j}


@simulator(prior=PRIOR)
def datetimes(a, b, rng):
    return {"x": np.array(["2020-01-01"], dtype="datetime64[s]")}


@simulator(prior=PRIOR)
def structured(a, b, rng):
    return {"x": np.array([(a, 1)], dtype=[("p", "f8"), ("q", "i4")])}


@simulator(prior=PRIOR)
def empty(a, b, rng):
    return {"x": np.zeros((3, 0))}


@simulator(prior=PRIOR, ragged=["t"])
def mask_name(a, b, rng):
    """An output with the name under which training keeps where a ragged one ends."""
    return {"t": np.full(1 + int(3 * a), b), "t_mask": np.array([a])}


@simulator(prior=PRIOR)
def bad_name(a, b, rng):
    return {"x/y": outputs(a, b, rng)}


# --- outputs that change their form ------------------------------------------------------------


@simulator(prior=PRIOR)
def names_by_parameters(a, b, rng):
    return {"low" if a < 0.5 else "high": outputs(a, b, rng)}


@simulator(prior=PRIOR)
def ragged_undeclared(a, b, rng):
    return {"x": np.full(1 + int(20 * a), b)}


@simulator(prior=PRIOR)
def int_then_float(a, b, rng):
    return {"x": np.array([1, 2]) if a < 0.5 else np.array([1.5, 2.5])}


@simulator(prior=PRIOR)
def shape_by_parameters(a, b, rng):
    return {"x": outputs(a, b, rng).reshape((2, 2) if a < 0.5 else (4,))}


@simulator(prior=PRIOR, batched=True)
def batch_of_other_length(a, b, rng):
    return {"x": batch(a, b, rng)[:-1]}


def left(mark: str = MARK) -> list[int]:
    """Return the processes that live with this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{mark}=".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
