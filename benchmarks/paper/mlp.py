"""The perceptron of the CMPE paper's code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from estimators.checks import within


class PaperMLP(nn.Module):
    """The paper's perceptron, with m_k the mask of dropout.

        h_0 = relu(W_0 v + b_0),   h_k = relu(h_{k-1} + m_k (W_k h_{k-1} + b_k)),   out = W h_K + b

    Arguments:
        inputs, outputs: sizes of v and of the output.
        width: units of a layer.
        depth: number K of residual layers.
        dropout: share of a residual layer's units that a mask silences.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float) -> None:
        within("width", width, 1, integer=True)
        within("depth", depth, 0, integer=True)
        within("dropout", dropout, 0, 0.99)
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, outputs)
        self.dropout = dropout
        for layer in (self.first, *self.layers, self.last):  # as Keras does
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def masks(
        self, rows: int, device: torch.device, generator: torch.Generator | None
    ) -> Tensor | None:
        """Return fresh masks (K, rows, width), from a generator on the CPU or torch's own."""
        if not self.dropout:
            return None
        kept = 1.0 - self.dropout
        where = device if generator is None else torch.device("cpu")
        mask = torch.empty(len(self.layers), rows, self.first.out_features, device=where)
        return mask.bernoulli_(kept, generator=generator).div_(kept).to(device)

    def forward(self, v: Tensor, masks: Tensor | None) -> Tensor:
        h = torch.relu(self.first(v))
        for k, layer in enumerate(self.layers):
            update = layer(h)
            h = torch.relu(h + update if masks is None else torch.addcmul(h, masks[k], update))
        return self.last(h)

    def squares(self) -> Tensor:
        """Return the sum of the squared kernels but for the last layer's, shape ()."""
        kernels = [layer.weight.flatten() for layer in (self.first, *self.layers)]
        return torch.stack([torch.dot(w, w) for w in kernels]).sum()
