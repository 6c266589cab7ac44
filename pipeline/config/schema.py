"""What a configuration can hold: its keys, their types and defaults, at every depth."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

# `track.register` is a key, and pydantic's classes happen to have a method of that name, of `abc.ABCMeta`.
warnings.filterwarnings("ignore", 'Field name "register"', UserWarning)

IMPORTED = "imported"  # the simulator of a run of simulations that were made elsewhere


class _Strict(BaseModel):
    # The sentence below a key is its meaning in the reference of the documentation.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where numbers are meant; they would count as 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and not (_takes(kind, bool) or _takes(kind, Any)):
            raise ValueError("true and false are not valid here")
        return value


def _takes(kind: Any, wanted: Any) -> bool:
    return kind is wanted or any(_takes(part, wanted) for part in get_args(kind))


def named(value: Any) -> Any:
    """Let `simulator: two_moons` stand for `simulator: {name: two_moons}`."""
    return {"name": value} if isinstance(value, str) else value


def _plain_name(name: str) -> str:
    """Refuse a name that cannot stand in a path, a script and a terminal as it is."""
    if not name.isprintable() or ".." in name.split("/") or name.startswith("/"):
        raise ValueError("valid are printable characters, and no path that leads up")
    return name


class SimulatorConfig(_Strict):
    """Which simulator: a built-in name, `file.py:attribute`, `package.module:attribute` or an entry point."""

    name: str
    """Built-in name, `file.py:attribute`, `package.module:attribute` or entry point."""
    arguments: dict[str, Any] = {}
    """Arguments of the simulator."""


class SimulateConfig(_Strict):
    """How simulations are run."""

    workers: int | None = Field(None, ge=1)
    """Simulation workers; null: as many as the cores allow."""
    cpus: float = Field(1.0, gt=0)
    """Cores of one worker."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of one worker, which Ray hands out; 0.5: two workers share one. 0: workers see none."""
    memory: str | int | None = None
    """Memory of one worker, in bytes or like `2GB`."""
    timeout: float | None = Field(None, gt=0)
    """Seconds after which a simulation is ended and recorded as `timeout`."""
    block: int = Field(1024, ge=1)
    """Ids that a batched simulator computes together; part of the identity of the data."""
    leases: int = Field(2048, ge=1, le=60_000)
    """Number of leases into which the missing simulations are divided with `--leases`."""
    accept_source: bool = False
    """Accept rows of a changed simulator for this command; the store and all reports say so."""
    ray: bool | None = None
    """Whether Ray is used; null: where the work takes longer than ten seconds."""
    per_agent: float | None = Field(None, gt=0)
    """Cores of one agent, a Ray actor that runs workers; null: those of a node."""
    term: float = Field(120.0, ge=1)
    """Seconds without a sign of life after which another process takes over a lease."""


class StoreConfig(_Strict):
    """How simulations are kept."""

    shard_mb: float = Field(32.0, gt=0)
    """Target size of one shard in megabytes."""


