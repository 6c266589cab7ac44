"""Random numbers that belong to a row of the batch, whatever rank computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
SIZED = (torch.rand, torch.randn)


class RowNoise(TorchFunctionMode):
    """Draws random numbers for the rows of all ranks, and returns those of this rank's rows.

    All ranks start from one seed. So a row gets the numbers that a single rank would give it, and the number of
    ranks changes a training by rounding alone. `torch.rand`, `randn`, `randint`, their forms for a given
    tensor, and dropout are replaced; rows are the first axis, or the second where only that has their number.

    Arguments:
        rank, world: number of this rank, and of all.
        rows: rows of the batch on one rank.
    """

    def __init__(self, rank: int, world: int, rows: int) -> None:
        super().__init__()
        self.rank, self.world, self.rows = rank, world, rows

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        call: Any = function
        given = kwargs or {}
        if given.get("generator") is not None:
            return function(*args, **given)
        if function in LIKE:
            like = {"dtype": args[0].dtype, "device": args[0].device} | given
            return self._part(lambda size: LIKE[function](size, **like), args[0].shape)
        if function in SIZED:
            size = given.pop("size", None) or args
            size = size[0] if isinstance(size[0], Sequence) else size
            return self._part(lambda wide: call(wide, **given), size)
        if function is torch.randint:
            *ends, size = args if "size" not in given else (*args, given.pop("size"))
            return self._part(lambda wide: call(*ends, wide, **given), size)
        if function is F.dropout:
            return self._dropout(*args, **given)
        return function(*args, **given)

    def _part(self, draw: Callable[[list[int]], Tensor], size: Sequence[int]) -> Tensor:
        """Return this rank's rows of what is drawn for all rows."""
        if not size:
            return draw([])
        second = size[0] % self.rows != 0 and len(size) > 1 and size[1] == self.rows
        axis, wide = int(second), list(size)
        wide[axis] *= self.world
        return draw(wide).narrow(axis, self.rank * size[axis], size[axis])

    def _dropout(
        self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return values

        def kept(size: list[int]) -> Tensor:
            return torch.empty(size, device=values.device).bernoulli_(1 - p)

        return values * (self._part(kept, values.shape) / (1 - p)).to(values.dtype)
