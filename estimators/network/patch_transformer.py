"""A transformer whose tokens are patches of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from estimators.network.adaptive_mlp import modulate
from estimators.network.base import FreeForm
from estimators.network.image import Patches, image_shape, observed_channels
from estimators.network.transformer import TransformerBlock
from estimators.settings import PositiveInt


class PatchTransformer(FreeForm):
    """One token for each patch of p x p pixels of the noisy parameter and of the observation together.

        h_i = W (noisy_i, observed_i) + b_i,   out_i = V norm(h_i) after the last block

    Every block adds gated attention among the tokens and a gated perceptron; scales, shifts and gates
    follow from time. All gates and the output start at zero. b_i tells a token its place.

    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), arXiv 2212.09748.

    Arguments:
        size, context, time: D, C and F; C is a multiple of the number of pixels, see summary `image`.
        parameter_shape: (height, width) or (channels, height, width) that the D parameters have, rows
            first; None is a square with one channel.
        width: size of a token.
        depth: number of blocks.
        heads: attention heads; a divisor of the width.
        patch: p.

    Raises:
        ValueError: the shape does not hold D parameters, the observation is no image of this size, or
            heads does not divide width.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        parameter_shape: Sequence[PositiveInt] | None = None,
        width: PositiveInt = 128,
        depth: PositiveInt = 6,
        heads: PositiveInt = 4,
        patch: PositiveInt = 4,
    ) -> None:
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        super().__init__(size, context, time)
        shape = image_shape("patch_transformer", size, parameter_shape)
        self.patches, self.width = Patches(shape, patch), width
        self.tokens = self.patches.rows * self.patches.columns
        drawn = shape[0] * patch**2
        seen = observed_channels("patch_transformer", context, shape) * patch**2
        self.first = nn.Linear(drawn + seen, width)
        self.place = nn.Parameter(0.02 * torch.randn(self.tokens, width))
        self.condition = nn.Sequential(
            nn.Linear(time, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, drawn)
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def row_memory(self) -> int:
        return self.tokens * (16 * self.width + self.tokens) + self.context

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        condition = self.condition(time).unsqueeze(1)
        h = torch.cat([self.patches.cut(noisy), self.patches.cut(context)], dim=1)
        h = self.first(h.flatten(2).transpose(1, 2)) + self.place
        for block in self.blocks:
            h = block(h, condition)
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        tokens = self.last(modulate(h, scale, shift)).transpose(1, 2)
        return self.patches.join(tokens.unflatten(2, (self.patches.rows, self.patches.columns)))
