"""The kernel against a slow and plain implementation of the same rules.

`SlowTumour` follows the rules one by one: every clock and the null event fire singly, the ECM takes
every Euler step on the whole lattice, distances are taken to all rim points, nothing is cached.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tumor_equality import energy_p, features, scalars
from simulators.tumor_spheroid import lattice
from simulators.tumor_spheroid.lattice import SEED, Lattice, Pattern, search_pattern
from simulators.tumor_spheroid.model import grow
from simulators.tumor_spheroid.state import Parameters

UM, UM_GROWTH, DIAMETER = 13.540732413739948, 13.44, 16.8
SIDE = 12


class SlowTumour:
    def __init__(self, sites: Lattice, pattern: Pattern, parameters: Parameters, seed: int) -> None:
        self.sites, self.pattern, self.parameters = sites, pattern, parameters
        self.rng = np.random.default_rng(seed)
        self.n = sites.x.size
        self.xy = np.stack([sites.x, sites.y], axis=1)
        self.neighbours = [sites.neighbours_of(s).tolist() for s in range(self.n)]
        self.owner = np.full(self.n, -1)
        self.loc: list[list[int]] = []
        self.cycling: list[bool] = []
        self.stuck: list[bool] = []
        self.stage: list[int] = []
        self.event: list[str] = []  # "growth", "division" or ""
        self.ecm, self.steps_done = np.zeros(self.n), 0
        self.growth: list[float] = []
        self.sums = np.zeros((3, 1000))
        self.spread = np.zeros((self.n, self.n))
        for u in range(self.n):
            self.spread[u, u] = 0.5
            for v in self.neighbours[u]:
                self.spread[v, u] = 0.5 / len(self.neighbours[u])
        self.start()

    def start(self) -> None:
        centre = self.xy[self.pattern.centre]
        for s in range(self.n):
            if np.linalg.norm(self.xy[s] - centre) < self.parameters.initial_spheroid_radius:
                self.new_cell(s)
        for cell, (s,) in enumerate(self.loc):
            q = self.parameters.initial_quiescent_cell_fraction
            self.cycling[cell] = self.rng.random() < (1 - q) * self.probability(s)

    def new_cell(self, s: int) -> int:
        self.loc.append([s])
        self.owner[s] = len(self.loc) - 1
        self.cycling.append(False)
        self.stuck.append(False)
        self.stage.append(0)
        self.event.append("growth")
        return len(self.loc) - 1

    def has_empty(self, s: int) -> bool:
        return any(self.owner[u] < 0 for u in self.neighbours[s])

    def closest_free(self, s: int) -> int | None:
        for g in range(1, 11):
            shell = self.pattern.offsets[self.pattern.start[g] : self.pattern.start[g + 1]] + s
            free = [u for u in shell.tolist() if 0 <= u < self.n and self.owner[u] < 0]
            if free:
                return free[self.rng.integers(len(free))]
        return None

    def probability(self, s: int) -> float:
        t = self.closest_free(s)
        squared = 200 if t is None else int(((self.xy[s] - self.xy[t]) ** 2).sum())
        return float(np.exp(-UM * np.sqrt(squared) / self.parameters.division_depth))

    def refresh(self, cell: int) -> None:
        if self.stuck[cell] and any(self.has_empty(s) for s in self.loc[cell]):
            self.stuck[cell] = False
        if len(self.loc[cell]) == 2:
            self.event[cell] = "division"
        else:
            self.event[cell] = "" if self.stuck[cell] else "growth"

    def grow(self, cell: int) -> None:
        if self.stage[cell] < 9:
            self.stage[cell] += 1
            return
        self.stage[cell] = 0
        (s,) = self.loc[cell]
        t = self.closest_free(s)
        if t is None:
            self.stuck[cell] = True
            return
        path = [t]
        if not self.has_empty(s):
            path, x = [], s
            while not path or (x != t and self.owner[x] >= 0):
                around = self.neighbours[x]
                x = around[np.linalg.norm(self.xy[around] - self.xy[t], axis=1).argmin()]
                path.append(x)
        for source, target in zip(path[-2::-1], path[:0:-1], strict=True):
            mover = int(self.owner[source])
            sites = self.loc[mover]
            sites[sites.index(source)] = sites[-1]
            sites[-1] = target
            self.owner[target] = mover
        self.loc[cell].append(path[0])
        self.owner[path[0]] = cell
        for site in path:
            self.refresh(int(self.owner[site]))

    def divide(self, mother: int) -> None:
        v = self.loc[mother].pop()
        daughter = self.new_cell(v)
        p = self.probability(v)
        for cell in (daughter, mother):
            enough = self.ecm[self.loc[cell][0]] >= self.parameters.ecm_division_threshold
            self.cycling[cell] = bool(self.rng.random() <= p and enough)
        self.refresh(daughter)
        self.refresh(mother)

    def live(self) -> list[int]:
        return [
            cell
            for cell, event in enumerate(self.event)
            if event == "division" or (event == "growth" and self.cycling[cell])
        ]

    def run(self) -> dict[str, np.ndarray]:
        rate, t = 11 * self.parameters.division_rate, 0.0
        while t < 500:
            live = self.live()
            total = rate * len(live) + 1 / 24
            t_before, t = t, min(t + self.rng.exponential(1 / total), 500.0)
            if t < 500 and self.rng.random() < rate * len(live) / total:
                cell = live[self.rng.integers(len(live))]
                (self.divide if self.event[cell] == "division" else self.grow)(cell)
            self.integrate(t)
            self.record(t_before, t)
        count, ecm, cycling = self.sums
        some = np.maximum(count, 1)
        return {
            "growth_curve": np.array(self.growth),
            "extra_cellular_matrix_profile": ecm / some,
            "proliferation_profile": cycling / some,
        }

    def integrate(self, t: float) -> None:
        source = self.parameters.ecm_production_rate * self.spread @ (self.owner >= 0)
        while self.steps_done < int(t / 0.01) + 1:
            self.ecm = self.ecm + 0.01 * (source - self.parameters.ecm_degradation_rate * self.ecm)
            self.steps_done += 1

    def record(self, t_before: float, t: float) -> None:
        self.growth += [self.radius()] * (int(t / 24) - int(t_before / 24))
        hour_passed = np.ceil(t_before) != np.ceil(t)
        if hour_passed and int(t_before / 24) <= 17 <= int(t / 24):
            self.picture()

    def radius(self) -> float:
        held = np.flatnonzero(self.owner >= 0)
        rim = [s for s in held if self.sites.wall[s] or self.has_empty(s)]
        return float(UM_GROWTH * np.sqrt(self.xy[rim].var(axis=0).sum()))

    def picture(self) -> None:
        held = np.flatnonzero(self.owner >= 0)
        border = sorted(
            {u for v in held for u in self.neighbours[v] if self.owner[u] < 0 or self.sites.wall[v]}
        )
        for cell, sites in enumerate(self.loc):
            s = sites[0]
            distance = UM * np.linalg.norm(self.xy[border] - self.xy[s], axis=1).min()
            band = slice(max(0, int(distance - DIAMETER)), int(distance))
            active = self.cycling[cell] and not self.stuck[cell]
            self.sums[:, band] += np.array([[1.0], [self.ecm[s]], [float(active)]])


def run_both(parameters: Parameters, slow: int, fast: int) -> tuple[dict, dict]:
    sites = lattice(SIDE)
    pattern = search_pattern(SIDE, SEED, sites.middle)
    plain = [SlowTumour(sites, pattern, parameters, seed).run() for seed in range(slow)]
    quick = []
    for seed in range(fast):
        rng = np.random.default_rng(seed)
        outputs = grow(sites, pattern, parameters, rng, 500.0, np.empty(0))[0]
        quick.append(dict(zip(plain[0], outputs[:3], strict=True)))
    return tuple({k: np.stack([r[k] for r in runs]) for k in plain[0]} for runs in (plain, quick))


def check_equal(parameters: Parameters, slow: int, fast: int) -> None:
    plain, quick = run_both(parameters, slow, fast)
    assert energy_p(features(plain), features(quick), np.random.default_rng(0)) > 0.005
    one, two = scalars(plain), scalars(quick)
    error = np.sqrt(one.var(axis=0, ddof=1) / slow + two.var(axis=0, ddof=1) / fast)
    assert (np.abs(one.mean(axis=0) - two.mean(axis=0)) <= 4.5 * error + 1e-9).all()


def test_slow_and_lazy_agree_without_chance() -> None:
    """No divisions: only the null event's times are random, and with them the ECM's last steps."""
    still = Parameters(0.0, 3.0, 0.5, 100.0, 0.01, 0.002, 0.0)
    plain, quick = run_both(still, 2, 2)
    np.testing.assert_allclose(plain["growth_curve"], quick["growth_curve"])
    mean = quick["extra_cellular_matrix_profile"].mean(axis=0)
    np.testing.assert_allclose(plain["extra_cellular_matrix_profile"].mean(axis=0), mean, rtol=0.05)


def test_slow_and_fast_agree() -> None:
    check_equal(Parameters(0.012, 2.5, 0.1, 60.0, 0.01, 0.01, 0.02), 12, 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(0.01, 2.5, 0.1, 60.0, 0.01, 0.01, 0.02),
        Parameters(0.03, 2.0, 0.2, 30.0, 0.01, 0.001, 0.02),
        Parameters(0.012, 5.0, 0.01, 400.0, 0.1, 0.1, 0.3),
        Parameters(0.002, 1.5, 0.01, 200.0, 0.001, 0.0001, 0.05),
    ],
    ids=["default", "shallow", "fills the domain", "tiny and slow"],
)
def test_slow_and_fast_agree_over_the_parameters(parameters: Parameters) -> None:
    check_equal(parameters, 50, 500)
