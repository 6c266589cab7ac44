"""What every check costs: the same work with it and without it, as a ratio, in one run.

    python -m benchmarks.costs

Rows are (check, seconds with, seconds without, ratio): medians of alternating repeats in processor time, which
other programs disturb little. Waits for the device are not in it: they are the same with and without a check, so
that the ratios of writes are upper bounds. Rows of functions that this version lacks are left out and named.
Prints a table to stderr and one JSON object.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import simulators
from benchmarks.store_read import MOONS, WIDE, fill
from pipeline import files
from pipeline.errors import PipelineError

REPEATS = 9
Job = Callable[..., Any]
Pair = tuple[str, Job, Job]


def seconds(job: Job, least: float = 0.02) -> float:
    """Return the processor seconds of one call, from as many as take at least so long."""
    calls, spent = 0, 0.0
    started = time.process_time()
    while spent < least:
        job()
        calls += 1
        spent = time.process_time() - started
    return spent / calls


def compare(name: str, checked: Job, bare: Job) -> dict[str, Any]:
    """Return the medians of both, measured in turns."""
    checked(), bare()
    pairs = [(seconds(checked), seconds(bare)) for _ in range(REPEATS)]
    one, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return {"check": name, "with": one, "without": other, "ratio": ratio}


# --- files ------------------------------------------------------------------------------------------


def _plain_write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def documents(folder: Path) -> Iterator[Pair]:
    """Sealed files against the same files without a seal, at the sizes they have; both flushed to the device."""
    steps = range(100)
    curves = [{"step": k, "train": k / 7, "validation": k / 3, "seconds": 0.1 * k} for k in steps]
    metrics = {"c2st": [k / 101 for k in steps], "sbc": [[k / 7, k / 9] for k in steps]}
    rng = np.random.default_rng(0)
    draws = {"draws": rng.normal(size=(100, 1000, 2)).astype("f4")}
    forms: dict[str, tuple[Job, Job, Job, Job]] = {
        "JSON": (files.write_document, files.read_document, _json, json.loads),
        "YAML": (files.write_text, files.read_text, str.encode, bytes.decode),
        "bytes": (files.write_bytes, files.read_bytes, bytes, bytes),
        "arrays": (files.write_arrays, files.read_arrays, _npz, _arrays),
    }
    for form, name, value in (
        ("JSON", "curves.json", {"curves": curves}),
        ("JSON", "metrics.json", {"metrics": metrics}),
        ("JSON", "done.json", {"steps": 1, "key": "k"}),
        ("YAML", "config.yml", "".join(f"key_{k}: {k}\n" for k in range(60))),
        ("bytes", "weights.pt", rng.bytes(400_000)),
        ("bytes", "state.pt", rng.bytes(4_000_000)),
        ("arrays", "draws.npz", draws),
    ):
        yield from _file(f"sealed {form}", folder, name, value, *forms[form])


def _file(
    form: str, folder: Path, name: str, value: Any, write: Job, read: Job, encode: Job, decode: Job
) -> Iterator[Pair]:
    path, bare = folder / name, folder / f"bare-{name}"
    size = f"{len(encode(value)) / 1000:.3g} kB"
    yield (
        f"{form}, write {name} of {size}",
        partial(write, path, value),
        lambda: _plain_write(bare, encode(value)),
    )
    yield (
        f"{form}, read {name} of {size}",
        partial(read, path),
        lambda: decode(bare.read_bytes()),
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(content)))


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def journal(folder: Path) -> Iterator[Pair]:
    """An event into a journal of a thousand, and reading them all, with a chain and as bare lines."""
    from evaluation import journal as module

    if not hasattr(module.Journal, "content"):
        return
    event = {"stage": "train", "event": "train", "step": 100, "train": 0.5, "validation": 0.25}
    chained, bare = module.Journal(folder / "chained.jsonl"), folder / "bare.jsonl"
    for _ in range(1000):
        chained.append(event)
    line = json.dumps({"time": "2026-01-01T00:00:00.000+00:00", **event}).encode() + b"\n"
    bare.write_bytes(1000 * line)
    whole = chained.path.read_bytes()

    def append() -> None:
        handle = os.open(bare, os.O_WRONLY | os.O_APPEND)
        os.write(handle, json.dumps({"time": time.time(), **event}).encode() + b"\n")
        os.close(handle)

    yield "journal, append an event", partial(chained.append, event), append

    def read() -> None:
        chained.path.write_bytes(whole)
        chained.read()

    def read_bare() -> None:
        bare.write_bytes(1000 * line)
        [json.loads(one) for one in bare.read_bytes().splitlines()]

    yield "journal, read 1000 events", read, read_bare


# --- rows -------------------------------------------------------------------------------------------


def loading(folder: Path) -> Iterator[Pair]:
    """Rows as training loads them, against the same without a look at their hashes."""
    from benchmarks.store_read import unchecked
    from pipeline.store import hash as hashing
    from pipeline.train.dataset import Table

    rng = np.random.default_rng(0)
    for name, schema, n in (("two moons", MOONS, 1_000_000), ("1000 outputs", WIDE, 50_000)):
        kind, shape = schema.arrays["x"]
        x = rng.random((n, *shape)).astype(kind)
        store, _, _ = fill(folder / name.replace(" ", "-"), schema, rng.random((n, 2)), x)
        table = Table.of(store, n, 0.05)
        pieces = [(piece.view, table.positions(*piece[:3])) for piece in table.units()]
        load = partial(table.load, pieces, table.allocate(table.train_rows))
        hashing.check._seen = hashing.COMPILED_FROM  # as for a store of this size

        def bare(load: Job = load) -> None:
            with unchecked():
                load()

        yield f"rows compared with their hashes at loading, {name}", load, bare


def simulations() -> Iterator[Pair]:
    """A simulation whose outputs are copied and whose children are looked for, against the model alone."""
    for name in ("two_moons", "slcp"):
        simulator, rng = simulators.load(name), np.random.default_rng(1)
        theta = simulator.prior.sample(rng, 64)
        simulate = simulator.simulate_block if simulator.batched else simulator.simulate
        yield (
            f"outputs checked and copied, {64 if simulator.batched else 1} simulations of {name}",
            partial(simulate, theta if simulator.batched else theta[0], rng),
            partial(simulator._returned, theta if simulator.batched else theta[0], rng),
        )
    x = {"x": np.zeros(1000)}
    from simulators.output import own_arrays

    yield (
        "outputs checked and copied, 1000 numbers",
        partial(own_arrays, "x", x, frozenset()),
        lambda: {k: np.asarray(v) for k, v in x.items()},
    )


def children() -> Iterator[Pair]:
    """A simulation with the look for children it may have left, as in a worker, against the simulation."""
    from pipeline.simulate import children as module
    from pipeline.simulate.spec import SimulationSpec

    os.environ |= module.marked()
    look = module.Children()
    for name in ("two_moons", "slcp"):
        simulation = SimulationSpec(simulators.load(name), 0, 0, 1, None)
        work = partial(simulation.run, np.array([3]))
        yield f"children looked for, a simulation of {name}", lambda w=work: (w(), look.end()), work


def source() -> Iterator[Pair]:
    """Knowing the source a simulator is made by, against loading the simulator, once at the start of a stage."""
    simulator = simulators.load("two_moons")

    def load() -> None:
        simulators.load("two_moons")

    yield "source of the simulator, at the start", lambda: (load(), simulator.source_digest()), load


def hashing() -> Iterator[Pair]:
    """SHA-256 against a copy of the same bytes: what the seals of large files cannot be quicker than."""
    content = np.random.default_rng(0).bytes(1 << 24)
    yield (
        "SHA-256 of 16 MiB beside a copy",
        lambda: hashlib.sha256(content).digest(),
        lambda: bytearray(content),
    )


def pairs(folder: Path) -> Iterator[Pair]:
    for group in (documents, journal, loading, simulations, children, source, hashing):
        argument = (folder,) if group in (documents, journal, loading) else ()
        found = list(_safe(group, argument))
        if not found:
            print(f"left out: {group.__name__}: this version does not have it", file=sys.stderr)
        yield from found


def _safe(group: Callable[..., Iterator[Pair]], arguments: tuple[Any, ...]) -> Iterator[Pair]:
    try:
        yield from group(*arguments)
    except (ImportError, AttributeError, TypeError) as error:
        print(f"left out: {group.__name__}: {error!r}", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        for check, with_it, without in pairs(Path(name)):
            try:
                results.append(compare(check, with_it, without))
            except PipelineError as error:
                print(f"left out: {check}: {error}", file=sys.stderr)
    width = max(len(row["check"]) for row in results)
    print(f"{'check':<{width}}  {'with':>10}  {'without':>10}  ratio", file=sys.stderr)
    for row in results:
        line = f"{row['check']:<{width}}  {1e6 * row['with']:>7.0f} µs  {1e6 * row['without']:>7.0f} µs"
        print(f"{line}  {row['ratio']:.3f}", file=sys.stderr)
    print(
        json.dumps(
            {"benchmark": "costs", "checks": {r["check"]: round(r["ratio"], 4) for r in results}}
        )
    )


if __name__ == "__main__":
    main()
