"""The lines of the table: which network and method, how it is trained, and how it draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGE = {"summary": "image", "input_scale": 1.0, "bounds": "clip"}
PAPER = {"summary": "naive_cnn", "input_scale": 1.0, "bounds": "clip"}
NPSE = {"members": 1, "p_mean": -1.2, "p_std": 1.5, "epsilon": 0.005}
# Noise on single pixels is nothing that a blurred image has, and the camera's is drawn afresh: no jitter.
DISTILLED = {**NPSE, "jitter": 0.0, "teacher_fraction": 0.5, "student_rate": 1.0}
SMALL_UNET = {"network": "image_unet", "width": 32}
PATCHES = {"network": "patch_transformer", "width": 128, "depth": 4}
AS_CODED = {"learning_rate": 5e-4, "weight_decay": 4e-3, "warmup": 0.0, "clip": None, "ema": 0.0}
METRICS = (
    "rmse_image",
    "coverage_pixels",
    "sbc_image",
    "mmd_images",
    "frechet_images",
    "kernel_images",
    "seconds",
)


@dataclass(frozen=True)
class Cell:
    """A line of the table.

    Attributes:
        estimator: its name. arguments: its settings.
        passes: network passes of a draw.
        published: RMSE in the paper (arXiv 2312.05440) with 2000 and with 60 000 images.
        train: settings of its training that differ from the plan's.
    """

    estimator: str
    arguments: dict[str, Any]
    passes: int
    published: tuple[float, float] | None = None
    train: dict[str, Any] = field(default_factory=dict)


def as_coded(method: str, network: str, passes: int, published: tuple[float, float]) -> Cell:
    """Return a line of the paper, see `benchmarks.images.paper`."""
    estimator = f"benchmarks.images.paper:{method}Image"
    return Cell(estimator, {"network": network}, passes, published, AS_CODED)


CELLS = {
    "fmpe as_coded naive_mlp": as_coded("FMPE", "naive_mlp", 249, (0.836, 0.597)),
    "cmpe as_coded naive_mlp": as_coded("CMPE", "naive_mlp", 2, (0.388, 0.293)),
    "fmpe as_coded unet": as_coded("FMPE", "unet", 249, (0.278, 0.217)),
    "cmpe as_coded unet": as_coded("CMPE", "unet", 2, (0.311, 0.238)),
    "npse naive_mlp": Cell("npse", {**PAPER, **NPSE, "network": "naive_mlp"}, 30),
    "npse unet": Cell("npse", {**PAPER, **NPSE, "network": "unet"}, 30),
    "npse patch_transformer": Cell("npse", {**IMAGE, **NPSE, **PATCHES}, 30),
    "npse image_unet": Cell("npse", {**IMAGE, **NPSE, **SMALL_UNET}, 100),
    "fmpe image_unet": Cell("fmpe", {**IMAGE, **SMALL_UNET}, 100),
    "cmpe image_unet": Cell("cmpe", {**IMAGE, "p_mean": -1.1, **SMALL_UNET}, 2),
    "cmpe_distilled image_unet": Cell("cmpe_distilled", {**IMAGE, **DISTILLED, **SMALL_UNET}, 2),
}


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        budget: images that are trained on. size: their height and width.
        steps, batch: of a training. rate: its learning rate.
        test: test images. draws: for each of them.
        most_passes: largest number of passes of a draw.
        most_rows: largest number of network passes of all draws; fewer test images where they are more.
        minutes: of processor time, from which the steps follow.
    """

    budget: int = 2000
    size: int = 28
    steps: int = 300
    batch: int = 32
    rate: float = 1e-3
    test: int = 100
    draws: int = 20
    most_passes: int = 20
    most_rows: int = 10**9
    minutes: float | None = None

    @property
    def name(self) -> str:
        """The folder of its runs."""
        length = f"{self.steps}" if self.minutes is None else f"{self.minutes:g}min"
        return f"{self.budget}-{self.size}-{length}"

    def tests(self, passes: int) -> int:
        """Return the number of test images, at least 100, for draws of so many passes."""
        return min(self.test, max(100, self.most_rows // (passes * self.draws)))


FULL = Plan(steps=20_034, test=1000, draws=100, most_passes=249)
FULL_ALL = Plan(
    budget=60_000, steps=20_210, batch=256, rate=5e-4, test=1000, draws=100, most_passes=249
)
MEDIUM = Plan(test=1000, draws=30, most_passes=100, most_rows=60_000)  # for trainings by the clock


def config(name: str, plan: Plan, seed: int, gpu: bool) -> dict[str, Any]:
    """Return the configuration of a line of the table."""
    cell, arguments = CELLS[name], dict(CELLS[name].arguments)
    if plan.minutes is not None and name.startswith("fmpe as_coded"):
        arguments["times"] = 1  # the paper's 32 for each image and step would leave few steps
    passes = min(cell.passes, plan.most_passes)
    return {
        "name": name.replace(" ", "-"),
        "seed": seed,
        "simulator": {"name": "fashion_denoising", "arguments": {"size": plan.size}},
        "budget": plan.budget,
        "test": plan.tests(passes),
        "estimator": {"name": cell.estimator, "arguments": arguments},
        "train": {
            "steps": plan.steps,
            "batch_size": plan.batch,
            "learning_rate": plan.rate,
            "warmup": 0.02,
            "clip": 1.0,
            "ema": 0.999,
            "validate_every": max(1, plan.steps // 20),
            "gpu": gpu,
            **cell.train,
        },
        "evaluate": {"draws": plan.draws, "sampling_steps": passes, "metrics": list(METRICS)},
    }
