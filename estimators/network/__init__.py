"""Free-form networks: what maps a noisy parameter, a summary of x and a time to a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from estimators import plugins
from estimators.checks import renamed
from estimators.settings import model_of, validated

if TYPE_CHECKING:
    from estimators.network.base import FreeForm

TABLE = {
    "adaptive_mlp": "estimators.network.adaptive_mlp:AdaptiveMLP",
    "image_unet": "estimators.network.image_unet:ImageUNet",
    "mlp": "estimators.network.mlp:ResidualMLP",
    "naive_mlp": "estimators.network.naive_mlp:NaiveMLP",
    "patch_transformer": "estimators.network.patch_transformer:PatchTransformer",
    "transformer": "estimators.network.transformer:Transformer",
    "unet": "estimators.network.unet:UNet",
}


def free_form_network(
    name: str,
    size: int,
    context: int,
    time: int,
    given: Mapping[str, Any],
    shape: tuple[int, ...] = (),
) -> FreeForm:
    """Return the free-form network of this name.

    Arguments:
        name: one of the table above, `package.module:attribute` or `file.py:attribute`.
        size, context, time: D, C and F, see `FreeForm`.
        given: the network's own settings; None stands for its default.
        shape: (height, width) where the parameters are an image; the default of `parameter_shape`.

    Raises:
        LookupError: there is none of this name.
        TypeError: it is no `FreeForm` class, or has no such argument.
        ValueError: an argument is out of range.
    """
    from estimators.network.base import FreeForm

    found = plugins.find("network", name, TABLE)
    kind = plugins.require_subclass("network", name, found, FreeForm)
    chosen = {key: value for key, value in given.items() if value is not None}
    if name == "unet" and "image" in chosen:
        chosen["parameter_shape"] = renamed("image", chosen.pop("image"), "parameter_shape")
    model = model_of(kind)
    if len(shape) == 2 and "parameter_shape" in model.model_fields:
        chosen.setdefault("parameter_shape", shape)
    validated(f"network {name!r}", model, chosen)
    network: FreeForm = kind(size, context, time, **chosen)
    return network
