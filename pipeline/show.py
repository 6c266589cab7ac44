"""What commands print: plain values for machines, short text for people."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.plan.check import CheckResult
from pipeline.progress import duration
from pipeline.run import STREAMS, RunDirectory
from pipeline.simulate import sources
from pipeline.store import Damage, Store, verify

WIDTH = 100  # of paragraphs


def plain(value: Any) -> Any:
    """Return dataclasses, arrays and paths as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def size(count: float) -> str:
    """Write bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def streams(run: RunDirectory) -> list[str]:
    """Return the streams that have a store."""
    return [stream for stream in STREAMS if (run.store(stream) / "store.json").exists()]


def stores(run: RunDirectory) -> list[str]:
    """Return all streams that have a store, those of ABC runs included."""
    found = sorted(run.path.glob("abc/*/store/store.json"))
    return [*streams(run), *(f"abc-{path.parents[1].name}" for path in found)]


# --- simulations -------------------------------------------------------------------------------


def status_values(config: Config, run: RunDirectory) -> dict[str, Any]:
    """Return counts, digest, rate, ETA and slowest simulations; the training stream's counts also at the top."""
    values: dict[str, Any] = {"run": str(run.path), "streams": {}}
    for stream, budget in config.budgets.items():
        values["streams"][stream] = _stream_values(run, stream, budget)
    values |= values["streams"]["train"]
    return values


def _stream_values(run: RunDirectory, stream: str, budget: int) -> dict[str, Any]:
    last = _last_event(run, stream)
    rate = last.get("rate")
    if stream not in streams(run):
        counts = dict.fromkeys(("done", "ok", "failed", "timeout", "invalid"), 0)
        return {"budget": budget, **counts, "missing": budget, "rate": rate, "eta": None,
                "slowest": [], "digest": None, "sources": []}  # fmt: skip
    store = Store.open(run.store(stream))
    counts = store.counts(budget)
    eta = counts["missing"] / rate if rate else None
    return {
        "budget": budget,
        **counts,
        "rate": rate,
        "eta": 0.0 if counts["missing"] == 0 else eta,
        "slowest": plain(store.slowest(3)),
        "digest": store.digest(budget),
        "sources": sources.values(store.path),
    }


def _last_event(run: RunDirectory, stream: str) -> dict[str, Any]:
    if not run.journal.exists():
        return {}
    from pipeline.events import read

    events = [
        event
        for event in read(run).events
        if event.get("stage") == "simulate" and event.get("stream") == stream
    ]
    return events[-1] if events else {}


def status(values: dict[str, Any]) -> str:
    """Return the state of a run's simulations as text."""
    lines = []
    for stream, s in values["streams"].items():
        bad = ", ".join(f"{s[kind]} {kind}" for kind in ("failed", "timeout", "invalid") if s[kind])
        rate = f", last rate {s['rate']:.4g}/s" if s["rate"] else ""
        eta = f", about {duration(s['eta'])} left" if s["eta"] else ""
        lines.append(
            f"{stream}: {s['done']}/{s['budget']} simulations, {s['missing']} missing"
            + (f", {bad}" if bad else "")
            + rate
            + eta
        )
        if s["digest"]:
            lines.append(f"  digest {s['digest']}")
        if len(s["sources"]) > 1:
            lines.append(f"  source {sources.told(s['sources'])}")
        if s["slowest"] and s["slowest"][0]["seconds"] >= 0.01:
            row = s["slowest"][0]
            lines.append(f"  slowest: id {row['id']}, {duration(row['seconds'])}")
    return "\n".join(lines)


def submitted(result: dict[str, Any], run: Path) -> str:
    """Return the ids of the jobs, or, of a dry run, their scripts."""
    jobs = result["jobs"]
    if not all("id" in job for job in jobs):
        return "\n".join(f"==> {job['script']} <==\n{job['text']}" for job in jobs).rstrip()
    lines = [f"{job['stage']:<9} job {job['id']}" for job in jobs]
    return "\n".join([*lines, f"see    {command()} status -o {run}"])


def jobs(rows: list[dict[str, Any]]) -> str:
    """Return a line for each batch job, each after a line break."""
    lines = (
        f"\njob {row['id']}  {row['stage']:<9} {row['state']}"
        + (f" ({row['reason']})" if row["reason"] else "")
        for row in rows
    )
    return "".join(lines)


def failure_values(run: RunDirectory) -> list[dict[str, Any]]:
    """Return every row that is not ok, with its parameters by name."""
    result = []
    for stream in streams(run):
        store = Store.open(run.store(stream))
        for row in store.failures():
            theta = dict(zip(store.names, np.asarray(row.theta).tolist(), strict=True))
            result.append(
                {
                    "stream": stream,
                    "id": int(row.id),
                    "outcome": row.outcome.name.lower(),
                    "theta": theta,
                    "message": row.message,
                    "traceback": row.traceback,
                    "seconds": float(row.seconds),
                }
            )
    return result


def failures(values: list[dict[str, Any]]) -> str:
    """Return the simulations that are not ok as text."""
    if not values:
        return "no failures"
    lines = []
    for row in values:
        theta = ", ".join(f"{name}={value:.6g}" for name, value in row["theta"].items())
        lines.append(
            f"{row['stream']} {row['id']} {row['outcome']} after {duration(row['seconds'])}:"
            f" {row['message']} [{theta}]"
        )
    return "\n".join(lines)


def store_values(run: RunDirectory) -> dict[str, Any]:
    """Return what `store info` prints."""
    values = {}
    for stream in stores(run):
        store = Store.open(run.store(stream))
        files = [file for file in run.store(stream).rglob("*") if file.is_file()]
        values[stream] = {
            "path": str(run.store(stream)),
            "identity": store.identity,
            "schema": plain(store.schema),
            "counts": store.counts(),
            "digest": store.digest(),
            "shards": len(store.shards()),
            "files": len(files),
            "bytes": sum(file.stat().st_size for file in files),
        }
    return values


