"""What each variable is in a conditional: known, wanted, or absent; and random conditionals for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CONDITION, TARGET, ABSENT = 0, 1, 2  # known; to be drawn; neither
COUNT = 3


@dataclass(frozen=True)
class RandomStates:
    """Random states of the variables, parameters first, one conditional for each row.

    With the probabilities `posterior` and `likelihood` a row is that of p(theta | x) or p(x | theta); in all
    others each variable is a condition with a probability that is uniform in [0, 1]. In a share `absent` of
    the rows each output is absent with a probability that is uniform too. At least one variable is a target.

    Arguments:
        parameters: their number D.
        outputs: their number M.
        posterior, likelihood, absent: shares in [0, 1].
    """

    parameters: int
    outputs: int
    posterior: float
    likelihood: float
    absent: float

    def draw(self, rows: int, device: torch.device) -> Tensor:
        """Return states (rows, D + M), int64."""
        size = self.parameters + self.outputs
        is_parameter = torch.arange(size, device=device) < self.parameters
        kind, rate = torch.rand(rows, 2, device=device).split(1, dim=1)
        condition = torch.rand(rows, size, device=device) < rate
        condition = torch.where(kind < self.posterior + self.likelihood, is_parameter, condition)
        condition = torch.where(kind < self.posterior, ~is_parameter, condition)
        states = torch.where(condition, CONDITION, TARGET)
        some, rate = torch.rand(rows, 2, device=device).split(1, dim=1)
        lost = (torch.rand(rows, size, device=device) < rate) & (some < self.absent)
        states = torch.where(lost & ~is_parameter, ABSENT, states)
        none = ~(states == TARGET).any(1, keepdim=True)
        return torch.where(none & is_parameter, TARGET, states)
