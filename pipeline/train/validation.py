"""How many rows a validation takes: of many parameters fewer, as each row then says more and costs more."""

from __future__ import annotations

import math

VALUES = 1 << 18  # parameters of all rows together
FEWEST = 256  # rows, for any number of parameters
ROWS = 2048  # few rows are validated several times: losses are noisy
FREQUENT = 32  # parameters up to which a validation is cheap beside any number of steps


def most_rows(parameters: int) -> int:
    """Return how many rows of this many parameters are validated at most."""
    return max(FEWEST, VALUES // parameters)


def times_each(rows: int, parameters: int) -> int:
    """Return how often each of so many validation rows is validated, with other noise each time."""
    return max(1, min(ROWS, most_rows(parameters)) // rows)


def shortest_interval(parameters: int, batch: int) -> int:
    """Return the least steps between validations by default: those that train on as many rows as one takes."""
    return 1 if parameters <= FREQUENT else math.ceil(most_rows(parameters) / batch)
