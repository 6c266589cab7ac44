"""The configuration of a run: read, override, check, compare.

A configuration is a YAML file, changed by `key=value` words with dotted keys. Unknown keys fail at any depth.
A run keeps its resolved configuration in `config.yml`; what identifies its simulations can never change there.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UsageError
from pipeline.run import Run, write_whole

FIXED = (
    "name",
    "seed",
    "simulator",
    "prior",
    "design",
    "simulate.block",
)  # identify the simulations
FREE = ("budget", "test", "max_failed", "simulate", "store", "evaluate", "track", "cluster")
TIME = re.compile(r"^\d+(:\d\d)+$")
COUNT = re.compile(r"^\d[\d_]*$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _named(value: Any) -> Any:
    """Let `simulator: two_moons` stand for `simulator: {name: two_moons}`."""
    return {"name": value} if isinstance(value, str) else value


class Simulator(_Strict):
    """Which simulator: a built-in name, `file.py:attribute`, `package.module:attribute` or an entry point."""

    name: str
    arguments: dict[str, Any] = {}


class Simulate(_Strict):
    """How simulations are run."""

    workers: int | None = Field(None, ge=1)  # actors; none: as many as the cores allow
    cpus: float = Field(1.0, gt=0)  # of one actor
    memory: str | int | None = None  # of one actor, bytes or "2GB"
    timeout: float | None = Field(None, gt=0)  # seconds of one simulation
    block: int = Field(1024, ge=1)  # ids that a batched simulator computes together
    leases: int = Field(2048, ge=1, le=60_000)  # portions that processes which share them take
    term: float = Field(120.0, ge=1)  # seconds of silence after which others take a portion over


class Shards(_Strict):
    """How simulations are kept."""

    shard_mb: float = Field(32.0, gt=0)


class Estimator(_Strict):
    """Which posterior estimator, with the arguments of its constructor."""

    name: str = "cmpe_distilled"
    preprocessing: str = "none"  # of the outputs
    standardisation: Literal["moments", "robust"] = "moments"
    arguments: dict[str, Any] = {}  # of every estimator that `name` may become
    only: dict[str, dict[str, Any]] = {}  # further arguments of the estimator of that name

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments of the estimator `name`."""
        return self.arguments | self.only.get(self.name, {})

    @model_validator(mode="after")
    def _once(self) -> Estimator:
        for name, arguments in self.only.items():
            if twice := sorted(arguments.keys() & self.arguments.keys()):
                raise ValueError(f"{twice[0]!r} is in arguments and in only.{name}: give it once")
        return self


class Train(_Strict):
    """How the estimator is trained; exactly one of `steps` and `epochs` is used."""

    workers: int = Field(0, ge=0)  # 0: in this process; n: Ray Train workers
    gpu: bool = False
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(64, ge=1)  # of all workers together
    learning_rate: float | None = Field(None, gt=0)  # none: the estimator's own
    weight_decay: float = Field(1e-4, ge=0)
    warmup: float = Field(0.01, ge=0, lt=1)  # share of the steps
    clip: float | None = Field(None, gt=0)  # global gradient norm
    ema: float = Field(0.999, ge=0, lt=1)
    validation: float = Field(0.05, gt=0, lt=1)
    prior_weights: bool | None = None  # none: where the prior has quantiles; `pipeline.row_weights`
    validate_every: int | None = Field(None, ge=1)  # steps
    patience: int | None = Field(None, ge=1)  # validations without improvement
    checkpoint_seconds: float = Field(30.0, gt=0)
    walltime: float | None = Field(None, gt=0)  # seconds, then commit and leave with exit code 4
    amp: bool = False
    compile: bool = False  # the networks, by torch.compile
    in_memory: bool | None = None
    threads: int = Field(1, ge=1)  # of each worker; more pay only for large networks on idle cores

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs}: give one of them")
        return self


class Evaluate(_Strict):
    """What is measured on the test simulations."""

    metrics: tuple[str, ...] = ("c2st", "mmd", "rmse", "sbc", "ece", "seconds")
    draws: int = Field(1000, ge=2)  # posterior draws for one observation
    passes: int | tuple[int, ...] = 10  # network passes for one draw
    reference: str | None = None  # which reference posterior; none: the simulator's first
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _positive_passes(self) -> Evaluate:
        passes = self.passes if isinstance(self.passes, tuple) else (self.passes,)
        if not passes or min(passes) < 1:
            raise ValueError(f"passes={self.passes}: whole numbers >= 1 are valid")
        return self


