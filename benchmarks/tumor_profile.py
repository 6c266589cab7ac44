"""Where the time of a tumour spheroid goes: share of the CPU samples by function of the kernel.

`python -m benchmarks.tumor_profile [POINT]` prints one JSON object. Needs Linux `perf`. A child process
simulates for some seconds; a map file tells `perf` which address belongs to which function.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numba
import numpy as np

from benchmarks.tumor_equality import reference

SECONDS = 6.0
CHILD = "--child"
FOLDER = "tumor_spheroid"


def readable(symbol: str) -> str:
    """Return `module.function` of a mangled name, in which every part follows its own length."""
    _, found, rest = symbol.partition(FOLDER)
    parts = []
    while found and (length := re.match(r"\d+", rest)):
        end = length.end() + int(length.group())
        parts.append(rest[length.end() : end])
        rest = rest[end:]
    return ".".join(parts[:2]) or symbol[:40]


def write_map(dispatcher: numba.core.dispatcher.Dispatcher) -> None:
    """Write /tmp/perf-PID.map with the functions that were compiled into a dispatcher."""
    (compiled,) = dispatcher.overloads.values()
    engine = compiled.library.codegen._engine._ee
    starts = []
    for function in compiled.library._final_module.functions:
        address = 0 if function.is_declaration else engine.get_function_address(function.name)
        if address:
            starts.append((address, readable(function.name)))
    starts.sort()
    ends = [address for address, _ in starts[1:]] + [starts[-1][0] + 0x8000]
    lines = [f"{a:x} {b - a:x} tumor.{name}\n" for (a, name), b in zip(starts, ends, strict=True)]
    Path(f"/tmp/perf-{os.getpid()}.map").write_text("".join(lines))


def simulate(point: int) -> None:
    """The child: compile anew, since a cached function has no names, and simulate for a while."""
    import simulators
    from simulators.tumor_spheroid import compiled, kernel, model

    model.simulate = numba.njit(**compiled.OPTIONS)(kernel.simulate.py_func)
    tumour = simulators.load("tumor_spheroid")
    write_map(model.simulate)
    theta, rng = reference()["theta"][point], np.random.default_rng(0)
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        tumour.simulate(theta, rng)


def shares(point: int) -> dict[str, float]:
    """Share of the kernel's samples by function; `libm` is the logarithm of waiting times."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        child = [sys.executable, "-m", "benchmarks.tumor_profile", CHILD, str(point)]
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-o", data, *child]
        subprocess.run(record, check=True, capture_output=True)
        report = ["perf", "report", "--stdio", "-i", data, "--sort", "dso,symbol", "-t", ";"]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    share: Counter[str] = Counter()
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(";")]
        if len(parts) > 2 and "tumor." in parts[2]:
            share[parts[2].split("tumor.")[1]] += float(parts[0].rstrip("%"))
        elif len(parts) > 2 and parts[1].startswith("libm"):
            share["libm"] += float(parts[0].rstrip("%"))
    total = sum(share.values())
    return {name: round(value / total, 3) for name, value in share.most_common(10)}


def main() -> None:
    """Profile and print."""
    words = sys.argv[1:]
    if words[:1] == [CHILD]:
        simulate(int(words[1]))
        return
    point = int(words[0]) if words else 0
    print(json.dumps({"benchmark": "tumor_profile", "point": point, "shares": shares(point)}))


if __name__ == "__main__":
    main()