class EstimatorConfig(_Strict):
    """Which posterior estimator, with the arguments of its constructor."""

    name: str = "cmpe_distilled"
    """Built-in name, `file.py:attribute`, `package.module:attribute` or entry point."""
    preprocessing: str = "none"
    """Preprocessing of the outputs, by name."""
    standardisation: Literal["moments", "robust"] = "moments"
    """`moments`: mean and standard deviation; `robust`: median and central 68 %."""
    grouping: Literal["array", "element"] | dict[str, tuple[str, ...]] = "array"
    """What shares one mean and scale: `array`: an image; `element`: nothing; or parameters by group."""
    arguments: dict[str, Any] = {}
    """Arguments that are passed to whichever estimator is selected."""
    only: dict[str, dict[str, Any]] = {}
    """Further arguments of single estimators, by the name of the estimator."""

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments of the estimator `name`."""
        return self.arguments | self.only.get(self.name, {})

    @model_validator(mode="after")
    def _once(self) -> EstimatorConfig:
        for name, arguments in self.only.items():
            if twice := sorted(arguments.keys() & self.arguments.keys()):
                raise ValueError(f"{twice[0]!r} is in arguments and in only.{name}: give it once")
        return self


class TrainConfig(_Strict):
    """How the estimator is trained; exactly one of `steps` and `epochs` is used."""

    workers: int = Field(0, ge=0)
    """Ray Train workers; 0: train in this process."""
    gpu: bool = False
    """Whether each worker uses one GPU."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps; give either `steps` or `epochs`."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training rows; give either `steps` or `epochs`."""
    batch_size: int = Field(64, ge=1)
    """Rows of one optimiser step, over all workers together."""
    accumulate: int = Field(1, ge=1)
    """Parts in which each worker computes the gradients of its rows: more parts take less memory."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of AdamW; null: the estimator's own."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of AdamW."""
    warmup: float = Field(0.01, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    clip: float | None = Field(None, gt=0)
    """Largest global norm of the gradient; null: no clipping."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, which is used for sampling; 0: off."""
    validation: float = Field(0.05, gt=0, lt=1)
    """Share of the ids that is held out for validation."""
    prior_weights: bool | None = None
    """Whether rows are reweighted to match the prior; null: where the prior has quantiles."""
    validate_every: int | None = Field(None, ge=1)
    """Optimiser steps between two validations."""
    patience: int | None = Field(None, ge=1)
    """Validations without improvement after which training stops; null: no early stopping."""
    checkpoint_seconds: float = Field(30.0, gt=0)
    """Seconds between two checkpoints."""
    walltime: float | None = Field(None, gt=0)
    """Seconds after which training commits and leaves with exit code 4."""
    amp: bool = False
    """Whether to train in bfloat16 (automatic mixed precision)."""
    compile: bool = False
    """Whether to compile the networks with `torch.compile`."""
    augmentation: str | None = None
    """`file.py:function` that changes the outputs of a row, `function(x, rng)`, anew in each epoch."""
    in_memory: bool | None = None
    """Whether rows are held in memory or streamed; null: by their size."""
    threads: int = Field(1, ge=1)
    """Torch threads of each worker, which takes as many cores, and of the draws of an evaluation."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs}: give one of them")
        return self


def _device(value: Any) -> Any:
    """Take what the former key `evaluate.gpu` held."""
    name = ("cuda" if value else "cpu") if isinstance(value, bool) else value
    if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device={value!r}: valid are cpu, cuda and a numbered one like cuda:1")
    return name


class EvaluateConfig(_Strict):
    """What is measured on the test simulations."""

    metrics: tuple[str, ...] = ("c2st", "mmd", "rmse", "sbc", "ece", "seconds")
    """Names of the metrics."""
    draws: int = Field(1000, ge=2)
    """Posterior draws for one observation."""
    sampling_steps: int | tuple[int, ...] = 10
    """Network passes of one draw; a list compares several."""
    reference: str | None = None
    """Which reference posterior; null: the simulator's first."""
    calibrated: bool = False
    """Whether draws are recalibrated on the validation rows, see `docs/calibration.md`."""
    device: Annotated[str, BeforeValidator(_device)] = "cpu"
    """Where `evaluate` and `sample` draw, and C2ST trains classifiers: `cpu`, `cuda` or `cuda:1`."""
    workers: int | None = Field(None, ge=1)
    """Processes that evaluate; null: as many as there are cores, where it takes long."""
    seed: int = Field(0, ge=0)
    """Seed of the draws and of the metrics."""

    @model_validator(mode="after")
    def _positive_steps(self) -> EvaluateConfig:
        steps = self.all_sampling_steps
        if not steps or min(steps) < 1:
            raise ValueError(f"sampling_steps={self.sampling_steps}: whole numbers >= 1 are valid")
        return self

    @property
    def all_sampling_steps(self) -> tuple[int, ...]:
        """The numbers of sampling steps to measure; the first gives the headline figures."""
        steps = self.sampling_steps
        return steps if isinstance(steps, tuple) else (steps,)


class AbcConfig(_Strict):
    """How `sbiflow abc` runs; see `docs/abc.md`."""

    population: int = Field(200, ge=2)
    """Draws of each generation."""
    generations: int = Field(8, ge=1)
    """Largest number of generations."""
    simulations: int | None = Field(None, ge=1)
    """Largest number of simulations; null: no limit."""
    distance: str = "adaptive"
    """`adaptive`, `euclidean`, `learned` or `package.module:function`."""
    proposal: Literal["prior", "posterior"] = "prior"
    """What the first generation is drawn from: the prior, or the latest posterior for the observation."""
    max_failed: float = Field(0.5, ge=0, le=1)
    """Share of simulations that may fail."""


