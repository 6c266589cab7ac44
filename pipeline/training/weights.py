"""Weights under training: AdamW, gradient clipping and a moving average, in few calls for each step.

The fused kernel of AdamW is called itself, with one count of steps for all parameters: for a small
network the bookkeeping of an optimiser object costs as much as the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Weights:
    """Trainable parameters w with their moments and their moving average a.

        a_k = d_k a_{k-1} + (1 - d_k) w_k,   d_k = min(d, (1 + k) / (10 + k))

    The early steps forget faster, so that a short training is not an average of its beginning.

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
        """Return the gradients, zero for a parameter that the loss did not reach."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def step(
        self,
        gradients: list[Tensor],
        rate: float,
        weight_decay: float,
        clip: float | None,
        number: int,
    ) -> None:
        """Take one step of AdamW, update the average and forget the gradients.

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
        """Put the average into the parameters for a while."""
        if not self.decay:
            yield
            return
        kept = [value.clone() for value in self.values]
        torch._foreach_copy_(self.values, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(self.values, kept)

    def settle(self) -> None:
        """Put the average into the parameters for good."""
        torch._foreach_copy_(self.values, self.average)

    def finite(self) -> bool:
        """Say whether no weight is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.values)

    def state(self) -> dict[str, Any]:
        """Return everything but the parameters themselves."""
        average = self.average if self.decay else []
        return {"average": average, "first": self.first, "second": self.second}

    def load(self, state: dict[str, Any], steps: int) -> None:
        """Continue behind `steps` steps; the parameters are loaded by the module's owner."""
        self.count.fill_(steps)
        for name, saved in state.items():
            for value, old in zip(getattr(self, name) if saved else [], saved, strict=True):
                value.copy_(old)
