"""Random injuries of the files of a run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.torture.base import Base

KINDS = (  # of files, by their place in the run; the first that fits
    ("config.yml", r"^config\.yml"),
    ("journal", r"^journal"),
    ("latest.json", r"^latest\.json"),
    ("report.html", r"^report\.html"),
    ("mlflow.db", r"^mlflow\.db"),
    ("artefacts", r"^artefacts/"),
    ("lock", r"lock$"),
    ("references", r"^references/"),
    ("state.pt", r"^trainings/.*state"),
    ("weights.pt", r"weights\.pt"),
    ("posterior.json", r"posterior\.json"),
    ("done.json", r"done\.json"),
    ("curves.json", r"curves\.json"),
    ("training's config", r"^trainings/.*\.ya?ml"),
    ("metrics.json", r"metrics\.json"),
    ("draws.npz", r"draws\.npz"),
    ("drawn_N.npz", r"drawn_"),
    ("store.json", r"store\.json"),
    ("schema.json", r"schema\.json"),
    ("plan.json", r"leases/.*plan"),
    ("lease", r"leases/"),
    ("spool", r"\.(spool|fresh|folding)"),
    ("shard on its way", r"\.(ready|partial)/"),
    ("manifest.json", r"manifest\.json"),
    ("failures.json", r"failures\.json"),
    ("zarr.json", r"zarr\.json"),
    ("column", r"/c/"),
    ("other", r""),
)
IRREPLACEABLE = ("config.yml", "journal", "store.json")
FOLDERS = (
    r"store",
    r"store/\w+",
    r"store/\w+/(leases|sessions)(/[^/]+)?",
    r"store/\w+/shards/\d+(/theta)?",
    r"trainings",
    r"trainings/[^/]+",
    r"trainings/[^/]+/(posterior|evaluation)",
    r"references",
    r"artefacts",
)
RANDOM = re.compile(r"[0-9a-f]{8,}|\d{5,}-\d+")  # parts of names that differ from run to run


def kind_of(path: str) -> str:
    return next(name for name, pattern in KINDS if re.search(pattern, path))


def files(folder: Path) -> dict[str, list[str]]:
    """Return the files of a run by kind, in an order that random names do not change."""
    found: dict[str, list[str]] = {}
    paths = (
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.is_symlink()
    )
    for path in sorted(paths, key=lambda p: (RANDOM.sub("X", p), p)):
        found.setdefault(kind_of(path), []).append(path)
    return found


def injure(base: Base, stage: str, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """Do one injury; return the kind of file, the injury, the path, and the stage that an older version is of."""
    if rng.random() < 0.1 and (done := _folder(base, stage, rng)):
        return done
    present = files(base.run)
    kind = str(rng.choice(sorted(present)))
    path = present[kind][int(rng.integers(len(present[kind])))]
    ways = [*WAYS, "older", "older", "other"]
    for way in rng.permutation(ways):
        source = _source(base, stage, str(way), path, present[kind], rng)
        if source or (way in WAYS and ((base.run / path).stat().st_size > 1 or way in SMALL)):
            break
    target = base.run / path
    if source:
        shutil.copyfile(source[1], target)
        return kind, str(way), path, source[0]
    WAYS[str(way)](target, rng)
    return kind, str(way), path, ""


def _source(
    base: Base, stage: str, way: str, path: str, alike: list[str], rng: np.random.Generator
) -> tuple[str, Path] | None:
    """Return where an older version of a file, or another file of its kind, comes from: a stage and a path."""
    content = (base.run / path).read_bytes()
    if way == "older":
        before = base.stages[: base.stages.index(stage)]
        places = [(name, base.snapshot(name) / path) for name in before]
    elif way == "other":
        places = [("", base.run / one) for one in alike if one != path]
    else:
        return None
    sound = [(s, p) for s, p in places if p.is_file() and p.read_bytes() != content]
    return sound[int(rng.integers(len(sound)))] if sound else None


def _folder(base: Base, stage: str, rng: np.random.Generator) -> tuple[str, str, str, str] | None:
    pattern = re.compile(str(rng.choice(FOLDERS)))
    found = sorted(str(p.relative_to(base.run)) for p in base.run.rglob("*") if p.is_dir())
    fitting = [path for path in found if pattern.fullmatch(path)]
    if not fitting:
        return None
    path = fitting[int(rng.integers(len(fitting)))]
    before = base.stages[: base.stages.index(stage)]
    older = [name for name in before if (base.snapshot(name) / path).is_dir()]
    shutil.rmtree(base.run / path)
    if older and rng.random() < 0.5:
        source = older[int(rng.integers(len(older)))]
        shutil.copytree(base.snapshot(source) / path, base.run / path)
        return "folder", "older", path, source
    return "folder", "delete", path, ""


# --- ways -------------------------------------------------------------------------------------------


def _change(
    change: Callable[[bytearray, np.random.Generator], bytes | bytearray],
) -> Callable[[Path, np.random.Generator], None]:
    def way(path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(change(bytearray(path.read_bytes()), rng))

    return way


def _bit(content: bytearray, rng: np.random.Generator) -> bytearray:
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    return content


def _digit(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Change a digit into another one: what stays readable is the worst."""
    places = [i for i, byte in enumerate(content[:200_000]) if 48 <= byte < 58]
    if not places:
        return _bit(content, rng)
    place = places[int(rng.integers(len(places)))]
    content[place] = 48 + (content[place] - 48 + int(rng.integers(1, 10))) % 10
    return content


def _byte(content: bytearray, rng: np.random.Generator) -> bytearray:
    content[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
    return content


def _zero(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(content)))
    length = min(len(content) - start, 1 << int(rng.integers(0, 13)))
    content[start : start + length] = bytes(length)
    return content


def _line(content: bytearray, rng: np.random.Generator) -> bytes:
    """Lose a line, where there are lines."""
    lines = bytes(content).splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


WAYS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "bit": _change(_bit),
    "digit": _change(_digit),
    "byte": _change(_byte),
    "zeros": _change(_zero),
    "empty": _change(lambda content, rng: b""),
    "half": _change(lambda content, rng: content[: len(content) // 2]),
    "short": _change(lambda content, rng: content[:-1]),
    "line": _change(_line),
    "junk": _change(lambda content, rng: content + rng.bytes(int(rng.integers(1, 64)))),
    "delete": lambda path, rng: path.unlink(),
}
SMALL = ("delete", "junk")  # of files that hold nothing
