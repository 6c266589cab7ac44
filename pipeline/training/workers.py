"""Training on Ray Train workers: the same work for each rank, started and followed by the driver.

The ranks and the driver talk through two files in the training's folder: rank 0 appends its events to
`events.jsonl`, the driver asks to stop by writing `stop`. States are those of `checkpoint.py`, so a worker
group that Ray starts again continues like a repeated command.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import PipelineError, UsageError
from pipeline.run import Run, write_whole
from pipeline.stop import Stop
from pipeline.training.keeper import Event
from pipeline.training.setup import Training

EVENTS, STOP, RAY = "events.jsonl", "stop", "ray"
POLL_SECONDS = 0.2
COLLECTIVE_SECONDS = 1800  # a rank that waits longer for the others gives up
MOST_FAILURES = 3  # restarts of the worker group after a lost worker


def fit_on_workers(training: Training, stop: Stop, emit: Callable[[Event], None]) -> str:
    """Train on `train.workers` ranks; return why training stopped on request, "" when it is finished.

    Raises:
        UsageError: the cluster has not the cores or GPUs that were asked for.
        PipelineError: training failed on the workers.
    """
    directory = training.directory.resolve()
    for name in (EVENTS, STOP):
        (directory / name).unlink(missing_ok=True)
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(COLLECTIVE_SECONDS))
    with _ray(training.config):
        outcome: dict[str, Any] = {}
        thread = threading.Thread(target=_launch, args=(training, directory, outcome), daemon=True)
        thread.start()
        read = 0
        while thread.is_alive():
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
    """Train as one rank; return the reason of a stop and the message of a failure that is final."""
    import ray.train
    import torch

    from pipeline.train import fit
    from pipeline.training.loop import Team

    context = ray.train.get_context()
    config: Config = given["config"]
    training = Training(config, Run(Path(given["run"])))
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.train.threads)
    device = "cuda" if config.train.gpu else "cpu"
    with (training.directory / EVENTS).open("a", encoding="utf-8") as file:

        def emit(event: Event) -> None:
            if rank == 0:
                file.write(json.dumps(event) + "\n")
                file.flush()

        def stopping() -> str:
            try:
                return (training.directory / STOP).read_text(encoding="utf-8")
            except FileNotFoundError:
                return ""

        try:
            return fit(training, Team(rank, world, device), stopping, emit), ""
        except PipelineError as error:  # trying again would end the same way
            return "", str(error)


def _forward(path: Path, start: int, emit: Callable[[Event], None]) -> int:
    """Pass on the whole lines behind byte `start`; return where they end."""
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
    gpus = {"GPU": 1.0} if config.train.gpu else {}
    return {"CPU": 1.0, **gpus}


@contextmanager
def _ray(config: Config) -> Iterator[None]:
    """Have a Ray to work on, checked for the resources that are asked for."""
    import cluster

    asked = config.cluster
    try:
        with cluster.connect(asked.backend, asked.address):
            _check_resources(config)
            yield
    except ConnectionError as error:
        raise PipelineError(f"cluster.backend={asked.backend}: {error}") from error


def _check_resources(config: Config) -> None:
    import ray

    have = ray.cluster_resources()
    for name, each in _resources(config).items():
        need = each * config.train.workers
        if have.get(name, 0) < need:
            raise UsageError(
                f"train.workers={config.train.workers} needs {need:g} {name}, "
                f"Ray has {have.get(name, 0):g}"
            )
