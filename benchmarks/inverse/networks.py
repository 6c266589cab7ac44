"""Neural operators for images of clothing, each twice: another architecture and another seed for judging.

    classifier   logits of the 10 classes
    segmenter    logits of 11 classes for each pixel: 0 background, 1 + class where a pixel is above 0.1
    embedding    a direction in 64 dimensions, in place of a caption: two crops of one image are close

Trained on the last 10 000 training images, which no prior of the small plan has seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.inverse import CategoricalNoise, Directional, Operator
from simulators.data_set import read_idx
from simulators.fashion_denoising import FOLDER

SIDE, CLASSES, WIDTH = 28, 10, 64
FOREGROUND = -0.8  # 0.1 of the range [-1, 1]
STEPS, BATCH, RATE = 500, 96, 2e-3
TASKS = ("classifier", "segmenter", "embedding")


@lru_cache(maxsize=1)
def labelled() -> tuple[Tensor, Tensor]:
    """Return the images (n, 784) in [-1, 1] that operators learn from, and their classes."""
    return _read("train", slice(50_000, None))


@lru_cache(maxsize=1)
def test_images() -> tuple[Tensor, Tensor]:
    """Return the test images (n, 784) in [-1, 1] and their classes."""
    return _read("t10k", slice(None))


def _read(name: str, rows: slice) -> tuple[Tensor, Tensor]:
    folder = Path(FOLDER)
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")[rows].reshape(-1, SIDE**2)
    classes = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")[rows]
    return torch.from_numpy(images / np.float32(127.5) - 1), torch.from_numpy(
        classes.astype(np.int64)
    )


class Plain(nn.Module):
    """Convolutions that halve the image, with a head of so many outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.join, self.head = nn.Linear(64 * 16, 128), nn.Linear(128, outputs)

    def forward(self, theta: Tensor) -> Tensor:
        h = theta.view(-1, 1, SIDE, SIDE)
        for layer in self.layers:
            h = F.relu(layer(h))
        return self.head(F.relu(self.join(h.flatten(1))))


class Residual(nn.Module):
    """Residual blocks on patches with a mean over places, with a head of so many outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 48, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(48, 48, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(48 * 9, outputs)

    def forward(self, theta: Tensor) -> Tensor:
        h = F.silu(self.first(theta.view(-1, 1, SIDE, SIDE)))
        for k, block in enumerate(self.blocks):
            h = h + F.silu(block(h))
            h = F.avg_pool2d(h, 2) if k == 1 else h
        return self.head(F.adaptive_avg_pool2d(h, 3).flatten(1))


class PlainMap(nn.Module):
    """A small U-Net with logits for each pixel."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 24, 3, padding=1)
        self.down = nn.Conv2d(24, 48, 4, stride=2, padding=1)
        self.lower = nn.Conv2d(48, 64, 4, stride=2, padding=1)
        self.wide = nn.Linear(64 * 49, 64)
        self.up = nn.Conv2d(64 + 48, 48, 3, padding=1)
        self.last = nn.Conv2d(48 + 24, outputs, 3, padding=1)

    def forward(self, theta: Tensor) -> Tensor:
        one = F.relu(self.first(theta.view(-1, 1, SIDE, SIDE)))
        two = F.relu(self.down(one))
        low = F.relu(self.lower(two))
        low = low + F.relu(self.wide(low.flatten(1)))[:, :, None, None]
        h = F.relu(self.up(torch.cat([F.interpolate(low, scale_factor=2.0), two], 1)))
        return self.last(torch.cat([F.interpolate(h, scale_factor=2.0), one], 1))


class ResidualMap(nn.Module):
    """Residual blocks on 14 x 14 patches, which see all others by a mean; logits for each pixel."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 64, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(4))
        self.means = nn.ModuleList(nn.Linear(64 * 16, 64) for _ in range(4))
        self.last = nn.Conv2d(64, 4 * outputs, 3, padding=1)

    def forward(self, theta: Tensor) -> Tensor:
        h = F.silu(self.first(F.pixel_unshuffle(theta.view(-1, 1, SIDE, SIDE), 2)))
        for block, mean in zip(self.blocks, self.means, strict=True):
            whole = mean(F.adaptive_avg_pool2d(h, 4).flatten(1))
            h = h + F.silu(block(h) + whole[:, :, None, None])
        return F.pixel_shuffle(self.last(h), 2)


ARCHITECTURES: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], nn.Module], int]] = {
    "classifier": (Plain, Residual, CLASSES),
    "segmenter": (PlainMap, ResidualMap, CLASSES + 1),
    "embedding": (Plain, Residual, WIDTH),
}


def segmentation(images: Tensor, classes: Tensor) -> Tensor:
    """Return the class of every pixel of images (n, 784), (n, 28, 28)."""
    inside = images.view(-1, SIDE, SIDE) > FOREGROUND
    return torch.where(inside, 1 + classes[:, None, None], 0)


def shifted(images: Tensor) -> Tensor:
    """Return images moved by up to two pixels, each by its own."""
    wide = F.pad(images.view(-1, SIDE, SIDE), (2, 2, 2, 2), value=-1.0)
    moves = torch.randint(0, 5, (len(images), 2))
    place = torch.arange(SIDE)
    rows, columns = moves[:, :1] + place, moves[:, 1:] + place
    each = torch.arange(len(images))[:, None, None]
    return wide[each, rows[:, :, None], columns[:, None, :]].flatten(1)


def operator_of(task: str, *, held_out: bool, folder: Path) -> Operator:
    """Return a neural operator, trained or as it is kept in a folder."""
    network = ARCHITECTURES[task][int(held_out)](ARCHITECTURES[task][2])
    path = folder / f"{task}{'-held-out' if held_out else ''}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, "cpu", weights_only=True))
    else:
        network = _trained(task, held_out)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), path)
    network.eval().requires_grad_(False)
    noise = Directional() if task == "embedding" else CategoricalNoise()
    return Operator(network, noise, name=task)


def _trained(task: str, held_out: bool) -> nn.Module:
    """Train a network; the one for judging sees moved images."""
    torch.manual_seed(11 if held_out else 1)
    first, second, outputs = ARCHITECTURES[task]
    network = (second if held_out else first)(outputs)
    images, classes = labelled()
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        rows = torch.randint(len(images), (BATCH,))
        seen = shifted(images[rows]) if held_out else images[rows]
        optimiser.zero_grad()
        _loss(task, network, seen, classes[rows]).backward()
        optimiser.step()
    return network


def _loss(task: str, network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    if task == "classifier":
        return F.cross_entropy(network(images), classes)
    if task == "segmenter":
        return F.cross_entropy(network(images), segmentation(images, classes))
    pair = [shifted(images) + 0.2 * torch.randn_like(images) for _ in range(2)]
    one, other = (F.normalize(network(part), dim=1) for part in pair)
    return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(images)))
