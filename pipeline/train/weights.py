"""The optimiser: AdamW, gradient clipping and a moving average of the weights. The only use of private torch here.

Why not `torch.optim.AdamW`, `clip_grad_norm_` and `torch.optim.swa_utils.AveragedModel`: the networks are
small, so that the bookkeeping of these objects counts. Processor time of a training step relative to this file
(batch of 64, one thread, medians of alternating loops on a busy machine), for the network of
`python -m benchmarks.step` and for the first phase of the default estimator:

                                              cmpe 256 x 2   with clipping   cmpe_distilled
    AdamW(fused=True) and AveragedModel           1.17            1.23            1.05
    AdamW(foreach=True) and AveragedModel         1.38            1.43            1.17
    AdamW(fused=True), moving average as here     1.09            1.18            0.92

`torch._fused_adamw_` and `torch._foreach_*` are private: torch may rename them or change their arguments. Then
training fails with torch's own error, and `test_steps_are_those_of_adamw_with_clipped_gradients` fails before;
replace them by the objects above. The saved states hold `first`, `second` and `average`, which are `exp_avg`,
`exp_avg_sq` of AdamW and the parameters of AveragedModel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Weights:
    """Trainable parameters w, their moments, and their moving average a after step k.

        a_k = d_k a_{k-1} + (1 - d_k) w_k,   d_k = min(d, (1 + k) / (10 + k))

    The smaller d_k of early steps keeps the first weights out of the average of a short training.

    Reference: Decoupled Weight Decay Regularization (Loshchilov and Hutter 2019), arXiv 1711.05101.

    Arguments:
        parameters: what is trained; changed in place.
        decay: d in [0, 1); 0 keeps no average.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.values = [p.detach() for p in self.parameters]  # the same memory
        self.decay = decay
        self.average = [value.clone() for value in self.values] if decay else self.values
        self.first = [torch.zeros_like(value) for value in self.values]
        self.second = [torch.zeros_like(value) for value in self.values]
        self.count = torch.zeros((), device=self.values[0].device)

    def gradients(self) -> list[Tensor]:
        """Return the gradients, zero for a parameter that the loss does not depend on."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def step(
        self,
        gradients: list[Tensor],
        rate: float,
        weight_decay: float,
        clip: float | None,
        number: int,
    ) -> None:
        """Take one step of AdamW, update the average and reset the gradients.

        Arguments:
            gradients: as from `gradients()`.
            rate: learning rate.
            weight_decay: decoupled decay, multiplied by the rate.
            clip: largest norm of all gradients together.
            number: k, 0 for the first step.
        """
        with torch.no_grad():
            if clip is not None:
                norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
                torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp_(max=1.0))
            self.count += 1
            torch._fused_adamw_(
                *(self.values, gradients, self.first, self.second, []),
                [self.count] * len(self.values),
                lr=rate,
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
            for parameter in self.parameters:
                parameter.grad = None
            if self.decay:
                decay = min(self.decay, (1 + number) / (10 + number))
                torch._foreach_lerp_(self.average, self.values, 1.0 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the average as parameters within the context."""
        if not self.decay:
            yield
            return
        saved = [value.clone() for value in self.values]
        torch._foreach_copy_(self.values, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(self.values, saved)

    def settle(self) -> None:
        """Replace the parameters by the average."""
        torch._foreach_copy_(self.values, self.average)

    def finite(self) -> bool:
        """Return whether no weight is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.values)

    def state(self) -> dict[str, Any]:
        """Return everything but the parameters themselves."""
        average = self.average if self.decay else []
        return {"average": average, "first": self.first, "second": self.second}

    def load(self, state: dict[str, Any], steps: int) -> None:
        """Continue from a state.

        Arguments:
            state: as from `state()`.
            steps: number of steps taken before; the parameters themselves are loaded with the module.
        """
        self.count.fill_(steps)
        for name, saved in state.items():
            for value, old in zip(getattr(self, name) if saved else [], saved, strict=True):
                value.copy_(old)
