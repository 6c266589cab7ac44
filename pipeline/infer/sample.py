"""Posterior draws for one or more observations."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from estimators.checks import renamed
from pipeline.config import load
from pipeline.errors import PipelineError, UsageError
from pipeline.imported.arrays import check_out, require_numbers
from pipeline.infer.observation import Observed
from pipeline.infer.reweight import reweighted
from pipeline.progress import Progress, log
from pipeline.results import Results, advising, latest_training
from pipeline.run import RunDirectory
from pipeline.train.device import device

MAX_STEPS = 10_000  # sampling steps
FLOAT = 4  # bytes


def read_sampling_steps(word: str) -> int:
    """Read `sampling_steps=N`; `steps=N` is its former name."""
    key, _, value = word.partition("=")
    valid = value.isdecimal() and 1 <= int(value[:9]) <= MAX_STEPS
    if key not in ("sampling_steps", "steps") or not valid:
        raise UsageError(f"{word!r}: valid here is sampling_steps=N with N from 1 to {MAX_STEPS}")
    return int(value) if key == "sampling_steps" else renamed(key, int(value), "sampling_steps")


def sample(
    run: RunDirectory,
    observation: dict[str, np.ndarray],
    n: int,
    sampling_steps: int | None,
    seed: int,
    out: Path,
    reweight: bool = False,
    calibrated: bool = False,
) -> tuple[int, ...]:
    """Draw from the latest posterior of a run and write `theta`, `names` and `observation/*` to a file.

    With `reweight` the file also has `weights`, `ess`, `log_evidence` and `pareto_k`. Without it the memory
    does not grow with n.

    Arguments:
        run: the run directory.
        observation: arrays of one observation, shaped as the outputs of one simulation, or of several
            observations along a first axis.
        n: draws for each observation.
        sampling_steps: network passes of a draw; None is the estimator's default.
        seed: of the draws.
        out: the file, .npz.
        reweight: weight the draws by prior times likelihood over their density.
        calibrated: move the draws as `evaluate.calibrated=true` found; they are then held in memory.

    Returns:
        The shape of theta, (n, D) for one observation, (B, n, D) for several.

    Raises:
        UsageError: an observation, sampling steps, a file to write, or a simulator that do not fit; no GPU
            where `evaluate.device` asks for one.
    """
    if reweight and calibrated:
        raise UsageError(
            "--reweight and --calibrated: moved draws have no density; give one of them"
        )
    check_out(out)
    require_numbers("the observation", observation)
    if out.suffix != ".npz":
        log(f"sample: {out} is written as numpy's .npz, whatever its name")
    with advising(run, "train"):
        on = device("evaluate.device", load(run).evaluate.device)
        posterior = Results(run, latest_training(run)).load(on)
    partial = posterior.has_conditionals
    observed = Observed.of(posterior.x_shapes, observation, partial)
    single, count = observed.single, len(observed)
    size = len(posterior.names)
    shape = (n, size) if single else (count, n, size)
    arrays = {f"observation/{name}": values for name, values in observed.outputs.items()}
    with _warnings_said(), _archive(out, math.prod(shape)) as archive:
        try:
            if reweight:
                drawn = asdict(
                    reweighted(
                        run, posterior, observed.outputs, observed.x, n, sampling_steps, seed
                    )
                )
                theta = iter([drawn.pop("theta")])
                arrays |= drawn
            elif calibrated:
                moved = posterior.sample(
                    observed.x, n, sampling_steps=sampling_steps, seed=seed, calibrated=True
                )
                theta = iter([moved.cpu().numpy()])
            else:
                batches = posterior.batches(observed.x, n, sampling_steps=sampling_steps, seed=seed)
                theta = _counted(batches, count * n)
            _add(archive, "theta", shape, theta)
        except ValueError as error:
            raise UsageError(str(error)) from error
        _add(archive, "names", (size,), iter([np.array(posterior.names)]))
        for name, values in arrays.items():
            one = values[0] if single else values
            _add(archive, name, one.shape, iter([one]))
    return shape


@contextmanager
def _archive(out: Path, numbers: int) -> Iterator[zipfile.ZipFile]:
    """Write an .npz under a temporary name; it is renamed when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if FLOAT * numbers > free:
        raise PipelineError(f"--out {out}: {FLOAT * numbers:.3g} bytes are needed, {free:.3g} free")
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name[:100]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            yield archive
        os.chmod(name, 0o644)
        os.replace(name, out)
    finally:
        Path(name).unlink(missing_ok=True)


def _add(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], parts: Iterator[np.ndarray]
) -> None:
    """Write an array of the archive from parts that follow each other in memory."""
    first = next(parts, np.zeros(shape, np.float32))
    header = {"descr": dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        write_array_header_1_0(file, header)
        for part in chain([first], parts):
            file.write(np.ascontiguousarray(part).tobytes())


def _counted(batches: Iterable[Any], total: int) -> Iterator[np.ndarray]:
    """Yield the draws of batches and show the progress."""
    with Progress("sample", total, "draws") as progress:
        for batch in batches:
            yield batch.cpu().numpy()
            progress.update(progress.done + len(batch))


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Print warnings like the other messages of a command."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for message in dict.fromkeys(str(one.message) for one in caught):
                log(f"sample: {message}")
