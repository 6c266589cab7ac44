"""Everything in `estimators` that torch does not promise to keep. A test names this file when one is gone.

`torch.ops.mkldnn._linear_pointwise`
    Why: matrix products by oneDNN, which on AVX512 processors of other makers than Intel are faster than
    those of `torch.nn.functional.linear` (MKL).
    When it is gone: `onednn_linear` is None, and `estimators.network.product` takes torch's own product.
    When its arguments change: draws by perceptrons fail with torch's own error.

`torch._C._are_functorch_transforms_active`
    Why: under `torch.func` (the Jacobians of densities) a tensor has no memory that NumPy or oneDNN could
    read, and no public function tells.
    When it is gone: every call counts as transformed, so that torch's own operations are taken
    everywhere: correct, but training on one thread is slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _find_onednn_linear() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    operator: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None:
        return None
    return lambda h, weight, bias: operator(h, weight, bias, "none", [], "")


onednn_linear = _find_onednn_linear()  # h (rows, in), W (out, in), b (out,) -> h W^T + b
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def function_transforms_are_active() -> bool:
    """Say whether a transform of `torch.func` is running."""
    return bool(_transforms_active())