def problem_values(run: RunDirectory) -> list[dict[str, Any]]:
    """Return what `store verify` found."""
    return [
        {"stream": stream, **plain(problem)}
        for stream in stores(run)
        for problem in _verified(run, stream)
    ]


def _verified(run: RunDirectory, stream: str) -> list[Damage]:
    if stream in STREAMS:
        return verify(Store.open(run.store(stream)))
    from pipeline.abc.verified import verify_abc  # imports pyABC

    return verify_abc(run, stream.removeprefix("abc-"))


def problems(values: list[dict[str, Any]]) -> str:
    """Return the damage that was found in stores as text."""
    return "\n".join(json.dumps(problem) for problem in values) or "every checksum is right"


# --- plans and checks --------------------------------------------------------------------------


def plan(run: RunDirectory, values: dict[str, Any]) -> str:
    """Return what a run would do, and its cost, as text."""
    lines = [
        f"{stream}: have {s['have']}, need {s['need']}, will run {s['new']}"
        for stream, s in values["streams"].items()
    ]
    lines.append(
        f"{values['seconds_per_simulation']:.3g} s a simulation, measured here:"
        f" {values['core_hours']:.3g} core hours,"
        f" about {duration(values['wall_seconds'])} on {values['workers']} workers"
    )
    lines.append(
        f"{size(values['bytes'])} in {values['shards']} shards ({values['files']} files) under {run.path}"
    )
    lines += [_forecast(found) for found in values["schedule"].values()]
    return "\n".join(lines)


def _forecast(values: dict[str, Any]) -> str:
    return (
        f"  layout {values['layout']}: {duration(values['wall_seconds'])}, {values['efficiency']:.0%} efficient,"
        f" {values['messages_per_second']:.3g} messages/s, fullest folder {values['entries']},"
        f" bottleneck: {values['bottleneck']}"
    )


def check_values(result: CheckResult) -> dict[str, Any]:
    """Return what a check found as plain values."""
    return plain(result)


def check(config: Config, result: CheckResult) -> str:
    """Return what a check found as text."""
    lines = []
    if probe := result.probe:
        lines.append(
            f"simulator {config.simulator.name}: {probe.seconds:.3g} s a simulation, {probe.row_bytes} bytes a row"
        )
        lines += [f"  {name}: {dtype} {shape}" for name, (dtype, shape) in probe.outputs.items()]
    lines += [f"note: {note}" for note in result.notes]
    lines += [f"problem: {problem}" for problem in result.problems] or ["no problems"]
    return "\n".join(lines)


# --- training and evaluation -------------------------------------------------------------------


def training(result: Any) -> str:
    """Return the result of a training as text."""
    from pipeline.report.verdict import verdicts

    loss = result.best_validation_loss
    best = f", best validation loss {loss:.5g}" if loss is not None else ""
    kept = f", weights of step {result.kept_step}" if result.kept_step is not None else ""
    line = f"trained {result.key}: {result.steps} steps{best}{kept}, {duration(result.seconds)}"
    return "\n".join([line, *paragraphs(verdicts(done=plain(result)))])


def abc(result: Mapping[str, Any]) -> str:
    """Return the intervals of an ABC run, and what they cost."""
    used = sum(result["simulations"].values())
    lines = [
        f"abc {result['key']}: {len(result['epsilon'])} generations, epsilon {result['epsilon'][-1]:.4g},"
        f" {used} simulations, {duration(result['seconds'])}"
    ]
    columns = (result["names"], result["median"], result["low"], result["high"])
    for name, middle, low, high in zip(*columns, strict=True):
        lines.append(f"  {name:<24} median {middle:<10.4g} 95 % {low:.4g} to {high:.4g}")
    if "trained" in result:
        lines.append(f"trained on these simulations and the run's, weighted: {result['trained']}")
    return "\n".join(lines)


def paragraphs(words: Sequence[str]) -> list[str]:
    """Return verdicts as lines, each after an empty one."""
    return [f"\n{textwrap.fill(one, WIDTH, break_long_words=False)}" for one in words]


def metrics(result: dict[str, Any]) -> str:
    """Return the metrics as an aligned table, and what they mean."""
    rows = [(name, *_figure(value)) for name, value in result["metrics"].items()]
    width = max((len(name) for name, _, _ in rows), default=0)
    lines = [f"{name:<{width}}  {figure:>18}  {note}".rstrip() for name, figure, note in rows]
    return "\n".join([*lines, *paragraphs(result.get("verdicts", ()))])


def _figure(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        return f"{value:.4g}", ""
    definition = str(value.get("definition") or value.get("note") or "")
    if band := value.get("null_band"):
        definition += f" (perfect sampler {band[0]:.3f} to {band[1]:.3f})"
    if value.get("mean") is not None:
        sem = f" ± {value['sem']:.4f}" if value.get("sem") is not None else ""
        return f"{value['mean']:.4f}{sem}", definition
    if value.get("max") is not None:
        return f"{value['max']:.4f}", definition
    return "-", definition


def command() -> str:
    """Return how this command can be called again from the working directory."""
    if shutil.which("sbiflow"):
        return "sbiflow"
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "sbiflow" else "python -m pipeline"


def summary(config: Config, run: RunDirectory, result: dict[str, Any]) -> str:
    """Return what a finished run prints: figures, report, UI."""
    counts = status(status_values(config, run))
    return (
        f"{counts}\n\n{metrics(result)}\n\nreport  {run.report.resolve()}\n"
        f"UI      {command()} ui -o {run.path}   (then open http://127.0.0.1:5000)"
    )
