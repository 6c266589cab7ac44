"""Where torch computes."""

from __future__ import annotations

from pipeline.errors import UsageError


def device(key: str, gpu: bool) -> str:
    """Return torch's name of the device.

    Arguments:
        key: the configuration's key that asks for a GPU, for the message.
        gpu: its value.

    Raises:
        UsageError: a GPU is asked for, and torch finds none.
    """
    if not gpu:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            f"{key}=true: torch {torch.__version__} finds no GPU here; use {key}=false, "
            "or a machine with a GPU and a torch that is built for it"
        )
    return "cuda"
