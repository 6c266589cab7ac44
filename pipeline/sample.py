"""Posterior draws for one or more observations."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from pipeline.errors import UsageError
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
    run: Run, observation: dict[str, np.ndarray], n: int, steps: int | None, seed: int, out: Path
) -> np.ndarray:
    """Draw from the run's latest posterior and write `theta`, `names` and `observation/*` to `out`.

    Args:
        observation: arrays of one observation, shaped as one simulation's outputs, or several along a first axis.
        n: draws for each observation.
        steps: network passes for a draw; none: the estimator's default.
        seed: of the draws.

    Returns:
        theta, shape (n, D) for one observation, (B, n, D) for several.
    """
    import estimators

    posterior = estimators.load(run.training(run.latest) / "posterior")
    single = _is_single(posterior.x_shapes, observation)
    x = {name: value[None] if single else value for name, value in observation.items()}
    theta = posterior.sample(x, n, steps=steps, seed=seed).double().numpy()
    theta = theta[0] if single else theta
    buffer = io.BytesIO()
    np.savez(
        buffer,
        theta=theta,
        names=np.array(posterior.names),
        **{f"observation/{k}": v for k, v in observation.items()},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_bytes(buffer.getvalue())
    os.replace(part, out)
    return theta


def _is_single(shapes: dict[str, tuple[int, ...]], observation: dict[str, np.ndarray]) -> bool:
    if set(shapes) != set(observation):
        raise UsageError(
            f"the observation holds {sorted(observation)}, the posterior needs {sorted(shapes)}"
        )
    ranks = set()
    for name, shape in shapes.items():
        got = observation[name].shape
        if got == tuple(shape):
            ranks.add(True)
        elif got[1:] == tuple(shape):
            ranks.add(False)
        else:
            raise UsageError(
                f"observation {name!r} has shape {got}; valid: {tuple(shape)}"
                f" or {('B', *shape)} for B observations"
            )
    if len(ranks) != 1:
        raise UsageError("some arrays hold one observation, others several")
    return ranks.pop()
