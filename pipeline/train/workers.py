"""Training on Ray Train workers: the driver starts one worker for each rank and watches them.

Workers and driver communicate by two files in the folder of the training: rank 0 appends its events to
`events.jsonl`, and the driver requests a stop by writing `stop`. The saved states are those of
`checkpoint.py`, so a worker group that Ray starts again continues like a repeated command.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import PipelineError, UsageError
from pipeline.files import write_whole
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.train.checkpointer import Event
from pipeline.train.setup import Training

EVENTS, STOP, RAY = "events.jsonl", "stop", "ray"
POLL_SECONDS = 0.2
COLLECTIVE_SECONDS = 1800  # a rank that waits longer for the others gives up
MOST_FAILURES = 3  # restarts of the worker group after a lost worker


def fit_on_workers(training: Training, stop: Stop, emit: Callable[[Event], None]) -> str:
    """Train on `train.workers` ranks, each with `train.threads` cores.

    Arguments:
        training: what the configuration asks for.
        stop: request to save and leave.
        emit: takes the events.

    Returns:
        Why training stopped on request, "" when it is finished.

    Raises:
        UsageError: the cluster does not have the cores or GPUs.
        PipelineError: training failed on the workers.
    """
    directory, presence = training.directory.resolve(), training.run.presence()
    for name in (EVENTS, STOP):
        (directory / name).unlink(missing_ok=True)
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(COLLECTIVE_SECONDS))
    with _ray(training.config):
        outcome: dict[str, Any] = {}
        thread = threading.Thread(target=_launch, args=(training, directory, outcome), daemon=True)
        thread.start()
        read = 0
        while thread.is_alive() and presence.there():
            thread.join(POLL_SECONDS)
            read = _forward(directory / EVENTS, read, emit)
            if stop.requested and not (directory / STOP).exists():
                write_whole(directory / STOP, stop.reason)
    _forward(directory / EVENTS, read, emit)
    for name in (EVENTS, STOP):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / RAY, ignore_errors=True)
    if error := outcome.get("error"):
        if isinstance(error, PipelineError):
            raise error
        raise PipelineError(f"training {training.key} failed on the workers: {error}") from error
    return str(outcome["reason"])


def _launch(training: Training, directory: Path, outcome: dict[str, Any]) -> None:
    """Run the trainer to its end; leave a reason or an error in `outcome`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = training.config.train
    trainer = TorchTrainer(
        _work,
        train_loop_config={"config": training.config, "run": str(training.run.path.resolve())},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker=_resources(training.config),
        ),
        run_config=RunConfig(
            name=RAY,
            storage_path=str(directory),
            failure_config=FailureConfig(max_failures=MOST_FAILURES),
        ),
    )
    try:
        reason, message = trainer.fit().return_value
        outcome["reason"] = reason
        if message:
            outcome["error"] = PipelineError(message)
    except Exception as error:  # handed to the main thread, which raises it
        outcome["error"] = error


def _work(given: dict[str, Any]) -> tuple[str, str]:
    """Train as one rank; return the reason of a stop, and the message of an error that a restart cannot mend."""
    import ray.train
    import torch

    from pipeline.train.fit import fit
    from pipeline.train.ranks import Ranks

    context = ray.train.get_context()
    config: Config = given["config"]
    training = Training(config, RunDirectory(Path(given["run"])))
    presence = training.run.presence()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.train.threads)
    device = "cuda" if config.train.gpu else "cpu"
    with (training.directory / EVENTS).open("a", encoding="utf-8") as file:

        def emit(event: Event) -> None:
            if rank == 0:
                file.write(json.dumps(event) + "\n")
                file.flush()

        def stopping() -> str:
            presence.there()
            try:
                return (training.directory / STOP).read_text(encoding="utf-8")
            except FileNotFoundError:
                return ""

        try:
            return fit(training, Ranks(rank, world, device), stopping, emit), ""
        except PipelineError as error:  # trying again would end the same way
            return "", str(error)


def _forward(path: Path, start: int, emit: Callable[[Event], None]) -> int:
    """Pass on the complete lines after byte `start`; return where they end."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return start
    end = content.rfind(b"\n") + 1
    for line in content[:end].splitlines():
        emit(json.loads(line))
    return start + end


def _resources(config: Config) -> dict[str, float]:
    """Return what one worker takes: a core for each of its threads, and a GPU if it computes on one."""
    gpus = {"GPU": 1.0} if config.train.gpu else {}
    return {"CPU": float(config.train.threads), **gpus}


@contextmanager
def _ray(config: Config) -> Iterator[None]:
    """Connect to Ray and check that it has the resources."""
    import ray

    import cluster

    asked = config.cluster
    try:
        with cluster.connect(asked.backend, asked.address):
            check_resources(config, ray.cluster_resources())
            yield
    except ConnectionError as error:
        raise PipelineError(f"cluster.backend={asked.backend}: {error}") from error


def check_resources(config: Config, available: Mapping[str, float]) -> None:
    """Refuse a training for which there are too few cores or GPUs.

    Arguments:
        config: the whole configuration.
        available: resource of Ray -> number.

    Raises:
        UsageError: there are too few; the message names the keys.
    """
    train = config.train
    for name, each in _resources(config).items():
        need = each * train.workers
        if available.get(name, 0) < need:
            threads = f" with train.threads={train.threads}" if each > 1 else ""
            raise UsageError(
                f"train.workers={train.workers}{threads} needs {need:g} {name}, "
                f"Ray has {available.get(name, 0):g}"
            )