class Track(_Strict):
    """Where MLflow keeps the run; none: a SQLite file in the run directory."""

    uri: str | None = None
    experiment: str | None = None


Options = dict[str, str | int | float | bool]


class StageOptions(_Strict):
    """What the jobs of single stages ask for beyond `cluster.options`."""

    simulate: Options = {}
    train: Options = {}
    evaluate: Options = {}


class Cluster(_Strict):
    """Where Ray comes from, and how jobs are submitted; see `docs/cluster.md`."""

    backend: str = "local"
    address: str | None = None
    layout: str = "ray"  # how simulations share a job: Ray inside one allocation
    options: Options = {}  # of every job, in sbatch's words: nodes, time, partition, mem, ...
    stages: StageOptions = StageOptions()
    directives: tuple[
        str, ...
    ] = ()  # more lines for the script's head, as the batch system writes them
    setup: tuple[str, ...] = ()  # shell lines before the work: modules, virtual environment
    prefix: str = ""  # before every command: "apptainer exec image.sif"
    python: str | None = None  # on the nodes; none: this one, or `python` behind a prefix
    notice: int = Field(
        120, ge=1
    )  # seconds before the time limit at which work commits and queues again
    restarts: int = Field(100, ge=0)  # how often a job may queue itself again
    shared: bool = False  # the run directory is on all nodes, although it does not look so


class Config(_Strict):
    """A whole run: simulator, prior, budget and the settings of every stage."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    simulator: Annotated[Simulator, BeforeValidator(_named)]
    prior: dict[str, Any] | None = None  # none: the simulator's own
    budget: int = Field(ge=1)
    design: Literal["random", "sobol"] = "random"  # how training parameters cover the prior
    test: int = Field(100, ge=0)  # test simulations, from their own stream
    max_failed: float = Field(0.05, ge=0, le=1)
    simulate: Simulate = Simulate()
    store: Shards = Shards()
    estimator: Annotated[Estimator, BeforeValidator(_named)] = Estimator()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    track: Track = Track()
    cluster: Cluster = Cluster()

    def plain(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Return a hash of the whole configuration."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()[:16]


# --- reading -----------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, reads `1e-3` as a number and `12:00:00` as a time, not as 43200."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [("tag:yaml.org,2002:str", TIME), *pairs]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not valid YAML: {error}") from None


def read(path: Path) -> dict[str, Any]:
    """Read a configuration file as plain values."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from None
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of keys, got {type(values).__name__}")
    return _anchor(values, path.parent)


