"""Pictures of a growing spheroid: a strip of moments (png) and the growth in time (gif)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulators.registry import load
from simulators.tumor_spheroid.lattice import Lattice, lattice
from simulators.tumor_spheroid.state import CYCLING, QUIESCENT, STUCK, UM_PER_UNIT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection

STRIP_HOURS = (24.0, 120.0, 240.0, 360.0, 480.0)
GIF_HOURS = tuple(float(hour) for hour in range(8, 497, 8))
CELLS = {  # state of a site: (label, colour)
    QUIESCENT: ("quiescent", "#8b95a7"),
    CYCLING: ("cycling", "#e4572e"),
    STUCK: ("no room to grow", "#f2c14e"),
}


def draw_strip(
    path: str | Path,
    hours: Sequence[float] = STRIP_HOURS,
    *,
    side: int = 100,
    seed: int = 1,
    **parameters: float,
) -> Path:
    """Write a png: cells by their state above, the extracellular matrix below, at the given hours.

    Arguments:
        path: the file to write.
        hours: ascending, within the simulated time.
        side: sites per row of the lattice.
        seed: of the run.
        parameters: of the simulator, by name; its defaults otherwise.

    Returns: the path.
    """
    import matplotlib.pyplot as plt

    sites, x = _grow(hours, side, seed, parameters)
    size = (2.1 * len(hours), 4.7)
    figure, axes = plt.subplots(2, len(hours), figsize=size, layout="constrained", squeeze=False)
    top = max(float(x["snapshot_ecm"].max()), 1e-9)
    for i, hour in enumerate(hours):
        _frame(axes[0, i], sites)
        axes[0, i].set_title(f"{hour:g} h", fontsize=10)
        _cells(axes[0, i], sites, x["snapshot_state"][i], 1.9)
        _frame(axes[1, i], sites)
        matrix = _matrix(axes[1, i], sites, x["snapshot_ecm"][i], top)
    bar = figure.colorbar(matrix, ax=axes[1, :].tolist(), fraction=0.05, pad=0.01)
    bar.set_label("extracellular matrix", fontsize=8)
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color=colour, label=label, markersize=5)
        for label, colour in CELLS.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return _save(figure, path)


def draw_gif(
    path: str | Path,
    hours: Sequence[float] = GIF_HOURS,
    *,
    side: int = 100,
    seed: int = 1,
    frames_per_second: int = 12,
    **parameters: float,
) -> Path:
    """Write a gif of the cells by their state; arguments as for `draw_strip`. Needs pillow."""
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    sites, x = _grow(hours, side, seed, parameters)
    figure, axes = plt.subplots(figsize=(3.6, 3.8), layout="constrained")

    def draw(i: int) -> list[Collection]:
        axes.clear()
        _frame(axes, sites)
        axes.set_title(f"{hours[i]:.0f} h", fontsize=10)
        return _cells(axes, sites, x["snapshot_state"][i], 3.2)

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    animation = FuncAnimation(figure, draw, frames=len(hours))
    animation.save(path, writer=PillowWriter(fps=frames_per_second), dpi=80)
    plt.close(figure)
    return Path(path)


def _grow(
    hours: Sequence[float], side: int, seed: int, parameters: dict[str, float]
) -> tuple[Lattice, dict[str, NDArray[Any]]]:
    end_time = max(500.0, *hours)
    model = load("tumor_spheroid", side=side, snapshot_times=list(hours), end_time=end_time)
    return lattice(side), model(seed=seed, **parameters)


def _frame(axes: Axes, sites: Lattice) -> None:
    width = sites.side * UM_PER_UNIT
    axes.set(xlim=(0, width), ylim=(0, width), xticks=[], yticks=[], aspect="equal")


def _cells(axes: Axes, sites: Lattice, states: NDArray[np.int8], size: float) -> list[Collection]:
    drawn: list[Collection] = []
    for state, (_, colour) in CELLS.items():
        here = states == state
        x, y = sites.x[here] * UM_PER_UNIT, sites.y[here] * UM_PER_UNIT
        drawn.append(axes.scatter(x, y, s=size, c=colour, linewidths=0))
    return drawn


def _matrix(axes: Axes, sites: Lattice, ecm: NDArray[np.float64], top: float) -> Any:
    image = ecm.reshape(sites.side, sites.side).T  # site (i, j) lies in column i, row j
    width = sites.side * UM_PER_UNIT
    extent = (0.0, width, 0.0, width)
    return axes.imshow(image, origin="lower", extent=extent, vmin=0, vmax=top, cmap="viridis")


def _save(figure: Any, path: str | Path) -> Path:
    import matplotlib.pyplot as plt

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return Path(path)
