"""A small convolutional network whose features tell images apart: it serves distances, and nothing else.

It learns two tasks on real images: to which of K groups an image belongs, its class where classes are
given, else its cluster by k-means; and how much noise and blur were added to it. The first makes features
of what an image shows, the second of how sharp and how noisy it is. Training is short and follows from a
fixed seed; the trained network is kept in a folder under a hash of its images.

    Deep Clustering for Unsupervised Learning of Visual Features, 2018 (arXiv:1807.05520)
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLUSTERS = 20
WIDTH = 32  # features
STEPS, BATCH, RATE = 400, 128, 2e-3
DAMAGE = 20.0  # weight of the second task
ROWS = 1024  # images in one pass
VERSION = 1  # raised when equal images would give another network


class FeatureNetwork(nn.Module):
    """Three convolutions that halve the image, a layer of 32 features in (-1, 1), and the heads of both tasks.

    Arguments:
        side: height and width of the images.
        groups: K.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, side: int, groups: int) -> None:
        super().__init__()
        self.side = side
        left = math.ceil(math.ceil(math.ceil(side / 2) / 2) / 2)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((1, 16), (16, 32), (32, 64))
        )
        self.join = nn.Linear(64 * left**2, WIDTH)
        self.group = nn.Linear(WIDTH, groups)
        self.damage = nn.Linear(WIDTH, 2)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (rows, 32) of images (rows, side, side)."""
        h = ((images - self.mean) / self.scale).unsqueeze(1)
        for layer in self.layers:
            h = F.relu(layer(h))
        return torch.tanh(self.join(h.flatten(1)))

    @torch.no_grad()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features (n, 34) of flat images (n, D): those of the layer, and the estimated damage."""
        return self._rows(images, self._described)

    def _described(self, images: Tensor) -> Tensor:
        h = self.embed(images)
        return torch.cat([h, self.damage(h)], dim=1)

    @torch.no_grad()
    def classes(self, images: np.ndarray) -> np.ndarray:
        """Return the most likely group of each of the flat images (n, D), shape (n,)."""
        return self._rows(images, lambda part: self.group(self.embed(part)).argmax(1))

    def _rows(self, images: np.ndarray, f: object) -> np.ndarray:
        assert callable(f)
        flat = torch.from_numpy(np.array(images, dtype=np.float32))
        parts = flat.reshape(-1, self.side, self.side).split(ROWS)
        return np.concatenate([f(part).numpy() for part in parts])


def feature_network(images: np.ndarray, cache: Path | None = None) -> FeatureNetwork:
    """Return the network for distances to these images, trained or as it was kept.

    Arguments:
        images: square images with one channel, shape (n, D).
        cache: folder in which it is kept; None keeps it nowhere.

    Raises:
        ValueError: images that are not square, or fewer than there are clusters.
    """
    return trained(images, None, seed=0, cache=cache)


def trained(
    images: np.ndarray, classes: np.ndarray | None, *, seed: int, cache: Path | None = None
) -> FeatureNetwork:
    """Return a network trained on images with their classes, or clusters where `classes` is None.

    Arguments:
        images: square images with one channel, shape (n, D).
        classes: whole numbers from 0, shape (n,).
        seed: of its weights and batches.
        cache: folder in which it is kept.
    """
    images = np.ascontiguousarray(images, dtype=np.float32)
    side = math.isqrt(images.shape[1]) if images.ndim == 2 else 0
    if not side or side**2 != images.shape[1] or len(images) < CLUSTERS:
        raise ValueError(
            f"images of shape {images.shape}: features need at least {CLUSTERS} square images (n, D)"
        )
    groups = CLUSTERS if classes is None else int(np.max(classes)) + 1
    network = FeatureNetwork(side, groups)
    path = None if cache is None else cache / f"features-{_key(images, classes, seed)}.pt"
    if path is not None and _loaded(network, path):
        return network.eval()
    labels = clusters(images, groups) if classes is None else np.asarray(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNetwork(side, groups)
        _fit(network, torch.from_numpy(images).reshape(-1, side, side), torch.from_numpy(labels))
    if path is not None:
        _keep(network, path)
    return network.eval()


def clusters(images: np.ndarray, count: int) -> np.ndarray:
    """Return the cluster of each image by k-means, shape (n,)."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=1, random_state=0, max_iter=50).fit_predict(images)
    return np.asarray(found, dtype=np.int64)


def _fit(network: FeatureNetwork, images: Tensor, labels: Tensor) -> None:
    network.mean.copy_(images.mean())
    network.scale.copy_(images.std().clamp_min(1e-6))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        chosen = torch.randint(len(images), (min(BATCH, len(images)),))
        damage = torch.rand(len(chosen), 2) * (torch.rand(len(chosen), 2) < 0.5)
        features = network.embed(damaged(images[chosen], damage, float(network.scale)))
        loss = F.cross_entropy(network.group(features), labels[chosen].long())
        loss = loss + DAMAGE * (network.damage(features) - damage).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def damaged(images: Tensor, damage: Tensor, scale: float) -> Tensor:
    """Return images with noise of half their spread, and mixed with their blurred form.

    Arguments:
        images: shape (rows, side, side). damage: shares of noise and of blur in [0, 1], shape (rows, 2).
        scale: standard deviation of all pixels.
    """
    noise, blur = damage[:, 0, None, None], damage[:, 1, None, None]
    smooth = F.avg_pool2d(images.unsqueeze(1), 3, stride=1, padding=1, count_include_pad=False)
    mixed = torch.lerp(images, smooth.squeeze(1), blur)
    return mixed + 0.5 * scale * noise * torch.randn_like(images)


def _key(images: np.ndarray, classes: np.ndarray | None, seed: int) -> str:
    digest = hashlib.sha256(f"{VERSION} {images.shape} {seed}".encode())
    digest.update(images.tobytes())
    if classes is not None:
        digest.update(np.asarray(classes, dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def _loaded(network: FeatureNetwork, path: Path) -> bool:
    """Fill the network with kept weights; False where there are none that can be used."""
    try:
        network.load_state_dict(torch.load(path, "cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
        return False
    return True


def _keep(network: FeatureNetwork, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch.save(network.state_dict(), new)
    os.replace(new, path)
