"""What a driver and its workers say to each other, wherever the workers live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.simulation.note import NOTHING

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def environment(cpus: float) -> dict[str, str]:
    """Return the variables of a worker that has so many cores and no GPU."""
    return dict.fromkeys(THREADS, str(max(1, int(cpus)))) | {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(eq=False)
class Call:
    """A call that a worker has not answered yet."""

    method: str
    unit: int
    sent: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Worker:
    """One worker and its unanswered calls, in the order sent; `ask` sends one and returns its key."""

    name: str
    handle: Any
    calls: dict[Any, Call] = field(default_factory=dict)
    started: bool = False
    opened: bool = False
    holding: int = NOTHING  # the unit of which it holds rows back until the outputs are known

    def ask(self, method: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def send(self, method: str, *arguments: Any, unit: int = NOTHING) -> None:
        self.calls[self.ask(method, *arguments)] = Call(method, unit)

    @property
    def units(self) -> list[int]:
        """Numbers of the units it has, the first one running."""
        sent = [self.holding, *(call.unit for call in self.calls.values())]
        return [unit for unit in dict.fromkeys(sent) if unit != NOTHING]


@dataclass(frozen=True)
class Answer:
    """What a call returned; `result` is None and `lost` True when the worker is dead."""

    worker: Worker
    call: Call
    result: Any = None
    lost: bool = False


class Workers(Protocol):
    """Living workers, as many as were asked for: those that die are replaced."""

    @property
    def workers(self) -> list[Worker]: ...

    def note(self, worker: Worker) -> Path:
        """Return where a worker notes what it does."""

    def collect(self, timeout: float) -> Iterator[Answer]:
        """Yield the answers that are there, after waiting at most `timeout` seconds for the first."""