def _anchor(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make a simulator file named relative to the configuration absolute, so that it is found from anywhere."""
    simulator = _named(values.get("simulator"))
    if not isinstance(simulator, dict) or not isinstance(simulator.get("name"), str):
        return values
    file, colon, attribute = simulator["name"].rpartition(":")
    if not colon or not file.endswith(".py") or Path(file).is_absolute():
        return values
    beside = (folder / file).resolve()
    found = beside if beside.exists() else Path(file).resolve()
    return {**values, "simulator": {**simulator, "name": f"{found}:{attribute}"}}


def override(values: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Apply `key=value` words with dotted keys; values are read as YAML."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", key):
            raise UsageError(f"{word!r} is not an override: write key=value, like train.steps=1000")
        place = result
        *parents, last = key.split(".")
        for depth, parent in enumerate(parents):
            below = place.get(parent)
            if isinstance(below, str) and parent in ("simulator", "estimator") and depth == 0:
                below = _named(below)
            if below is not None and not isinstance(below, dict):
                raise UsageError(f"{word!r}: {'.'.join(parents[: depth + 1])} has no keys below it")
            place[parent] = place = below or {}
        place[last] = _parse(text, repr(word))
    return _anchor(result, Path.cwd())


def build(values: Mapping[str, Any]) -> Config:
    """Check plain values and return the configuration; a `UsageError` names every wrong key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise UsageError("configuration: " + "; ".join(lines)) from None


def _explain(detail: Any) -> str:
    where = [str(part) for part in detail["loc"] if part not in ("int", "tuple[int, ...]")]
    key = ".".join(where)
    if detail["type"] == "extra_forbidden":
        valid = _keys(where[:-1])
        close = difflib.get_close_matches(where[-1], valid, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {key!r}; {hint}valid here: {', '.join(valid)}"
    if detail["type"] == "missing":
        return f"{key!r} is missing"
    return f"{key!r} = {detail['input']!r}: {detail['msg'].removeprefix('Value error, ')}"


def _keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in path:
        kind = model.model_fields[part].annotation
        candidates = [kind, *get_args(kind)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return sorted(model.model_fields)


# --- comparing ---------------------------------------------------------------------------------


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    if not isinstance(values, Mapping) or (prefix and not values):
        return {prefix: values}
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, each with its old and new value."""
    before, after = flat(old.plain()), flat(new.plain())
    keys = sorted(before.keys() | after.keys())
    return {
        key: (before.get(key), after.get(key))
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    }


def _under(key: str, group: Iterable[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in group)


def _reconcile(old: Config, new: Config, words: tuple[str, ...], run: Run) -> None:
    """Refuse a configuration that is another run's."""
    changed = differences(old, new)
    asked = [word.partition("=")[0] for word in words]
    fixed = [key for key in changed if _under(key, FIXED)]
    silent = [
        key
        for key in changed
        if not _under(key, FIXED) and not _under(key, FREE) and not _under(key, asked)
    ]
    if not fixed and not silent:
        return
    shown = "\n".join(f"  {key}: {changed[key][0]!r} -> {changed[key][1]!r}" for key in changed)
    advice = (
        f"{', '.join(fixed)} identify the simulations of this run: use another -o"
        if fixed
        else f"say it on purpose, as in `{silent[0]}={changed[silent[0]][1]}`, or use another -o"
    )
    raise UsageError(f"{run.path} was made with another configuration:\n{shown}\n{advice}")


def resolve(
    run: Run, source: Path | Mapping[str, Any] | None = None, words: Iterable[str] = ()
) -> Config:
    """Return the configuration of a run: its own, a file's or that of plain values, and never another run's.

    `words` override it.

    Raises:
        UsageError: unknown key, wrong value, unknown name, or a configuration that differs from the run's.
    """
    words = tuple(words)
    saved = build(read(run.config)) if run.config.exists() else None
    if source is None and saved is None:
        raise UsageError(f"{run.path} is not a run yet: give a configuration")
    values = (
        read(source) if isinstance(source, Path) else source or (saved.plain() if saved else {})
    )
    config = build(override(values, words))
    if saved is not None:
        _reconcile(saved, config, words, run)
    _check_names(config)
    return config


def save(config: Config, run: Run) -> None:
    """Keep the resolved configuration in the run directory."""
    text = yaml.safe_dump(config.plain(), sort_keys=False)
    if not run.config.exists() or run.config.read_text(encoding="utf-8") != text:
        write_whole(run.config, text)


def _check_names(config: Config) -> None:
    """Fail early on a name that no table knows, before anything is written."""
    import cluster
    import estimators
    import evaluation
    from estimators.preprocessing import steps_of
    from pipeline.row_weights import require_quantiles

    prior = simulator_of(config).prior
    if config.train.prior_weights:
        require_quantiles("train.prior_weights=true", prior)
    for group, key, names in (
        (estimators, "estimator.name", (config.estimator.name,)),
        (evaluation, "evaluate.metrics", config.evaluate.metrics),
        (cluster, "cluster.backend", (config.cluster.backend,)),
    ):
        valid = group.available()
        for name in names:
            if name not in valid and ":" not in name:
                close = difflib.get_close_matches(name, valid, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise UsageError(f"{key}: unknown {name!r}; {hint}valid: {', '.join(valid)}")
    try:
        steps_of(config.estimator.preprocessing)
    except LookupError as error:
        raise UsageError(f"estimator.preprocessing: {error.args[0]}") from None
    if settings := config.estimator.settings:
        try:
            estimators.check(config.estimator.name, settings)
        except (LookupError, TypeError) as error:
            raise UsageError(f"estimator.arguments: {error.args[0]}") from None


def simulator_of(config: Config) -> Any:
    """Load the configured simulator with its prior; a `UsageError` where it cannot be."""
    import simulators

    try:
        return simulators.load(
            config.simulator.name, prior=config.prior, **config.simulator.arguments
        )
    except (LookupError, TypeError, ValueError) as error:
        message = error.args[0] if error.args else error
        raise UsageError(f"simulator {config.simulator.name!r}: {message}") from error
