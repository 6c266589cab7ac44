"""ABC as a stage of a run: configured, resumable, in the journal, and in the report beside the network."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.abc.distance import distance_of
from pipeline.abc.proposal import FIRST
from pipeline.abc.smc import AbcResult, abc_smc
from pipeline.config import IMPORTED, Config, simulator_of
from pipeline.config.schema import AbcConfig
from pipeline.errors import DamagedError, UsageError
from pipeline.events import Recorder
from pipeline.files import read_arrays, write_arrays
from pipeline.infer.observation import Observed
from pipeline.progress import duration, log
from pipeline.results import POSTERIOR, abc_done, latest_training, write_abc
from pipeline.run import STREAMS, RunDirectory
from pipeline.stop import Stop
from pipeline.store import Store
from pipeline.store.observation import OBSERVED

Observation = dict[str, np.ndarray]
DRAWS = 1000  # of the posterior, around which the first generation is proposed
FORMAT = 1  # raised when equal settings would give other particles


def abc(
    config: Config,
    run: RunDirectory,
    observation: Observation,
    *,
    stop: Stop,
    record: Recorder | None = None,
    training: str | None = None,
) -> dict[str, Any]:
    """Run ABC-SMC for an observation, continue where it was stopped, or find it done.

    Arguments:
        config: the whole configuration; `abc` has the settings.
        run: the run directory; results are in `abc/KEY`.
        observation: the outputs of the simulator by name.
        stop: request to leave; a repeat uses all simulations that are finished.
        record: takes the events for the journal.
        training: key of the posterior that the settings name; None: the latest.

    Returns:
        The content of `done.json`: settings, epsilon of each generation, simulations by outcome, seconds.

    Raises:
        UsageError: the observation does not fit, or a setting is wrong.
        TooManyFailed: more than `abc.max_failed` of the simulations failed.
        Stopped: a stop was requested.
    """
    if config.simulator.name == IMPORTED:
        raise UsageError("ABC simulates, and the simulations of this run were made elsewhere")
    if training is None and _learns(config):
        training = latest_training(run)
    settings = _settings(config, training, observation)
    key = _key(settings)
    try:
        done = abc_done(run, key)
        if done is not None and complete(run, done):
            log(f"abc: {key} is done")
            return done
    except DamagedError as error:
        log(f"abc: {error}; made anew from its simulations")
    posterior = None if training is None else run.training(training) / POSTERIOR
    distance = distance_of(config.abc.distance, posterior)
    _check(run, observation)
    record, folder = record or (lambda event: None), run.abc(key)
    folder.mkdir(parents=True, exist_ok=True)
    record({"event": "start", "abc": key})
    write_arrays(folder / "observation.npz", observation)
    proposal = _first(config, posterior, observation, folder)
    began = time.monotonic()
    asked = config.abc
    result = abc_smc(
        simulator_of(config),
        observation,
        folder,
        distance=distance,
        population=asked.population,
        generations=asked.generations,
        simulations=asked.simulations or np.inf,
        seed=config.seed,
        workers=config.simulate.workers,
        timeout=config.simulate.timeout,
        max_failed=asked.max_failed,
        backend=config.cluster.backend,
        address=config.cluster.address,
        stop=stop,
        proposal=proposal,
        keep=identity(config, key, settings),
        record=lambda event: record({**event, "abc": key}),
    )
    seconds = round(time.monotonic() - began, 3)
    stored = Store.open(folder / "store")
    rows = {"rows": stored.counts()["done"], "digest": stored.digest()}
    content = write_abc(run, key, _content(result, settings, seconds) | rows)
    record({"event": "abc", "abc": key, "seconds": seconds, "simulations": result.simulations})
    log(f"abc: {key}, {sum(result.simulations.values())} simulations, {duration(seconds)}")
    return content


def repair(
    config: Config, run: RunDirectory, key: str, *, stop: Stop, record: Recorder | None = None
) -> None:
    """Simulate the rows again that the store of a finished ABC run lacks.

    Arguments:
        config: the configuration of the run; settings of ABC are those that the ABC run had.
        run, key: the run directory and which of its ABC runs.
        stop: request to leave.
        record: takes the events for the journal.
    """
    done = abc_done(run, key)
    if done is None or complete(run, done):
        return
    asked = dict(done["settings"]["abc"])
    training = asked.pop("posterior", None)
    settings = done["settings"]
    simulate = config.simulate.model_copy(update={"timeout": settings["timeout"]})
    changed = {"abc": AbcConfig(**asked), "seed": settings["seed"], "simulate": simulate}
    config = config.model_copy(update=changed)
    observation = read_arrays(run.abc(key) / "observation.npz")
    abc(config, run, observation, stop=stop, record=record, training=training)


def identity(config: Config, key: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the store of an ABC run."""
    simulator = simulator_of(config)
    return {
        "simulator": simulator.identity(),
        "names": list(simulator.prior.names),
        "seed": config.seed,
        "stream": f"abc-{key}",
        "block_size": 1,
        "outputs": OBSERVED,
        "proposal": {name: settings[name] for name in ("abc", "observation", "timeout")},
    }


