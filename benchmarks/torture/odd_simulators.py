"""Simulators that do what wrappers of foreign code do, and what nobody should; mostly x is a + 2 b."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from simulators import Uniform, simulator

PRIOR = {"a": Uniform(0, 1), "b": Uniform(0, 1)}
odd = simulator(prior=PRIOR)
BUFFER, WIDE, KEPT = np.zeros(1), np.zeros((4, 2)), []


@odd
def view(a, b, rng):
    BUFFER[:] = a + 2 * b
    return {"x": BUFFER}


@odd
def view_of_slice(a, b, rng):
    WIDE[1] = a + 2 * b
    return {"x": WIDE[1:2, 0]}


@odd
def changes_later(a, b, rng):
    """Return an array that the next call overwrites."""
    for old in KEPT:
        old[:] = -1
    KEPT[:] = [np.array([a + 2 * b])]
    return {"x": KEPT[0]}


@odd
def aliases_parameters(a, b, rng):
    BUFFER[:] = a
    return {"x": BUFFER, "y": BUFFER, "z": BUFFER[::-1]}


@odd
def forks(a, b, rng):
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return {"x": np.array([a + 2 * b])}


@odd
def forks_and_leaves(a, b, rng):
    subprocess.Popen(["sleep", "3"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {"x": np.array([a + 2 * b])}


@odd
def changes_directory(a, b, rng):
    os.chdir("/")
    return {"x": np.array([a + 2 * b])}


@odd
def environment(a, b, rng):
    os.environ.clear()
    return {"x": np.array([a + 2 * b])}


@odd
def signals(a, b, rng):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    return {"x": np.array([a + 2 * b])}


@odd
def alarm(a, b, rng):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(600)
    return {"x": np.array([a + 2 * b])}


@odd
def threads(a, b, rng):
    threading.Thread(target=time.sleep, args=(2,), daemon=False).start()
    return {"x": np.array([a + 2 * b])}


@odd
def exits(a, b, rng):
    if a > 0.8:
        sys.exit(3)
    return {"x": np.array([a + 2 * b])}


@odd
def exits_hard(a, b, rng):
    if a > 0.9:
        os._exit(3)
    return {"x": np.array([a + 2 * b])}


@odd
def raises_interrupt(a, b, rng):
    if a > 0.8:
        raise KeyboardInterrupt
    return {"x": np.array([a + 2 * b])}


@odd
def masked(a, b, rng):
    return {"x": np.ma.masked_array([a, b], mask=[False, True])}


@odd
def complex_(a, b, rng):
    return {"x": np.array([a + 1j * b])}


@odd
def longdouble(a, b, rng):
    return {"x": np.array([a + 2 * b], np.longdouble)}


@odd
def objects(a, b, rng):
    return {"x": np.array([a, None], object)}


@odd
def strings(a, b, rng):
    return {"x": np.array(["left", "right"])}


@odd
def huge(a, b, rng):
    return {"x": np.full(2_000_000, a + 2 * b)}


@odd
def boolean(a, b, rng):
    return {"x": np.array([a + 2 * b]), "flag": np.array(a > 0.5)}


@odd
def half(a, b, rng):
    return {"x": np.array([a], np.float16)}


@odd
def big_endian(a, b, rng):
    return {"x": np.array([a + 2 * b], ">f8")}


@odd
def fortran_order(a, b, rng):
    return {"x": np.asfortranarray(np.full((3, 2), a + 2 * b))}


@odd
def nothing(a, b, rng):
    return {}


@odd
def names_depend(a, b, rng):
    return {"x" if a > 0.5 else "y": np.array([a + 2 * b])}


@odd
def shape_depends(a, b, rng):
    return {"x": np.zeros(1 + int(3 * a))}


@odd
def writes_stdout(a, b, rng):
    print("\x1b[2J" + "x" * 100_000)
    sys.stderr.write("\x07" * 1000)
    os.write(1, b"more\n")
    return {"x": np.array([a + 2 * b])}


@odd
def closes_files(a, b, rng):
    os.closerange(3, 64)
    return {"x": np.array([a + 2 * b])}


@odd
def global_seed(a, b, rng):
    np.random.seed(int(1e6 * a))
    return {"x": np.array([np.random.normal()])}


@odd
def list_(a, b, rng):
    return {"x": [a + 2 * b, 0.0]}


@odd
def reads_stdin(a, b, rng):
    sys.stdin.read()
    return {"x": np.array([a + 2 * b])}


@odd
def read_only(a, b, rng):
    x = np.array([a + 2 * b])
    x.setflags(write=False)
    return {"x": x}


@odd
def kills_itself(a, b, rng):
    if a > 0.9:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x": np.array([a + 2 * b])}


@simulator(prior=PRIOR, ragged=["t"])
def mask_name(a, b, rng):
    return {"t": np.zeros(1 + int(3 * a)), "t_mask": np.zeros(2)}


@odd
def umask(a, b, rng):
    os.umask(0o777)
    return {"x": np.array([a + 2 * b])}


@odd
def limits(a, b, rng):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 64), hard))
    return {"x": np.array([a + 2 * b])}


@odd
def recursion(a, b, rng):
    return recursion(a=a, b=b) if a > 0.8 else {"x": np.array([a + 2 * b])}


@odd
def unicode_error(a, b, rng):
    if a > 0.8:
        raise ValueError("\ud800 \x1b[31m \x00")
    return {"x": np.array([a + 2 * b])}


@odd
def scalar(a, b, rng):
    return a + 2 * b
