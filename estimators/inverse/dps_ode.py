"""Guidance at the end of the probability flow, solved by several passes.

    estimate(u) = end of the flow from u, by `flow_passes` passes of DPM-Solver++(2M)

The end lies in the support of the prior. A consistency function computes it by one pass; this method shows what
its approximation costs.

Xu et al.: Consistency Model is an Effective Posterior Sample Approximation for Diffusion Inverse Solvers (2024),
arXiv 2403.12063.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from estimators.inverse.flow import flow_end
from estimators.inverse.guidance import Guidance, StepSize
from estimators.inverse.measurements import Measurements
from estimators.inverse.prior import DiffusionPrior
from estimators.settings import PositiveInt


class DPSODE(Guidance):
    """Guidance by the end of the flow.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`.
        passes, step_size: see `Guidance`.
        flow_passes: passes of the denoiser for one end.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        passes: PositiveInt = 100,
        step_size: StepSize = 1.0,
        flow_passes: Annotated[int, Field(ge=2)] = 4,
    ) -> None:
        self.flow_passes = self.step_passes = flow_passes
        super().__init__(prior, passes=passes, step_size=step_size)

    def estimate(
        self, measured: Measurements, u: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor | None]:
        first: list[Tensor] = []

        def denoise(at: Tensor, level: float) -> Tensor:
            denoised = measured.prior.denoise(at, level)
            first.append(denoised)
            return denoised

        end = flow_end(denoise, u, sigma, measured.sigmas[0], self.flow_passes)
        return end, first[0]
