"""The configuration that a run keeps in `config.yml`, and in its journal in case that file is damaged or lost."""

from __future__ import annotations

import os
from typing import Any

from pipeline import events
from pipeline.config import former_names
from pipeline.config.defined import restore
from pipeline.config.reading import build, parse, text
from pipeline.config.schema import Config, digest
from pipeline.errors import DamagedError, UsageError
from pipeline.files import read_text, write_text, writing
from pipeline.progress import log
from pipeline.run import RunDirectory


def kept(run: RunDirectory) -> dict[str, Any] | None:
    """Return the plain values of a run's configuration, None where there is no run.

    Where `config.yml` is damaged, changed or lost, the journal's last configuration counts, and that is said.

    Raises:
        DamagedError: the journal has none either.
    """
    values, problem = _examine(run)
    if problem:
        log(f"{problem}; the last configuration in the journal is used")
    return values


def load(run: RunDirectory) -> Config:
    """Return a run's configuration; a `UsageError` where there is no run."""
    values = kept(run)
    if values is None:
        raise UsageError(f"{run.path} is not a run: it has no config.yml")
    with former_names.unheard():
        config = build(values)
    restore(run, config.simulator.name)
    return config


def save(config: Config, run: RunDirectory) -> None:
    """Keep the resolved configuration in the run directory."""
    wanted = text(config.plain())
    try:
        if read_text(run.config) == wanted:
            return
    except (FileNotFoundError, DamagedError):
        pass
    write_text(run.config, wanted)


def mend(config: Config, run: RunDirectory) -> None:
    """Write `config.yml` anew where it is damaged, changed or lost: from the journal, or else from `config`."""
    try:
        values, problem = _examine(run)
    except DamagedError as error:
        values, problem = config.plain(), str(error)
    if not problem or values is None:
        return
    aside = run.config.with_name("config.yml.changed")
    with writing(aside):
        if run.config.exists():
            os.replace(run.config, aside)
    write_text(run.config, text(values))
    log(f"{run.config} is written anew; what was there, if anything, is {aside.name}")


def recorded(run: RunDirectory, needed: bool) -> Config | None:
    """Return the configuration of a run; None where there is none, or only damaged ones and it is not `needed`."""
    try:
        values = kept(run)
    except DamagedError as error:
        if needed:
            raise
        log(f"{error}; the one that is given is used")
        return None
    if values is None:
        return None
    with former_names.unheard():
        config = build(values)
    restore(run, config.simulator.name)
    return config


def _examine(run: RunDirectory) -> tuple[dict[str, Any] | None, str]:
    """Return the configuration that counts, and what is wrong with `config.yml`, "" if nothing.

    An earlier one of the journal's in place of the last was put there by someone else.
    """
    told = [event["config"] for event in events.read(run).events if "config" in event]
    try:
        values = parse(read_text(run.config), run.config)
        earlier = [digest(one) for one in told]
        if digest(values) not in earlier or digest(values) == earlier[-1]:
            return values, ""
        problem = f"{run.config} is not the last configuration of this run, but an earlier one"
    except FileNotFoundError:
        if not told:
            return None, ""
        problem = f"{run.config} is missing"
    except (DamagedError, UsageError) as error:
        problem = str(error)
    if not told:
        raise DamagedError(
            f"{problem}, and the journal has no configuration: give it again by"
            f" `sbiflow run CONFIG -o {run.path}`"
        )
    return told[-1], problem
