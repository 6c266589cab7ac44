"""The methods of the table: settings for a number of passes, and the grid that all of them share."""

from __future__ import annotations

from typing import Any

STEP_SIZES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
TAUS = (0.05, 0.1, 0.2, 0.4)
GUIDED = ("dps", "lgd_mc", "mpgd", "freedom", "dps_ode", "cm_guidance", "cm_inversion")
METHODS = (*GUIDED, "pgdm", "cm_smc")
WITH_TAU = ("lgd_mc",)  # of linear operators; for neural ones also cm_guidance


def settings(method: str, passes: int) -> dict[str, Any]:
    """Return the settings of a method for about so many passes; cm_smc chooses its temperatures itself."""
    if method != "cm_smc":
        return {"passes": passes}
    return {"particles": 1, "moves": max(1, passes // 6), "final_moves": passes // 6}


def candidates(method: str) -> list[dict[str, Any]]:
    """Return what is tried on validation measurements: step sizes, then tau at the best of them."""
    return [{"step_size": size} for size in STEP_SIZES] if method in GUIDED else [{}]
