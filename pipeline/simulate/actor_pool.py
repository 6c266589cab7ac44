"""A pool of Ray actors: started, called, replaced when they die, dismissed at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.errors import PipelineError
from pipeline.simulate.actor import SimulationActor, WorkerSetup
from pipeline.simulate.calls import CallResult, Worker, environment
from pipeline.simulate.children import marked

LEAVE = 20.0  # seconds that actors have to close their spools


class Actor(Worker):
    """A worker that is a Ray actor."""

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self.handle, method).remote(*arguments)


class ActorPool:
    """`size` living actors, each with so many cores, bytes of memory and GPUs."""

    def __init__(
        self, setup: WorkerSetup, size: int, cpus: float, memory: float | None, gpus: float = 0.0
    ) -> None:
        self.setup, self.cpus, self.memory, self.gpus = setup, cpus, memory, gpus
        self._numbers = count()
        self._shared_setup = ray.put(setup)
        self.workers: list[Worker] = [self._add(1) for _ in range(size)]

    def _add(self, processes: int) -> Actor:
        name = f"{next(self._numbers):05d}"
        worker = Actor(name, self._start(name, processes), processes=processes)
        worker.send("start", self._shared_setup)
        return worker

    def _start(self, name: str, processes: int) -> Any:
        variables = {"env_vars": environment(self.cpus, self.gpus) | marked()}
        options = self._options(processes) | {"runtime_env": variables}
        return ray.remote(SimulationActor).options(**options).remote(name)

    def _options(self, processes: int) -> dict[str, Any]:
        return {
            "num_cpus": self.cpus * processes,
            "num_gpus": self.gpus * processes,
            "memory": self.memory and self.memory * processes,
            "max_restarts": 0,
            "max_task_retries": 0,
        }

    def note(self, worker: Worker) -> Path:
        return self.setup.folder / f"{worker.name}.note"

    def collect(self, timeout: float) -> Iterator[CallResult]:
        """Yield the answers that are there, after waiting at most `timeout` seconds for the first.

        A dead actor is replaced; its answer is `lost`.

        Raises:
            PipelineError: a call raised it.
        """
        owners = {reference: worker for worker in self.workers for reference in worker.calls}
        if not owners:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(list(owners), timeout=timeout)
        if ready:
            ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        for reference in ready:
            worker = owners[reference]
            if worker not in self.workers:  # an earlier answer of this round told its death
                continue
            call = worker.calls[reference]
            try:
                result = ray.get(reference, timeout=60)
            except RayTaskError as error:
                raise _cause(error) from None
            except RayActorError:
                ray.kill(worker.handle)  # it may only be unreachable
                self.workers[self.workers.index(worker)] = self._add(worker.processes)
                yield CallResult(worker, call, lost=True)
            else:
                del worker.calls[reference]
                worker.started = True
                yield CallResult(worker, call, result)

    def dismiss(self, patience: float = LEAVE) -> None:
        """Let idle actors close their spools, then end all of them."""
        waiting = [
            worker.handle.close.remote()
            for worker in self.workers
            if worker.started and not worker.blocks
        ]
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=patience)
        for worker in self.workers:
            ray.kill(worker.handle)
        self.workers = []


def pickled(value: Any) -> bytes:
    """Return bytes that `pickle.loads` reads on any node that has the same code, local functions included."""
    data: bytes = ray.cloudpickle.dumps(value)
    return data


def _cause(error: RayTaskError) -> PipelineError:
    if isinstance(error.cause, PipelineError):
        return error.cause
    return PipelineError(f"a simulation actor failed: {error}")
