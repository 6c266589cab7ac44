"""What a run reports, as plain values that two runs can be compared by; times and rates are left out."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.torture.command import Child, Done, run

READING = ("status", "failures", "store info", "sample", "report")
BAR = " | "
NOTICE = re.compile(
    r"\bdamaged\b|is missing|not the one that was written|was changed after|; takes "
)
LOST = "no reason was recorded"  # of a failure whose message was damaged
COUNTED = re.compile(
    r"train|test|Training simulations|Posterior of|Simulations of|picture (outcomes|failures)|.*(digest|the first)"
)
TIMED = re.compile(r"(?:\b|_)(seconds?|rate|times?|busy|eta)\b|git revision|^versions$", re.I)
DURATION = re.compile(r"^[\d.e+-]+ ?(s|ms|us|µs|m|min|h)$|^\d+[hm]\d+[ms]$|^(\d+h)?(\d+m)?\d+s$")


class Places(Protocol):
    """Where a run under torture is, a folder that may be full, and the observation of `sample`."""

    @property
    def run(self) -> Path: ...

    @property
    def disk(self) -> Path: ...

    @property
    def observation(self) -> Path: ...


# --- what the commands that only read say ------------------------------------------------------------


def reading(base: Places) -> list[list[str]]:
    """Return the commands that only read, in the order of `READING`."""
    run, out = ["-o", str(base.run)], str(base.disk / "tmp" / "draws.npz")
    return [
        ["status", "--json", *run],
        ["failures", "--json", *run],
        ["store", "info", "--json", *run],
        ["sample", *run, "--obs", str(base.observation), "--out", out, "-n", "20"],
        ["report", *run],
    ]


def told(base: Places, wanted: tuple[str, ...] = READING) -> dict[str, Any]:
    """Return what each command said: its values, or the `Done` of one that failed."""
    pairs = zip(reading(base), READING, strict=True)
    commands = [argv for argv, name in pairs if name in wanted]
    wanted = tuple(name for name in READING if name in wanted)
    (base.disk / "tmp" / "draws.npz").unlink(missing_ok=True)
    results = {}
    done = run(commands, timeout=120)
    for name, one in zip(wanted, _padded(done, commands), strict=False):
        results[name] = values(base, name, one) if one.code == 0 and not one.traceback else one
    return results


def _padded(done: list[Done], commands: list[list[str]]) -> list[Done]:
    """Run what a dead child left out in a child of its own."""
    while len(done) < len(commands):
        done = done + run(commands[len(done) :], timeout=120)
    return done


def values(base: Places, name: str, done: Done) -> Any:
    """Return what a command that succeeded said."""
    if name == "sample":
        with np.load(base.disk / "tmp" / "draws.npz") as file:
            return _digest(file["theta"])
    if name == "report":
        return report(base.run / "report.html")
    said = json.loads(done.out)
    if name == "status":
        return {stream: _counts(one) for stream, one in said["streams"].items()}
    if name == "failures":
        drop = ("seconds", "traceback")
        return [{key: row[key] for key in row if key not in drop} for row in said]
    return {
        stream: {key: one[key] for key in ("identity", "schema")} | _counts(one | one["counts"])
        for stream, one in said.items()
    }


def _counts(one: dict[str, Any]) -> dict[str, Any]:
    return {k: one[k] for k in ("done", "ok", "failed", "timeout", "invalid", "missing", "digest")}


def report(path: Path) -> list[str]:
    """Return what a report shows: a line for each row of a table, card, paragraph and picture."""
    page = path.read_text(encoding="utf-8")
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    page = re.sub(r"<details><summary>configuration.*?</details>", "", page, flags=re.S)
    lines = [f"picture {_picture(data)}" for data in re.findall(r"base64,([\w+/=]+)", page)]
    for table in re.findall(r"<table>.*?</table>", page, flags=re.S):
        lines += _rows(re.findall(r"<tr.*?</tr>", table, flags=re.S))
    parts = r"<p(?: [^>]*)?>.*?</p>|<div class=\"card\">.*?</div></div>|<summary>.*?</summary>"
    lines += [_line(_cells(part)) for part in re.findall(parts, page, flags=re.S)]
    return sorted(line for line in lines if line and not TIMED.search(line.partition(BAR)[0]))


def _rows(rows: list[str]) -> list[str]:
    """Return the rows of a table without the columns that hold times."""
    head, *body = map(_cells, rows)
    timed = {k for k, name in enumerate(head) if TIMED.search(name) or name == "after"}
    kept = [[cell for k, cell in enumerate(cells) if k not in timed] for cells in body]
    return [_line(cells) for cells in kept if cells[0] != "run directory"]


def _cells(part: str) -> list[str]:
    cells = re.split(r"</t[dh]>|</div>|</small>", part)[: None if "</t" not in part else -1]
    return [html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in cells]


def _line(cells: list[str]) -> str:
    return BAR.join(cell for cell in cells if cell and not DURATION.match(cell))


def _picture(data: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", "", base64.b64decode(data).decode()))[:100]


def differs(name: str, quiet: Any, now: Any) -> str:
    """Say how what a command says now differs from what it said; "" where it is equal or honestly less."""
    if quiet == now:
        return ""
    if isinstance(quiet, Done):
        return f"{name} failed on the quiet run and succeeds now"
    if name in ("status", "store info"):
        return "; ".join(filter(None, (_counted(name, s, quiet[s], now.get(s)) for s in quiet)))
    if name == "failures":
        bare = [row | {"message": LOST} for row in quiet]
        more = [row for row in now if row not in quiet and row not in bare]
        return f"failures: {str(more[0])[:150]}" if more else ""
    if name == "report":
        known, more = set(quiet), [line for line in now if line not in quiet]
        more = [
            line
            for line in more
            if not (_counts_rows(line) or _says_damage(line) or _part(line, known))
        ]
        return f"report: {more[0][:150]!r}" if more else ""
    return f"{name}: other draws"


def _part(line: str, known: set[str]) -> bool:
    """Whether a row is a known one of which some cells are missing, or said to be lost."""
    cells = [cell for cell in line.split(BAR) if cell not in ("–", LOST)]
    rows = (row.split(BAR) for row in known)
    return any(row[0] == cells[0] and set(cells) <= set(row) for row in rows)


def _counts_rows(line: str) -> bool:
    """Whether a line of a report states counts of simulations, which `status` is asked for as well."""
    return bool(COUNTED.match(line))


def _says_damage(line: str) -> bool:
    """Whether a line of a report is a notice that something is damaged or gone."""
    return bool(NOTICE.search(line))


def _counted(name: str, stream: str, quiet: dict[str, Any], now: dict[str, Any] | None) -> str:
    if now is None or now == quiet:
        return ""
    keys = [key for key in now if key != "digest" and now[key] != quiet[key]]
    if not keys:
        return f"{name}: other digest of {stream}"
    if any(key in keys for key in ("identity", "schema")):
        return f"{name}: other {keys[0]} of {stream}"
    grown = [key for key in keys if key != "missing" and now[key] > quiet[key]]
    if grown or (
        now["missing"] and now["done"] + now["missing"] != quiet["done"] + quiet["missing"]
    ):
        return f"{name}: {stream} {grown or keys} {quiet} -> {now}"[:200]
    return ""


# --- what a finished run holds -----------------------------------------------------------------------


def final(base: Places) -> dict[str, Any]:
    """Return all that a finished run reports, each part by its name; an error where it cannot be read."""
    commands = [*reading(base), ["store", "verify", "--json", "-o", str(base.run)]]
    path = base.disk / "tmp" / "facts.pickle"
    path.unlink(missing_ok=True)
    child = Child(commands, job=partial(_write, base.run, path))
    done = child.wait(120)
    found: dict[str, Any] = {}
    names = [*READING, "verify"]
    for name, one in zip(names, done, strict=False):
        if name == "verify" and one.code == 1 and not one.traceback:
            found[name] = one.message
        elif one.code == 0 and not one.traceback:
            found[name] = [] if name == "verify" else values(base, name, one)
        else:
            found[name] = one
    if path.exists():
        found |= pickle.loads(path.read_bytes())
    for name in (*names, "weights", "curves", "metrics", "draws", "references", "config", "mlflow"):
        found.setdefault(name, "cannot be read")
    return found


def _write(folder: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps(held(folder)))


def held(folder: Path) -> dict[str, Any]:
    """Return what the files of the latest training, its evaluation and MLflow hold."""
    found = {}
    parts: dict[str, Callable[[Path], Any]] = {
        "weights": _weights, "curves": _curves, "metrics": _metrics, "draws": _draws,
        "references": _references, "config": _config, "mlflow": mlflow,
    }  # fmt: skip
    for name, part in parts.items():
        try:
            found[name] = part(folder)
        except Exception as error:
            found[name] = f"cannot be read: {type(error).__name__}: {error}"[:300]
    return found


def _latest(folder: Path) -> Path:
    return folder / "trainings" / json.loads((folder / "latest.json").read_text())["training"]


def _weights(folder: Path) -> Any:
    import estimators

    posterior = estimators.load(_latest(folder) / "posterior")
    module = next(v for v in vars(posterior).values() if hasattr(v, "state_dict"))
    return {name: _digest(tensor.numpy()) for name, tensor in module.state_dict().items()}


def _curves(folder: Path) -> Any:
    loaded = json.loads((_latest(folder) / "curves.json").read_text())
    rows = (
        loaded
        if isinstance(loaded, list)
        else next(v for v in loaded.values() if isinstance(v, list))
    )
    return [{k: v for k, v in row.items() if not TIMED.search(k)} for row in rows]


def _metrics(folder: Path) -> Any:
    loaded = json.loads((_latest(folder) / "evaluation" / "metrics.json").read_text())
    loaded.get("settings", {}).pop("weights", None)
    loaded.pop("checksum", None)
    return _untimed(loaded)


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if k != "seconds"}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def _draws(folder: Path) -> Any:
    with np.load(_latest(folder) / "evaluation" / "draws.npz") as file:
        return {name: _digest(file[name]) for name in sorted(file.files)}


def _references(folder: Path) -> Any:
    """Return the digests of all reference draws; what cannot be read is drawn again where needed."""
    found = []
    for path in sorted((folder / "references").glob("*.npz")):
        with suppress(Exception), np.load(path) as file:
            found.append(_digest(file["references"]))
    return sorted(found)


def _config(folder: Path) -> Any:
    import yaml

    return yaml.safe_load((folder / "config.yml").read_text())


def mlflow(folder: Path) -> Any:
    """Return parameters and metrics of each training and evaluation in MLflow, read by its client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    found: dict[str, Any] = {}
    for experiment in client.search_experiments():
        for one in client.search_runs([experiment.experiment_id]):
            if one.data.tags.get("sbiflow.kind") != "training":
                continue
            tags = one.data.tags
            key = f"{tags.get('sbiflow.training', '?')} {tags.get('sbiflow.kind', '?')}"
            while key in found:
                key += " again"
            found[key] = dict(_run_of(client, one))
    return found


