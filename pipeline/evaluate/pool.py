"""Processes that do the blocks of an evaluation side by side."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from pipeline.config import build
from pipeline.errors import PipelineError
from pipeline.evaluate.blocks import TestBlock
from pipeline.evaluate.work import Evaluation
from pipeline.run import RunDirectory
from pipeline.stop import Stop

WORTH_PROCESSES = 20.0  # seconds of work left, from which on other processes help
POLL = 0.2  # seconds
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class EvaluationPool:
    """Does blocks: here, or in `evaluate.workers` processes once that is worth their start.

    Arguments:
        work: the evaluation.
        asked: number of processes; None: as many as there are cores, where much is left to do.
        stop: request to leave.
    """

    def __init__(self, work: Evaluation, asked: int | None, stop: Stop) -> None:
        self.work, self.stop = work, stop
        self.size = asked or len(os.sched_getaffinity(0))
        self.at_once = asked is not None and asked > 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> EvaluationPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, blocks: Sequence[TestBlock], done: Callable[[TestBlock], None]) -> None:
        """Do what is not finished; `done` is called for each block, in any order.

        Raises:
            Stopped: a stop was requested; finished blocks are kept.
            PipelineError: a process ended without a result.
        """
        missing = []
        for block in blocks:
            if self.work.is_done(block):
                done(block)
            else:
                missing.append(block)
        began = time.monotonic()
        for number, block in enumerate(missing):
            left = (time.monotonic() - began) / max(number, 1) * (len(missing) - number)
            if self.size > 1 and (
                self._pool or self.at_once or (number and left > WORTH_PROCESSES)
            ):
                for other in self._elsewhere(missing[number:]):
                    done(other)
                return
            self.stop.check("evaluate")
            self.work.do(block, lambda count: self.stop.check("evaluate"))
            done(block)

    def _elsewhere(self, blocks: Sequence[TestBlock]) -> Iterator[TestBlock]:
        """Yield blocks as other processes finish them."""
        pool = self._pool = self._pool or self._start()
        waiting: dict[Future[None], TestBlock] = {
            pool.submit(_do, block): block for block in blocks
        }
        while waiting:
            ready, _ = wait(waiting, POLL, FIRST_COMPLETED)
            for future in ready:
                block = waiting.pop(future)
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise PipelineError(
                        "a process of the evaluation ended without a result (out of memory?): ask for"
                        " fewer evaluate.workers; a repeat uses what is finished"
                    ) from error
                yield block
            if self.stop.requested:
                for process in multiprocessing.active_children():  # blocks are files written whole
                    process.kill()
                self.stop.check("evaluate")

    def _start(self) -> ProcessPoolExecutor:
        os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
        plain = json.dumps(self.work.config.plain())
        given = plain, str(self.work.run.path), self.work.key, os.getpid()
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.size, context, _begin, given)


_evaluation: Any = None  # of a process that does blocks


def _begin(plain: str, path: str, key: str, parent: int) -> None:
    """Open the evaluation in a new process, which its parent ends."""
    global _evaluation
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    config = build(json.loads(plain))
    torch.set_num_threads(config.train.threads)
    _evaluation = Evaluation(config, RunDirectory(Path(path)), key)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: it would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


def _do(block: TestBlock) -> None:
    _evaluation.do(block)
