"""The extracellular matrix (ECM): sources at every occupied site and around it, decay, no diffusion."""

from __future__ import annotations

import numpy as np

from simulators.tumor_spheroid.compiled import njit
from simulators.tumor_spheroid.state import BLOCK, ECM_STEP, Powers, Tumour


@njit
def steps_until(t: float) -> int:
    """Euler steps done after an event at time t: floor(t / 0.01) + 1, and none at the start."""
    return int(np.floor(t / ECM_STEP)) + 1 if t > 0.0 else 0


@njit
def fill_powers(powers: Powers, degradation_rate: float) -> None:
    """Tables of m Euler steps, each made from the last by one more step (or 256 more)."""
    a = 1.0 - ECM_STEP * degradation_rate
    powers.decay_j[0], powers.gain_j[0] = 1.0, 0.0
    for j in range(1, BLOCK):
        powers.decay_j[j] = a * powers.decay_j[j - 1]
        powers.gain_j[j] = a * powers.gain_j[j - 1] + ECM_STEP
    block_decay = a * powers.decay_j[BLOCK - 1]
    block_gain = a * powers.gain_j[BLOCK - 1] + ECM_STEP
    powers.decay_i[0], powers.gain_i[0] = 1.0, 0.0
    for i in range(1, powers.decay_i.size):
        powers.decay_i[i] = block_decay * powers.decay_i[i - 1]
        powers.gain_i[i] = block_decay * powers.gain_i[i - 1] + block_gain


@njit
def ecm_at(tumour: Tumour, powers: Powers, s: int, steps: int) -> float:
    """ECM of site s after `steps` Euler steps."""
    m = steps - tumour.ecm_steps[s]
    i = m // BLOCK
    j = m - i * BLOCK
    e = powers.decay_j[j] * tumour.ecm[s] + powers.gain_j[j] * tumour.source[s]
    return powers.decay_i[i] * e + powers.gain_i[i] * tumour.source[s]


@njit
def bring_up(tumour: Tumour, powers: Powers, s: int, steps: int) -> float:
    tumour.ecm[s] = ecm_at(tumour, powers, s, steps)
    tumour.ecm_steps[s] = steps
    return tumour.ecm[s]
