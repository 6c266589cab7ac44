"""A pool of worker processes: no Ray, no ports, the same guarantees as with actors.

A worker runs a `SimulationActor` behind a pipe: `python -m pipeline.simulate.process_pool HANDLE NAME`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.simulate.actor import SimulationActor, WorkerSetup
from pipeline.simulate.calls import CallResult, Worker
from pipeline.simulate.spawn import POOL, spawn

LEAVE = 20.0  # seconds that workers have to close their spools


@dataclass(eq=False)
class Process(Worker):
    """A worker that is a child of this process; `handle` is this end of the pipe."""

    child: Any = None
    _numbers: Iterator[int] = field(default_factory=count)

    def ask(self, method: str, *arguments: Any) -> Any:
        number = next(self._numbers)
        with suppress(OSError):  # it is dead, which `collect` will notice
            self.handle.send((number, method, arguments))
        return number

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self.handle.close()


class ProcessPool:
    """`size` living worker processes, and after the first death one more that takes the next dead one's place.

    Arguments:
        setup: for each worker.
        size: number of workers.
        cpus: cores of each.
        prefix: of the workers' names.
        bell: wakes `collect` when it has something to receive.
        path: where workers import from, see `spawn`.
        spawned: the first processes, which run already.
    """

    module = POOL
    spares = True  # whether a process waits for the next death

    def __init__(
        self,
        setup: WorkerSetup,
        size: int,
        cpus: float,
        prefix: str = "",
        bell: Connection | None = None,
        path: str | None = None,
        spawned: Sequence[tuple[Connection, Any]] = (),
    ) -> None:
        self.setup, self.cpus, self._prefix, self._bell = setup, cpus, prefix, bell
        self._path, self._spawned = path, list(spawned)
        self._numbers = count()
        self._spare: Process | None = None
        self.workers: list[Worker] = []
        try:
            for _ in range(size):
                self.workers.append(self._add())
        except BaseException:
            self.dismiss(0.0)
            raise

    def _add(self) -> Process:
        name = f"{self._prefix}{next(self._numbers):05d}"
        started = self._spawned.pop(0) if self._spawned else None
        handle, child = started or spawn(self.module, name, self.cpus, self._path)
        worker = Process(name, handle, child=child)
        worker.send("start", self.setup)
        return worker

    def note(self, worker: Worker) -> Path:
        return self.setup.folder / f"{worker.name}.note"

    def collect(self, timeout: float) -> Iterator[CallResult]:
        """Yield the answers that are there, after waiting at most `timeout` seconds for the first.

        A dead worker is replaced; its answer is `lost`.

        Raises:
            PipelineError: a call raised it.
        """
        owners = {worker.handle: worker for worker in self._living() if worker.calls}
        bell = [self._bell] if self._bell else []
        if not owners and not bell:
            time.sleep(timeout)
        for handle in wait([*owners, *bell], timeout) if owners or bell else ():
            if handle is self._bell:
                self._bell.recv_bytes()
                continue
            worker = owners[handle]
            try:
                number, result, error = worker.handle.recv()
            except (EOFError, OSError):
                yield self._replace(worker)
                continue
            call = worker.calls.pop(number)
            if error is not None:
                raise error
            worker.started = True
            yield CallResult(worker, call, result)

    def _living(self) -> list[Worker]:
        return [*self.workers, *([self._spare] if self._spare else [])]

    def _replace(self, worker: Worker) -> CallResult:
        assert isinstance(worker, Process)
        worker.end()
        spare, self._spare = self._spare, None
        if spare is not worker:
            self.workers[self.workers.index(worker)] = spare or self._add()
            self._spare = self._add() if self.spares else None
        return CallResult(worker, next(iter(worker.calls.values())), lost=True)

    def dismiss(self, patience: float = LEAVE) -> None:
        """Let idle workers close their spools, then end all of them."""
        deadline = time.monotonic() + patience
        closing = [worker for worker in self.workers if worker.started and not worker.blocks]
        for worker in closing:
            worker.ask("close")
        for worker in closing if patience else ():
            _drain(worker.handle, deadline)
        for worker in self._living():
            assert isinstance(worker, Process)
            worker.end()
        self.workers, self._spare = [], None


def _drain(handle: Connection, deadline: float) -> None:
    """Wait until a worker that was told to close has ended."""
    try:
        while handle.poll(max(0.0, deadline - time.monotonic())):
            handle.recv()
    except (EOFError, OSError):
        return


def serve(connection: Connection, actor: SimulationActor) -> None:
    """Answer calls of an actor's methods until told to close, or until the driver has ended."""
    method = ""
    while method != "close":
        try:
            number, method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        result, failed = None, None
        try:
            result = getattr(actor, method)(*arguments)
        except PipelineError as error:
            failed = error
        except Exception as error:
            failed = PipelineError(f"a simulation process failed: {error!r}")
        try:
            connection.send((number, result, failed))
        except OSError:  # a simulator has closed it
            return


if __name__ == "__main__":
    driver = Connection(int(sys.argv[1]))
    serve(driver, SimulationActor(sys.argv[2]))
    with suppress(OSError):  # a simulator has closed it
        driver.close()
