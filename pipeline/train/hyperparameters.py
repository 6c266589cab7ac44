"""How a training is optimised."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Hyperparameters:
    """How a training is optimised: the schedule of its K steps and what is done in each.

    The learning rate rises linearly in the first w steps and then falls as a cosine:

        rate_k = rate * (1 + cos(pi (k - w) / (K - w))) / 2,   w = warmup * K

    Reference: SGDR: Stochastic Gradient Descent with Warm Restarts (2016), arXiv 1608.03983.

    Arguments:
        steps: K, number of optimiser steps.
        learning_rate: the largest one.
        weight_decay: decoupled decay of AdamW, multiplied by the learning rate.
        warmup: share of the steps in which the learning rate rises, in [0, 1).
        clip: largest norm of all gradients together; None does not clip.
        ema: decay of the moving average of the weights, in [0, 1); 0 keeps no average.
        validate_every: steps between two validations.
        patience: validations without improvement after which training stops; None never stops early.
        amp: compute losses in bfloat16 where torch deems it safe.
        seed: of everything random.
        accumulate: parts in which the gradients of a step are computed; more take less memory.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    warmup: float
    clip: float | None
    ema: float
    validate_every: int
    patience: int | None
    amp: bool
    seed: int
    accumulate: int = 1

    def rate(self, step: int, steps: int | None = None) -> float:
        """Return the learning rate of a step.

        Arguments:
            step: k, 0 for the first.
            steps: K, where it is another than that of the whole training: in a phase.
        """
        steps = self.steps if steps is None else steps
        warm = self.warmup * steps
        if step < warm:
            return self.learning_rate * (step + 1) / math.ceil(warm)
        share = (step - warm) / (steps - warm)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2
