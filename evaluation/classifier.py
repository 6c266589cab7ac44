"""Many small two-layer classifiers trained at once, by the rules of scikit-learn's `MLPClassifier`.

Every classifier f has its own data, parameters and Adam moments and stops on its own; the
arithmetic runs as batched matrix products over `SLOTS` classifiers. The rules are scikit-learn's,
and so are the random numbers: initial parameters and the order of the rows in every epoch come from
`RandomState(seed)` in its order of use, the same for every classifier.

    f(x) = w3' relu(W2' relu(W1' x + b1) + b2) + b3
    initial parameters ~ U(-b, b), b = sqrt(6 / (fan_in + fan_out))
    loss = mean over the batch of [softplus(f) - y f] + alpha/2 (|W1|^2 + |W2|^2 + |w3|^2) / batch
    alpha = 1e-4
    Adam: lr 1e-3, beta 0.9 and 0.999, eps 1e-8 beside the uncorrected sqrt(v); batches of 200
    stop: more than 10 epochs in a row whose mean loss is not below (best so far - 1e-4); at
    most 10 000
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

SLOTS = 32  # classifiers in work at a time: their activations stay in the cache
BATCH = 200
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
ALPHA = 1e-4
TOLERANCE, PATIENCE, MAX_EPOCHS = 1e-4, 10, 10_000


class Layers:
    """The shapes of one classifier and the views of its flat parameter vector."""

    def __init__(self, inputs: int, hidden: int, like: Tensor) -> None:
        self.pairs = ((inputs, hidden), (hidden, hidden), (hidden, 1))
        self.shapes = [shape for i, o in self.pairs for shape in ((i, o), (1, o))]
        self.sizes = [rows * columns for rows, columns in self.shapes]
        decay = np.repeat([ALPHA, 0.0] * len(self.pairs), self.sizes)
        self.decay = torch.as_tensor(decay, dtype=like.dtype, device=like.device)

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        """Return initial parameters, shape (P,)."""
        parts = []
        for i, o in self.pairs:
            bound = np.sqrt(6 / (i + o))
            parts += [rng.uniform(-bound, bound, i * o), rng.uniform(-bound, bound, o)]
        return np.concatenate(parts)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return W1, b1, W2, b2, W3, b3 of all classifiers, each (C, rows, columns)."""
        parts = flat.split(self.sizes, dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Orders:
    """The order of the rows in each epoch: every epoch shuffles the order of the one before."""

    def __init__(self, n: int, rng: np.random.RandomState, device: torch.device) -> None:
        self._rng, self._last, self._device = rng, np.arange(n), device
        self._known: list[Tensor] = []

    def of(self, epochs: Tensor) -> Tensor:
        """Return the orders of the given epochs, shape (len(epochs), n)."""
        wanted = [int(epoch) for epoch in epochs.tolist()]
        while len(self._known) <= max(wanted):
            shuffled = np.arange(len(self._last))
            self._rng.shuffle(shuffled)
            self._last = self._last[shuffled]
            self._known.append(torch.as_tensor(self._last, device=self._device))
        return torch.stack([self._known[epoch] for epoch in wanted])


def forward(weights: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden activations, twice (C, n, H), and logits (C, n) of classifiers on x (C, n, D)."""
    W1, b1, W2, b2, W3, b3 = weights
    h1 = torch.baddbmm(b1, x, W1).relu_()
    h2 = torch.baddbmm(b2, h1, W2).relu_()
    return h1, h2, torch.baddbmm(b3, h2, W3)[..., 0]


@dataclass
class _Work:
    """The classifiers in work; the first axis of every tensor is the slot."""

    owner: Tensor  # (S,) which classifier
    x: Tensor  # (S, n, D)
    y: Tensor  # (S, n)
    parameters: Tensor  # (S, P)
    first: Tensor  # (S, P) first moment
    second: Tensor  # (S, P) second moment
    steps: Tensor  # (S, 1)
    epochs: Tensor  # (S,)
    best: Tensor  # (S,) lowest epoch loss
    stale: Tensor  # (S,) epochs without improvement

    @classmethod
    def begin(cls, owner: Tensor, x: Tensor, y: Tensor, initial: Tensor) -> _Work:
        """Return classifiers `owner` with initial parameters."""
        parameters = initial.repeat(len(owner), 1)
        moments = torch.zeros_like(parameters), torch.zeros_like(parameters)
        zeros = [torch.zeros(len(owner), dtype=x.dtype, device=x.device) for _ in range(3)]
        best = torch.full_like(zeros[0], float("inf"))
        steps, epochs, stale = zeros
        return cls(
            owner, x[owner], y[owner], parameters, *moments, steps[:, None], epochs, best, stale
        )

    def keep(self, mask: Tensor, fresh: _Work) -> _Work:
        """Return the slots of `mask`, followed by those of `fresh`."""
        return _Work(
            *(
                torch.cat([getattr(self, f.name)[mask], getattr(fresh, f.name)])
                for f in fields(self)
            )
        )


def _epoch(work: _Work, layers: Layers, order: Tensor) -> Tensor:
    """Train every slot for one epoch, rows in its order (S, n); return the mean losses (S,)."""
    total = torch.zeros_like(work.best)
    weights = layers.views(work.parameters)
    gradient = torch.empty_like(work.parameters)
    slopes = layers.views(gradient)
    rectify = torch.ops.aten.threshold_backward
    rows = work.x.gather(1, order[..., None].expand_as(work.x)).split(BATCH, 1)
    labels = work.y.gather(1, order).split(BATCH, 1)
    for x, y in zip(rows, labels, strict=True):
        h1, h2, f = forward(weights, x)
        total += (softplus(f) - y * f).sum(1)
        total += 0.5 * (work.parameters.square() @ layers.decay)
        d3 = torch.sigmoid(f).sub_(y)[..., None]
        d2 = rectify(d3 * weights[4].mT, h2, 0)
        d1 = rectify(d2 @ weights[2].mT, h1, 0)
        for layer, (inputs, delta) in enumerate(((x, d1), (h1, d2), (h2, d3))):
            slopes[2 * layer].copy_(inputs.mT @ delta)
            slopes[2 * layer + 1].copy_(delta.sum(1, keepdim=True))
        gradient.addcmul_(work.parameters, layers.decay).div_(x.shape[1])
        _adam(work, gradient)
    return total / order.shape[1]


def _adam(work: _Work, gradient: Tensor) -> None:
    work.steps += 1
    work.first.lerp_(gradient, 1 - BETA1)
    work.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    rate = RATE * (1 - BETA2**work.steps).sqrt() / (1 - BETA1**work.steps)
    work.parameters.sub_(work.first.div(work.second.sqrt().add_(EPSILON)).mul_(rate))


def train(
    x: Tensor,
    y: Tensor,
    hidden: int,
    seed: int = 0,
    max_epochs: int = MAX_EPOCHS,
    tick: Callable[[int], None] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Train C binary classifiers, `SLOTS` at a time: a finished one is replaced by the next.

    Arguments:
        x: inputs, shape (C, n, D).
        y: labels 0 or 1 as floats, shape (C, n).
        hidden: units H of each of the two hidden layers.
        seed: of the initial parameters and of the order of the rows.
        max_epochs: after which a classifier stops in any case.
        tick: called with the number of finished classifiers after every epoch; may raise to stop.

    Returns:
        The parameters W1 (C, D, H), b1 (C, 1, H), W2 (C, H, H), b2 (C, 1, H), W3 (C, H, 1),
        b3 (C, 1, 1), and the number of epochs of each classifier, shape (C,).
    """
    count, n, inputs = x.shape
    rng = np.random.RandomState(seed)
    layers = Layers(inputs, hidden, x)
    initial = torch.as_tensor(layers.draw(rng), dtype=x.dtype, device=x.device)
    orders = Orders(n, rng, x.device)
    result = x.new_empty(count, len(initial))
    epochs = x.new_zeros(count)

    def enter(start: int, stop: int) -> _Work:
        return _Work.begin(torch.arange(start, stop, device=x.device), x, y, initial)

    entered = min(SLOTS, count)
    work = enter(0, entered)
    while len(work.owner):
        loss = _epoch(work, layers, orders.of(work.epochs))
        work.epochs += 1
        if tick:
            tick(entered - len(work.owner))
        work.stale = torch.where(loss > work.best - TOLERANCE, work.stale + 1, 0)
        work.best = torch.minimum(work.best, loss)
        done = (work.stale > PATIENCE) | (work.epochs >= max_epochs)
        finished = int(done.sum())
        if finished:
            result[work.owner[done]], epochs[work.owner[done]] = (
                work.parameters[done],
                work.epochs[done],
            )
            last = min(count, entered + finished)
            work = work.keep(~done, enter(entered, last))
            entered = last
    return layers.views(result), epochs
