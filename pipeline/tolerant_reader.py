"""Reading what is intact: a damaged file is reported and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.errors import DamagedError
from pipeline.progress import log
from pipeline.results import advising
from pipeline.run import RunDirectory

T = TypeVar("T")


@dataclass(frozen=True)
class TolerantReader:
    """Reads intact files; damaged ones are reported once and listed in `problems`."""

    run: RunDirectory
    problems: list[str] = field(default_factory=list)

    def __call__(self, read: Callable[[], T | None], stage: str = "train") -> T | None:
        try:
            with advising(self.run, stage):
                return read()
        except DamagedError as error:
            self.note(str(error))
            return None

    def note(self, problem: str) -> None:
        """List a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)
            log(problem)
