"""What networks for parameters that are an image have in common: shapes, and patches of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def image_shape(
    network: str, size: int, given: Sequence[int] | None, word: str = "parameter_shape"
) -> tuple[int, int, int]:
    """Return (channels, height, width) of D parameters.

    Arguments:
        network: its name, for the message.
        size: D.
        given: (height, width) or (channels, height, width); None is a square with one channel.
        word: the setting's name, for the message.

    Raises:
        ValueError: the shape does not hold D parameters, or D is no square and no shape is given.
    """
    side = math.isqrt(size)
    if given is None and side**2 != size:
        raise ValueError(
            f"network {network!r}: {size} parameters are no square image; "
            f"give {word} = [height, width] or [channels, height, width]"
        )
    shape = (side, side) if given is None else tuple(given)
    shape = (1, *shape) if len(shape) == 2 else shape
    if len(shape) != 3 or math.prod(shape) != size:
        raise ValueError(
            f"network {network!r}: {word} = {list(given or shape)} does not hold {size} parameters; "
            "valid is [height, width] or [channels, height, width] with this product"
        )
    return shape


def observed_channels(network: str, context: int, shape: tuple[int, int, int]) -> int:
    """Return how many channels an observation of C numbers has on the pixels of the parameters; 0 without one.

    Raises:
        ValueError: C is no multiple of height times width.
    """
    _, height, width = shape
    channels, left = divmod(context, height * width)
    if left or (context and not channels):
        raise ValueError(
            f"network {network!r} takes the observation as an image of {height} x {width} pixels, "
            f"which {context} numbers are not: use summary 'image', with size = [{height}, {width}] "
            "where the observation has another size, or network 'unet', which takes a vector"
        )
    return channels


class Patches:
    """Cuts images into patches of p x p pixels, which become channels, and joins them again.

    Arguments:
        shape: (channels, height, width) of the images; zeros fill up the last patches.
        side: p.
    """

    def __init__(self, shape: tuple[int, int, int], side: int) -> None:
        self.shape, self.side = shape, side
        _, height, width = shape
        self.rows, self.columns = math.ceil(height / side), math.ceil(width / side)
        self.missing = (0, self.columns * side - width, 0, self.rows * side - height)

    def cut(self, images: Tensor) -> Tensor:
        """Return (rows, c p^2, height / p, width / p) of flat images (rows, c height width)."""
        _, height, width = self.shape
        channels = images.shape[-1] // (height * width)
        if not channels:  # no observation
            return images.new_zeros(len(images), 0, self.rows, self.columns)
        images = F.pad(images.unflatten(-1, (channels, height, width)), self.missing)
        return F.pixel_unshuffle(images, self.side)

    def join(self, patches: Tensor) -> Tensor:
        """Return flat images (rows, c height width): the inverse of `cut`."""
        _, height, width = self.shape
        return F.pixel_shuffle(patches, self.side)[:, :, :height, :width].flatten(1)
