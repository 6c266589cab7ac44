"""What the CMPE paper's code does and what its text or the method it builds on says, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from estimators.checks import suggest, within
from estimators.estimator import Estimator, Phase
from estimators.transform import BOUNDS

IGNORE = "ignore"


def one_of(name: str, value: Any, valid: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of the valid words."""
    if value not in (words := list(valid)):
        raise ValueError(f"{name} = {value!r}{suggest(str(value), words)}")


def switch(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} = {value!r}; valid: True, False")


class KeepsLastWeights(Estimator):
    """An estimator that ends with the weights of its last step, as the paper's code does."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase whose validation losses are of no account."""
        return (Phase("training", 1.0, list(self.parameters()), moving=True),)


@dataclass(frozen=True)
class Choices:
    """The choices in which the paper's code and its text differ, see `benchmarks.paper.cmpe_paper`.

    Raises:
        ValueError, TypeError: a value that is not valid; the message lists what is.
    """

    extra_interval: bool
    validation_ticks: float
    huber_norm: str
    masks: str
    dropout_always: bool
    sigma_trainable: bool
    start: str
    bounds: str

    def __post_init__(self) -> None:
        for name in ("extra_interval", "dropout_always", "sigma_trainable"):
            switch(name, getattr(self, name))
        within("validation_ticks", self.validation_ticks, 0, 1)
        one_of("huber_norm", self.huber_norm, ("coordinate", "vector"))
        one_of("masks", self.masks, ("independent", "shared"))
        one_of("start", self.start, ("T", "marginal"))
        one_of("bounds", self.bounds, (IGNORE, *BOUNDS))

    def override(self, **given: Any) -> Choices:
        """Return the choices with the given ones that are not None in place of its own."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


PROTOCOLS = {
    "as_coded": Choices(True, 1 / 16, "coordinate", "independent", True, True, "T", IGNORE),
    "corrected": Choices(False, 0.0, "vector", "shared", False, False, "marginal", "reflect"),
}
