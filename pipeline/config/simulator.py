"""The simulator that a configuration names."""

from __future__ import annotations

from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import UsageError


def simulator_of(config: Config) -> Any:
    """Load the configured simulator with its prior; a `UsageError` where it cannot be."""
    import simulators

    try:
        return simulators.load(
            config.simulator.name, prior=config.prior, **config.simulator.arguments
        )
    except SystemExit as error:
        raise UsageError(
            f"simulator {config.simulator.name!r}: its file ends the process, with exit code {error.code}"
        ) from error
    except (LookupError, TypeError, ValueError) as error:
        message = error.args[0] if error.args else error
        raise UsageError(f"simulator {config.simulator.name!r}: {message}") from error
