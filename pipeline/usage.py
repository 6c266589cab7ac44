"""What a process uses of its machine: cores, memory, and a GPU's memory."""

from __future__ import annotations

import os
import sys
import time

MEGABYTE = 2**20


class Usage:
    """Measures the use since the last call."""

    def __init__(self) -> None:
        self._clock, self._cpu = time.monotonic(), _cpu()

    def __call__(self) -> dict[str, float]:
        """Return cores and memory of this process, the machine's load and free memory, and a GPU's."""
        clock, cpu = time.monotonic(), _cpu()
        cores = (cpu - self._cpu) / max(clock - self._clock, 1e-9)
        self._clock, self._cpu = clock, cpu
        values = {"cores": round(cores, 3), "load": round(os.getloadavg()[0], 2)}
        return values | _memory() | _gpu()


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


def _memory() -> dict[str, float]:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):  # not on Linux
        return {}
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    return {"memory_mb": round(pages * page / MEGABYTE, 1), "free_mb": round(free / MEGABYTE, 1)}


def _gpu() -> dict[str, float]:
    """Return the memory that torch holds on its GPU, where torch is in use and has one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {"gpu_memory_mb": round(torch.cuda.memory_reserved() / MEGABYTE, 1)}
