"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

from pipeline.errors import UsageError

UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def read_bytes(size: str | int) -> float:
    """Read `2GB`, `512 MiB` or a number of bytes.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?I?B?)\s*", str(size).upper())
    try:
        number = float(match[1]) * UNITS[match[2]] if match else 0.0
    except (ValueError, KeyError):
        number = 0.0
    if number <= 0:
        raise UsageError(f"simulate.memory = {size!r}: valid are bytes, or like '512MB' and '2GiB'")
    return number