class TrackConfig(_Strict):
    """Where MLflow keeps the run; none: a SQLite file in the run directory."""

    uri: str | None = None
    """MLflow tracking URI; null: a SQLite file in the run directory."""
    experiment: str | None = None
    """Name of the MLflow experiment; null: the name of the run."""
    live: bool = True
    """Whether commands write to MLflow while they work; if not, `run` writes at its end."""
    register: str | None = None
    """Name in MLflow's model registry for the posterior; null: it is not registered."""
    best: str = "ece.max"
    """Metric whose lowest value gets the alias `best`; with a minus in front, whose highest."""


Options = dict[str, str | int | float | bool]


class StageOptions(_Strict):
    """What the jobs of single stages ask for beyond `cluster.options`."""

    simulate: Options = {}
    """Options of simulation jobs."""
    train: Options = {}
    """Options of training jobs."""
    evaluate: Options = {}
    """Options of evaluation jobs."""


class ClusterConfig(_Strict):
    """Where Ray comes from, and how jobs are submitted; see `docs/cluster.md`."""

    backend: str = "local"
    """`local`, `existing`, `slurm`, `pbs`, `lsf`, `kubernetes` or `package.module:connect`."""
    address: str | None = None
    """Address of an existing Ray cluster, for the backend `existing`."""
    layout: str = "ray"
    """`ray`: one allocation with Ray inside; `array`: a job array without Ray."""
    options: Options = {}
    """Options of every job, in the words of `sbatch`: nodes, time, partition, mem, ..."""
    stages: StageOptions = StageOptions()
    """Options of single stages, beyond `cluster.options`."""
    directives: tuple[str, ...] = ()
    """More lines for the head of a job script, in the batch system's own syntax."""
    setup: tuple[str, ...] = ()
    """Shell lines before the work, such as `module load`."""
    prefix: str = ""
    """Words before every command, such as `apptainer exec image.sif`."""
    python: str | None = None
    """Interpreter on the nodes; null: this one, or `python` if there is a prefix."""
    notice: int = Field(120, ge=1)
    """Seconds before the time limit at which a job commits its work and queues again."""
    restarts: int = Field(100, ge=0)
    """How often one job may queue itself again."""
    shared: bool = False
    """Whether all nodes see the run directory although it looks local."""


class Config(_Strict):
    """A whole run: simulator, prior, budget and the settings of every stage."""

    name: Annotated[str, AfterValidator(_plain_name)] = Field(min_length=1)
    """Name of the run and of its MLflow experiment."""
    seed: int = Field(0, ge=0)
    """Root of every random stream."""
    simulator: Annotated[SimulatorConfig, BeforeValidator(named)]
    """The simulator: its name, or a mapping as below."""
    prior: dict[str, Any] | None = None
    """Prior that replaces the simulator's own, by parameter."""
    budget: int = Field(ge=1)
    """Number of training simulations, a total."""
    design: Literal["random", "sobol"] = "random"
    """How training parameters cover the prior: independent draws, or scrambled Sobol points."""
    test: int = Field(100, ge=0)
    """Number of test simulations, from their own random stream."""
    max_failed: float = Field(0.05, ge=0, le=1)
    """Share of simulations that may fail before the exit code is 3."""
    simulate: SimulateConfig = SimulateConfig()
    """How simulations are run."""
    store: StoreConfig = StoreConfig()
    """How simulations are stored."""
    estimator: Annotated[EstimatorConfig, BeforeValidator(named)] = EstimatorConfig()
    """The estimator: its name, or a mapping as below."""
    train: TrainConfig = TrainConfig()
    """How the estimator is trained."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured on the test simulations."""
    abc: AbcConfig = AbcConfig()
    """Approximate Bayesian computation beside the estimator."""
    track: TrackConfig = TrackConfig()
    """Where MLflow keeps the run."""
    cluster: ClusterConfig = ClusterConfig()
    """Where Ray comes from, and how jobs are submitted."""

    def plain(self) -> dict[str, Any]:
        """Return the configuration as JSON values, as a run keeps it: `accept_source` holds for one command."""
        values = self.model_dump(mode="json")
        values["simulate"]["accept_source"] = False
        return values

    @property
    def budgets(self) -> dict[str, int]:
        """The number of simulations of each stream."""
        return {"train": self.budget, "test": self.test}

    def digest(self) -> str:
        """Return a hash of the whole configuration."""
        return digest(self.plain())


def digest(values: Mapping[str, Any]) -> str:
    """Return a hash of a configuration's plain values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
