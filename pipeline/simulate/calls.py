"""Calls from a driver to its workers, whatever the workers are: Ray actors or processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.simulate.note import NOTHING

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def environment(cpus: float, gpus: float = 0.0) -> dict[str, str]:
    """Return the environment variables of a worker with so many cores; one with GPUs gets theirs from Ray."""
    threads = dict.fromkeys(THREADS, str(max(1, int(cpus))))
    return threads if gpus else threads | {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(eq=False)
class PendingCall:
    """A call that a worker has not answered yet."""

    method: str
    block: int
    sent: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Worker:
    """One worker and its unanswered calls, in the order sent."""

    name: str
    handle: Any
    calls: dict[Any, PendingCall] = field(default_factory=dict)
    started: bool = False
    opened: bool = False
    holding: int = NOTHING  # the block of which it holds rows back until the outputs are known
    processes: int = 1  # that simulate at a time

    def ask(self, method: str, *arguments: Any) -> Any:
        """Send a call and return its key in `calls`."""
        raise NotImplementedError

    def send(self, method: str, *arguments: Any, block: int = NOTHING) -> None:
        self.calls[self.ask(method, *arguments)] = PendingCall(method, block)

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks it has, the first one running."""
        sent = [self.holding, *(call.block for call in self.calls.values())]
        return [block for block in dict.fromkeys(sent) if block != NOTHING]


@dataclass(frozen=True)
class CallResult:
    """The answer to a call; `result` is None and `lost` is True when the worker is dead."""

    worker: Worker
    call: PendingCall
    result: Any = None
    lost: bool = False


class Workers(Protocol):
    """A pool of living workers, as many as were asked for: those that die are replaced."""

    @property
    def workers(self) -> list[Worker]: ...

    def note(self, worker: Worker) -> Path:
        """Return the file in which a worker notes what it does."""

    def collect(self, timeout: float) -> Iterator[CallResult]:
        """Yield the answers that are there, after waiting at most `timeout` seconds for the first."""
