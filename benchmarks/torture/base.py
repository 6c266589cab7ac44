"""The quiet run: a small history, and a copy of the run directory at each of its stages.

Budget 300 is simulated, trained, evaluated and reported; then 400, and everything is killed in the middle once.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.torture import facts
from benchmarks.torture.cheap import warm
from benchmarks.torture.command import Blow, Child

OLDER = {
    "name": "torture",
    "seed": 3,
    "simulator": f"{Path(__file__).with_name('gaussian.py')}:gaussian",
    "budget": 300,
    "test": 5,
    "max_failed": 0.5,
    "simulate": {"workers": 1, "cpus": 0.5, "leases": 4, "term": 2},
    "store": {"shard_mb": 0.008},
    "estimator": {"name": "cmpe", "arguments": {"width": 16, "depth": 1}},
    "train": {"steps": 100, "threads": 1, "batch_size": 32, "checkpoint_seconds": 0.01, "validate_every": 5},
    "evaluate": {"draws": 12, "sampling_steps": [2, 1], "metrics": ["c2st", "rmse", "sbc", "ece", "seconds"]},
    "track": {"live": False},
}  # fmt: skip
FINAL = OLDER | {"budget": 400, "evaluate": OLDER["evaluate"] | {"draws": 16}}
STAGES = (
    "older",
    "simulating",
    "simulated",
    "training",
    "trained",
    "evaluating",
    "evaluated",
    "finished",
)


@dataclass
class Base:
    """Where the run lies, and what it was like when nobody disturbed it.

    Attributes:
        home: folder of everything. disk: where the run lies, perhaps a file system of its own.
        quick: leave out the middle of stages and the older evaluation, for the short form.
        told: by stage, what the commands that only read said.
        final: facts of the finished run.
        cost: by command, seconds and changes of files.
    """

    home: Path
    disk: Path
    quick: bool = False
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, tuple[float, int]] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def config(self) -> Path:
        return self.home / "final.yml"

    @property
    def observation(self) -> Path:
        return self.home / "observation.npz"

    def snapshot(self, stage: str) -> Path:
        return self.home / "stages" / stage

    @property
    def stages(self) -> list[str]:
        return [stage for stage in STAGES if self.snapshot(stage).exists()]

    def restore(self, stage: str) -> None:
        """Make the run what it was at a stage."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.disk / "tmp", ignore_errors=True)
        (self.disk / "tmp").mkdir(parents=True)
        shutil.copytree(self.snapshot(stage), self.run)

    def keep(self, stage: str) -> None:
        shutil.copytree(self.run, self.snapshot(stage))
        self.told[stage] = facts.told(self)
        self.size[stage] = sum(p.stat().st_size for p in self.run.rglob("*") if p.is_file())

    # --- the history -------------------------------------------------------------------------------

    def build(self) -> Base:
        """Make the history."""
        for folder in (self.home, self.disk / "tmp", self.home / "stages"):
            folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(self.disk / "tmp")
        np.savez(self.observation, x=np.array([0.3, -0.2]))
        (self.home / "older.yml").write_text(yaml.safe_dump(OLDER))
        self.config.write_text(yaml.safe_dump(FINAL))
        warm()
        self._do("simulate", "-c", str(self.home / "older.yml"), "--leases")
        self._do("train")
        if not self.quick:
            self._do("evaluate")
            self._do("report")
            self._do("track", "sync")
        self.keep("older")
        final = ("-c", str(self.config))
        if not self.quick:
            self._interrupt(
                "simulating",
                self._rows_in_spool,
                {"TORTURE_PAUSE": "0.02"},
                "simulate",
                *final,
                "--leases",
            )
        self._do("simulate", *final, "--leases")
        self.keep("simulated")
        if not self.quick:
            self._interrupt(
                "training", lambda: self._any("trainings/400*/state.previous.pt"), {}, "train"
            )
        self._do("train")
        self.keep("trained")
        if not self.quick:
            self._interrupt(
                "evaluating",
                lambda: self._any("trainings/400*/evaluation/**/drawn_2_*.npz"),
                {},
                "evaluate",
            )
        self._do("evaluate")
        self.keep("evaluated")
        self._do("report")
        self._do("track", "sync")
        self._do("run", str(self.config))
        self.keep("finished")
        self.final = facts.final(self)
        return self

    def _do(self, *argv: str, **options: Any) -> None:
        words = (*argv, "-o", str(self.run))
        child = Child([words], **options)
        (done,) = child.wait(300)
        if done.code:
            raise SystemExit(f"the quiet run failed: {done.shown}: {done.err}")
        name = " ".join(argv[:2]) if argv[0] == "track" else argv[0]
        self.cost[name] = (done.seconds, done.events)
        warm(child.modules)

    def _interrupt(
        self, stage: str, when: Callable[[], bool], variables: dict[str, str], *argv: str
    ) -> None:
        """Kill a command when something is there and keep what it left; not where it is too quick."""
        before = self.snapshot(stage).with_name("before")
        shutil.copytree(self.run, before)
        for _ in range(5):
            child = Child(
                [(*argv, "-o", str(self.run))], variables=variables, blow=Blow(victim="group")
            )
            (done,) = child.wait(until=when)
            if done.code == -signal.SIGKILL and when():
                self.keep(stage)
                break
            shutil.rmtree(self.run)
            shutil.copytree(before, self.run)
        shutil.rmtree(before)

    def _any(self, pattern: str) -> bool:
        return any(self.run.glob(pattern))

    def _rows_in_spool(self) -> bool:
        return any(p.stat().st_size > 500 for p in self.run.glob("store/train/sessions/*/*.spool"))
