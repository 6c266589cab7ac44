"""Posterior draws for one or more observations."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.errors import UsageError
from pipeline.progress import say
from pipeline.reweight import reweighted
from pipeline.run import Run


def read_observation(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an observation from an .npz, or one array named `x` from an .npy file."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the observation {path}: {error}") from None
    if isinstance(loaded, np.ndarray):
        return {"x": loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def sample(
    run: Run,
    observation: dict[str, np.ndarray],
    n: int,
    steps: int | None,
    seed: int,
    out: Path,
    reweight: bool = False,
) -> np.ndarray:
    """Draw from the run's latest posterior and write `theta`, `names` and `observation/*` to `out`.

    With weights, `weights`, `ess`, `log_evidence` and `pareto_k` stand beside them.

    Args:
        observation: arrays of one observation, shaped as one simulation's outputs, or several along a first axis.
        n: draws for each observation.
        steps: network passes for a draw; none: the estimator's default.
        seed: of the draws.
        reweight: weight the draws by prior and likelihood over their density.

    Returns:
        theta, shape (n, D) for one observation, (B, n, D) for several.

    Raises:
        UsageError: an observation, passes, or a simulator that do not fit.
    """
    import estimators

    posterior = estimators.load(run.training(run.latest) / "posterior")
    shapes = posterior.x_shapes
    single = _is_single(shapes, observation)
    several = {name: value[None] if single else value for name, value in observation.items()}
    x = _padded(shapes, several)
    with _warnings_said():
        try:
            if reweight:
                drawn = asdict(reweighted(run, posterior, several, x, n, steps, seed))
            else:
                drawn = {"theta": posterior.sample(x, n, steps=steps, seed=seed).cpu().numpy()}
        except ValueError as error:
            raise UsageError(str(error)) from error
    arrays = {name: values[0] if single else values for name, values in drawn.items()}
    theta = arrays["theta"]
    buffer = io.BytesIO()
    arrays |= {f"observation/{name}": values for name, values in observation.items()}
    arrays["names"] = np.array(posterior.names)
    np.savez(buffer, **arrays)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_bytes(buffer.getvalue())
    os.replace(part, out)
    return theta


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say warnings as the other messages of a command."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for message in dict.fromkeys(str(one.message) for one in caught):
                say(f"sample: {message}")


def _is_single(shapes: dict[str, tuple[int, ...]], observation: dict[str, np.ndarray]) -> bool:
    outputs = {name: shape for name, shape in shapes.items() if not _masks(shapes, name)}
    if set(outputs) != set(observation):
        raise UsageError(
            f"the observation holds {sorted(observation)}, the posterior needs {sorted(outputs)}"
        )
    ranks = {_fits(name, observation[name].shape, shapes) for name in outputs}
    if len(ranks) != 1:
        raise UsageError("some arrays hold one observation, others several")
    return ranks.pop()


def _masks(shapes: dict[str, tuple[int, ...]], name: str) -> bool:
    return name.endswith("_mask") and name.removesuffix("_mask") in shapes


def _fits(name: str, got: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Return whether a shape is that of one observation (True) or of several (False)."""
    shape = tuple(shapes[name])
    ragged = f"{name}_mask" in shapes
    for single, inner in ((True, got), (False, got[1:])):
        shorter = ragged and len(inner) == len(shape) and inner[0] <= shape[0]
        if inner == shape or (shorter and inner[1:] == shape[1:]):
            return single
    raise UsageError(
        f"observation {name!r} has shape {got}; valid: {shape}"
        f"{' or shorter' if ragged else ''}, or {('B', *shape)} for B observations"
    )


def _padded(shapes: dict[str, tuple[int, ...]], x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bring outputs of varying length to the training's length, with their masks."""
    result = dict(x)
    for name, values in x.items():
        if f"{name}_mask" in shapes:
            longest, length = shapes[name][0], values.shape[1]
            width = [(0, 0), (0, longest - length), *[(0, 0)] * (values.ndim - 2)]
            result[name] = np.pad(values, width)
            present = np.arange(longest) < length
            result[f"{name}_mask"] = np.tile(present.astype(np.float32), (len(values), 1))
    return result
