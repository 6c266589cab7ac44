"""How the kept rows of a store are observed: with fixed noise for each id, or anew in each epoch.

    x_i = observe(latent_i; seed_i),   seed_i follows from (root seed, stream, id, epoch)

So an id is observed alike in every process, at any step at which training continues, and beside any other rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.run import STREAMS
from pipeline.streams import RowStream, RunStream, splitmix64
from simulators.data_prior import ROW
from simulators.observation import Observe
from simulators.output import OutputError

Arrays = dict[str, np.ndarray]
OBSERVED = "observed"  # `outputs` in the identity of a store whose rows are as they are observed
PROPOSAL = (
    "proposal_log_prob"  # the output with the log density by which a row's parameters were proposed
)


@dataclass(frozen=True)
class Observation:
    """What becomes of the outputs that a store keeps.

    Attributes:
        simulator: with its noise model, if it has one.
        seed, stream: of the rows.
        augmentation: what training does with outputs afterwards, anew in each epoch; none: nothing.
    """

    simulator: Any
    seed: int
    stream: int
    augmentation: Observe | None = None

    @classmethod
    def of(
        cls, simulator: Any, identity: dict[str, Any], augmentation: Observe | None = None
    ) -> Observation | None:
        """Return the observation of the rows of a store with an identity; None where they are as they are kept."""
        kept = identity.get("outputs") == OBSERVED
        if (simulator.observe is None or kept) and augmentation is None:
            return None
        if simulator.ragged:
            ragged = ", ".join(simulator.ragged)
            raise UsageError(
                f"train.augmentation: outputs of varying length cannot be changed: {ragged}"
            )
        name = identity.get("stream", STREAMS[0])
        stream = STREAMS.index(name) if name in STREAMS else int(RunStream.LISTED)
        return cls(simulator, int(identity.get("seed", 0)), stream, augmentation)

    def __call__(self, latent: Arrays, ids: np.ndarray, epoch: int | None = None) -> Arrays:
        """Return the outputs (n, ...) of kept ones (n, ...).

        Arguments:
            ids: of the rows, (n,).
            epoch: of training; None: the noise that an id has everywhere else, without augmentation.

        Raises:
            UsageError: the noise model gives what cannot be used.
        """
        number = 0 if epoch is None else 1 + epoch
        seeds = row_seeds(self.seed, self.stream, ids, RowStream.OBSERVATION, number)
        try:
            x: Arrays = self.simulator.observed(without_row(latent), seeds)
            if self.augmentation is not None and epoch is not None:
                seeds = row_seeds(self.seed, self.stream, ids, RowStream.AUGMENTATION, number)
                x = _same_form(x, self.augmentation(x, seeds), self.augmentation.name)
        except OutputError as error:
            raise UsageError(str(error)) from None
        return x


def without_row(x: Arrays) -> Arrays:
    """Return outputs without those from which nothing is learned.

    They are the number of the row of a data set, and the density by which the parameters were proposed.
    """
    return {name: values for name, values in x.items() if name not in (ROW, PROPOSAL)}


def _same_form(x: Arrays, changed: Arrays, name: str) -> Arrays:
    shapes = [{key: value.shape for key, value in some.items()} for some in (x, changed)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"train.augmentation {name!r} gives shapes {shapes[1]}; it must keep those of the outputs, {shapes[0]}"
        )
    return changed


def row_seeds(seed: int, stream: int, ids: np.ndarray, purpose: int, number: int) -> np.ndarray:
    """Return the seeds (n,), uint64, of random numbers that rows need again and again.

        seed_i = s(s(word + i) + number),   word of SeedSequence(seed, spawn_key=(stream, purpose, 0, 0))

    where s is splitmix64. The generators of simulations have three numbers in their keys, and none of these.

    Arguments:
        ids: of the rows, (n,).
        purpose: what they are for.
        number: which of the draws of a row.

    Reference: Fast splittable pseudorandom number generators (Steele, Lea and Flood 2014).
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, purpose, 0, 0))
    word = sequence.generate_state(1, np.uint64)[0]
    first = splitmix64(np.asarray(ids, np.uint64) + word)
    return splitmix64(first + np.uint64(number))
