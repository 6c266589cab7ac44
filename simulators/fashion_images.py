"""Images of clothing without an observation: what a prior for inverse problems learns from.

    theta = image in [-1, 1],   no outputs

An estimator trained on them draws images, whatever is observed of them later; see `estimators.inverse`. The images
are those of `simulators.fashion_denoising`, in the same order.

Images: Fashion-MNIST (2017), arXiv 1708.07747.
"""

from __future__ import annotations

from simulators.distribution import Array
from simulators.factory import simulator
from simulators.fashion_denoising import FOLDER, SIDE, fashion_denoising


@simulator(batched=True)
class fashion_images:  # noqa: N801 - the simulator's name
    """Images of clothing.

    Arguments:
        size: 28, or 56 for doubled images.
        folder: where the files of the Debian package dataset-fashion-mnist are.
    """

    def __init__(self, size: int = SIDE, folder: str = FOLDER) -> None:
        self.prior = fashion_denoising(size=size, folder=folder).prior

    def simulate(self, theta: Array) -> dict[str, Array]:
        """Return no outputs."""
        return {}
