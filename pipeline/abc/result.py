"""The result of one simulation of ABC."""

from __future__ import annotations

from dataclasses import dataclass

from pyabc.population import Particle

from pipeline.store import Outcome


@dataclass(frozen=True)
class ParticleResult:
    """The result of one simulation; `particle` is None unless pyABC uses it."""

    outcome: Outcome
    accepted: bool = False
    particle: Particle | None = None
    message: str = ""
    seconds: float = float("nan")
