"""The answer of a refined posterior: draws within the region, and checks by simulations of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.answer.answer import Answer
from pipeline.answer.evidence import Evidence, SimulatedRows
from pipeline.answer.stage import Question, infer
from pipeline.refine.region import Region, contained
from pipeline.refine.stage import Refinement, Round, refine
from pipeline.stop import Stop

TRIES = 20  # draws that lie outside are drawn again so often


class Truncated:
    """A posterior whose draws outside of regions are drawn again.

    Arguments:
        posterior: of the last round.
        regions: of all rounds.
        provenance: of the posterior that was refined.
    """

    def __init__(self, posterior: Any, regions: list[Region], provenance: dict[str, Any]) -> None:
        self.posterior, self.regions, self.provenance = posterior, regions, provenance
        self.names, self.x_shapes = posterior.names, posterior.x_shapes
        self.has_conditionals = False  # rounds are of a complete observation
        self.sampling_steps = posterior.sampling_steps

    def summary(self, x: Any) -> Any:
        """Return the summary of observations."""
        return self.posterior.summary(x)

    def sample(
        self, x: Any, n: int, *, sampling_steps: int | None = None, seed: int | None = None
    ) -> Any:
        """Return draws (B, n, D); what is outside after some tries is left as it is."""
        draws = self.posterior.sample(x, n, sampling_steps=sampling_steps, seed=seed).clone()
        for attempt in range(1, TRIES):
            flat = draws.reshape(-1, draws.shape[2])
            outside = ~contained(self.regions, flat.cpu().numpy().astype(float))
            if not outside.any():
                break
            again = None if seed is None else seed + 1_000_003 * attempt
            fresh = self.posterior.sample(x, n, sampling_steps=sampling_steps, seed=again)
            at = torch.from_numpy(outside).to(flat.device)
            flat[at] = fresh.reshape(flat.shape)[at]
            draws = flat.reshape(draws.shape)
        return draws


@dataclass(frozen=True)
class RefinedQuestion(Question):
    """What is asked of a refined posterior."""

    rounds: list[Round] = field(default_factory=list)

    @cached_property
    def posterior(self) -> Any:
        last, first = self.rounds[-1], Question(self.run, training=self.training).posterior
        return Truncated(last.posterior, last.regions, first.provenance)

    @property
    def proposal(self) -> Any:
        """The posterior of the last round, also outside of its region."""
        return self.posterior.posterior

    @cached_property
    def evidence(self) -> Evidence:
        """SimulatedRows whose parameters lie in the region: there the prior is what it was in training."""
        found = Question(self.run, training=self.training)
        whole = found.evidence
        inside = contained(self.rounds[-1].regions, whole.held_out.theta.astype(float))
        rows = {name: values[inside] for name, values in whole.held_out.x.items()}
        return Evidence(whole.train, SimulatedRows(whole.held_out.theta[inside], rows))


def refined(
    asked: Refinement, observation: Any, out: Path | None, stop: Stop
) -> tuple[list[Round], list[Answer]]:
    """Refine, and answer by the last round's posterior."""
    rounds = refine(asked, observation, stop)
    given = {
        name: getattr(asked.question, name)
        for name in (
            "run",
            "draws",
            "training",
            "sampling_steps",
            "simulations",
            "seed",
            "quantities",
        )
    }
    question = RefinedQuestion(**given, rounds=rounds)
    folder = out or rounds[-1].folder / "answer"
    return rounds, infer(question, observation, folder, stop)


def told(rounds: list[Round]) -> str:
    """Return the rounds in words, for people."""
    lines = [
        f"round {k}: {one.share:.3g} of the prior, trained on {one.rows} rows, digest {one.digest[:12]}"
        for k, one in enumerate(rounds, 1)
    ]
    return "\n".join(lines)
