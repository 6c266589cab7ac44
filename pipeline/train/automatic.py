"""The estimator that `estimator.name: auto` stands for."""

from __future__ import annotations

from collections.abc import Mapping

from estimators import automatic
from estimators.preprocessing import steps_of
from pipeline.config import Config
from pipeline.errors import UsageError


def decided(config: Config, shape: tuple[int, ...], x: Mapping[str, tuple[int, ...]]) -> Config:
    """Return the configuration with the estimator named, and its arguments; as it is if it names one.

    Arguments:
        shape: of the parameters as an array.
        x: shapes of the outputs, masks included, before their preprocessing.

    Raises:
        UsageError: the preprocessing does not fit the outputs.
    """
    asked = config.estimator
    if asked.name != automatic.NAME:
        return config
    shapes = dict(x)
    try:
        for step in steps_of(asked.preprocessing):
            shapes = step.shapes(shapes)
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"estimator.preprocessing={asked.preprocessing!r} does not fit outputs of shapes {dict(x)}: {error}"
        ) from error
    only = asked.only.get(automatic.CHOSEN, {})
    given = asked.settings | only
    arguments = automatic.complete(automatic.choose(shape, shapes), given)
    own = {key: value for key, value in arguments.items() if key not in only}
    estimator = asked.model_copy(update={"name": automatic.CHOSEN, "arguments": own})
    return config.model_copy(update={"estimator": estimator})