def complete(run: RunDirectory, done: dict[str, Any]) -> bool:
    """Return whether the store of a finished ABC run has all its rows; older ones have no store."""
    counted = done.get("rows")
    return counted is None or Store.open(run.abc(done["key"]) / "store").counts()["done"] == counted


def _first(
    config: Config, posterior: Path | None, observation: Observation, folder: Path
) -> np.ndarray | None:
    """Return the posterior draws for the first generation, drawn once and kept; None: the prior."""
    if config.abc.proposal == "prior":
        return None
    import estimators  # imports torch

    path = folder / FIRST
    if not path.exists():
        assert posterior is not None
        loaded = estimators.load(posterior)
        x = Observed.of(loaded.x_shapes, observation).x
        theta = loaded.sample(x, DRAWS, seed=config.seed)[0].cpu().numpy()
        write_arrays(path, {"theta": theta.astype(np.float64)})
    return read_arrays(path)["theta"]


def _check(run: RunDirectory, observation: Observation) -> None:
    """Refuse an observation with other names or shapes than the outputs that are kept, if there are any."""
    for stream in STREAMS:
        if not (run.store(stream) / "store.json").exists():
            continue
        schema = Store.open(run.store(stream)).schema
        if schema is None:
            continue
        fixed = {n: s for n, (_, s) in schema.arrays.items() if n not in schema.ragged}
        wrong = [n for n, s in fixed.items() if np.shape(observation.get(n, 0)) != tuple(s)]
        if wrong or set(observation) != set(schema.arrays):
            valid = ", ".join(f"{name} {tuple(s)}" for name, (_, s) in schema.arrays.items())
            given = ", ".join(f"{name} {np.shape(v)}" for name, v in observation.items())
            raise UsageError(f"the observation has {given}; the simulator's outputs are {valid}")


def _settings(config: Config, training: str | None, observation: Observation) -> dict[str, Any]:
    """Return everything that determines the particles."""
    asked = config.abc.model_dump(mode="json")
    if asked["proposal"] == "prior":  # keys of ABC runs from the prior stay what they were
        del asked["proposal"]
    if training is not None:
        asked["posterior"] = training
    seen = hashlib.sha256()
    for name in sorted(observation):
        values = np.ascontiguousarray(observation[name])
        seen.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
    return {
        "format": FORMAT,
        "abc": asked,
        "simulator": simulator_of(config).identity(),
        "seed": config.seed,
        "timeout": config.simulate.timeout,
        "observation": seen.hexdigest(),
    }


def _key(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"{settings['abc']['population']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _learns(config: Config) -> bool:
    return config.abc.distance == "learned" or config.abc.proposal == "posterior"


def _content(result: AbcResult, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    values = asdict(result)
    low, middle, high = result.quantile(np.array([0.025, 0.5, 0.975])).tolist()
    return {
        "names": list(result.names),
        "median": middle,
        "low": low,
        "high": high,
        "epsilon": values["epsilon"].tolist(),
        "effective_draws": float(1 / np.square(result.weight).sum()),
        "simulations": result.simulations,
        "seconds": seconds,
        "settings": settings,
    }