def _run_of(client: Any, one: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f"param {k}", v) for k, v in one.data.params.items() if not TIMED.search(k))
    for name in one.data.metrics:
        if not TIMED.search(name) and not name.startswith("system/"):
            history = client.get_metric_history(one.info.run_id, name)
            yield f"metric {name}", sorted({(point.step, point.value) for point in history})
    for tag in ("sbiflow.store_digest", "sbiflow.test_digest", "mlflow.note.content"):
        if tag in one.data.tags:
            yield f"tag {tag}", re.sub(r".*seconds.*", "", one.data.tags[tag])


def _digest(array: Any) -> str:
    array = np.ascontiguousarray(array)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def differences(
    quiet: dict[str, Any], now: dict[str, Any], latest: str, fewer: bool = False
) -> dict[str, str]:
    """Return by name how a finished run differs from the quiet one.

    `fewer` says that the curve of an older training may have lost points in MLflow.
    """
    found = {}
    for name, value in quiet.items():
        other = now.get(name)
        if other == value or name == "verify":
            continue
        if name == "report" and isinstance(other, list):
            lacking = [
                line for line in value if line not in other and latest.partition(" ")[0] in line
            ]
            more = differs("report", value, other)
            if not more and not lacking:
                continue  # an older training may have gone
        if name == "references" and set(other) <= set(value):
            continue
        if name == "mlflow" and isinstance(other, dict):
            if not (change := _mlflow_change(value, other, latest, fewer)):
                continue
            found[name] = change
            continue
        found[name] = _change(value, other)
    return found


