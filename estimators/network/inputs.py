"""What a free-form network is given at a time t."""

from __future__ import annotations

from torch import Tensor, nn

from estimators.network.time import LogTimeFeatures, UnitTimeFeatures


class NetworkInputs(nn.Module):
    """The inputs of F(a c_in u, a context, features(t)), with a the input scale.

    A large scale lets a network start with high spatial frequencies.

    Arguments:
        features: features of a time.
        scale: a.
    """

    def __init__(self, features: LogTimeFeatures | UnitTimeFeatures, scale: float) -> None:
        super().__init__()
        self.features, self.scale = features, scale

    def forward(
        self, u: Tensor, context: Tensor, t: Tensor, c_in: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scaled parameter (rows, D), the scaled context (rows, C) and features (rows, F).

        Arguments:
            u: shape (rows, D).
            context: summary of x, shape (rows, C).
            t: one time for each row or for all, of any shape.
            c_in: factor on u, of the shape of t with an axis for D.
        """
        return self.parameter(u, c_in), self.context(context), self.time(t, len(u))

    def parameter(self, u: Tensor, c_in: Tensor | float = 1.0) -> Tensor:
        """Return a c_in u."""
        return self.scale * c_in * u

    def context(self, summary: Tensor) -> Tensor:
        """Return a times the summary of x."""
        return self.scale * summary

    def time(self, t: Tensor, rows: int) -> Tensor:
        """Return features(t), shape (rows, F)."""
        return self.features(t.reshape(-1)).expand(rows, -1)
