"""Names of a simulation's outputs and of their masks."""

from __future__ import annotations

from collections.abc import Iterable

MASK = "_mask"  # an output of varying length is padded; its mask has the same name with this ending


def masked(names: Iterable[str]) -> dict[str, str | None]:
    """Return the outputs in the order of their names, each with the name of its mask, if any."""
    given = set(names)
    outputs = [n for n in sorted(given) if not (n.endswith(MASK) and n[: -len(MASK)] in given)]
    return {n: n + MASK if n + MASK in given else None for n in outputs}