def _mlflow_change(quiet: dict[str, Any], now: dict[str, Any], latest: str, fewer: bool) -> str:
    """Say how MLflow's records differ: each training there once, no other value, nothing of the latest missing."""
    for key, record in now.items():
        if key not in quiet:
            return f"a further MLflow run {key}"
        for name, value in record.items():
            lossy = fewer and key != latest and name.startswith("metric ") and name in quiet[key]
            if lossy and set(value) <= set(quiet[key][name]):
                continue
            if name in quiet[key] and value != quiet[key][name]:
                return f"{key} {name}: {quiet[key][name]} -> {value}"[:300]
            if name not in quiet[key]:
                return f"{key} {name} is new"
    lacking = [name for name in quiet[latest] if name not in now.get(latest, {})]
    return f"{latest} lacks {lacking[0]}" if lacking else ""


def _change(quiet: Any, now: Any) -> str:
    if isinstance(quiet, dict) and isinstance(now, dict):
        keys = [k for k in quiet.keys() | now.keys() if quiet.get(k) != now.get(k)]
        return "; ".join(f"{k}: {quiet.get(k)} -> {now.get(k)}" for k in sorted(keys, key=str))[
            :300
        ]
    if isinstance(quiet, list) and isinstance(now, list):
        lost = [one for one in quiet if one not in now]
        more = [one for one in now if one not in quiet]
        return f"lacks {lost[:1]}, has {more[:1]}"[:300]
    if isinstance(now, Done):
        return f"code {now.code}: {(now.message or now.err)[-200:]}"
    return f"{quiet} -> {now}"[:300]
