"""Where torch computes."""

from __future__ import annotations

from pipeline.errors import UsageError


def device(key: str, name: str) -> str:
    """Return torch's name of the device, after checking that it is there.

    Arguments:
        key: the configuration's key that asks for it, for the message.
        name: its value: cpu, cuda, or one of several like cuda:1.

    Raises:
        UsageError: a GPU is asked for that torch does not find.
    """
    if name == "cpu":
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name.partition(":")[2] or 0) >= count:
        raise UsageError(
            f"{key}={name}: torch {torch.__version__} finds {count or 'no'} GPUs here; use {key}=cpu, "
            "or a machine with a GPU and a torch that is built for it"
        )
    return name
