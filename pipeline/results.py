"""The files of a training and of its evaluation: read with their checksums, and checked to belong together.

    trainings/KEY/config.yml      the configuration it was made by, written when it begins and never changed
                  curves.json     losses
                  posterior/      weights.pt, posterior.json
                  done.json       written last; holds the SHA-256 of curves and posterior
                  evaluation/     draws.npz; metrics.json, written last, holds the SHA-256 of the draws;
                                  draws_STEPS.zarr: large draws, the digests of whose chunks are in draws.npz

A missing file is read as None. A damaged one, or one of another training, raises `DamagedError`. The journal
repeats the two small documents of a finished training, so that they can be restored beside a sound posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.description import AbsentError, NewerError
from estimators.description import read as read_posterior
from pipeline import config as configuration
from pipeline import events
from pipeline.cache import FileCache
from pipeline.errors import DamagedError, PipelineError, UsageError
from pipeline.files import (
    file_hash,
    read_arrays,
    read_document,
    read_text,
    write_document,
    write_text,
)
from pipeline.progress import log
from pipeline.run import LATEST, RunDirectory

if TYPE_CHECKING:
    from estimators import Posterior

FORMAT = 1  # of done.json, curves.json, metrics.json
DONE, CURVES, CONFIG, POSTERIOR = "done.json", "curves.json", "config.yml", "posterior"
METRICS, DRAWS = "evaluation/metrics.json", "evaluation/draws.npz"
DESCRIPTION, WEIGHTS = f"{POSTERIOR}/posterior.json", f"{POSTERIOR}/weights.pt"
ABC_DRAWS = "draws.npz"  # in the folder of an ABC run
REPEATED = CURVES, DONE  # in the journal, by the event that a training is finished
BELONGS = "# Configuration of training "  # begins its first line
_descriptions = FileCache[dict[str, Any]]()  # of posteriors whose weights match them


@dataclass(frozen=True)
class Results:
    """The files of a training.

    Arguments:
        run: the run directory.
        key: of the training.
    """

    run: RunDirectory
    key: str

    @property
    def folder(self) -> Path:
        """The folder of the training."""
        return self.run.training(self.key)

    # --- the training ----------------------------------------------------------------------------

    @property
    def marked(self) -> bool:
        """Whether there is a mark of a finished training, intact or not."""
        return (self.folder / DONE).exists()

    def done(self) -> dict[str, Any] | None:
        """Return the mark of a finished training, if all files that it names are intact."""
        content = self._document(DONE)
        if content is None:
            return None
        self._belongs(DONE, content.get("key"))
        for name, digest in content.pop("files", {}).items():
            self._is(name, digest)
        if "format" not in content and self.posterior() is None:
            raise DamagedError(f"{self.folder / POSTERIOR} is missing")
        content.pop("format", None)
        return content

    def write_done(self, content: dict[str, Any]) -> None:
        """Mark the training as finished; curves and posterior are there."""
        files = {name: file_hash(self.folder / name) for name in (CURVES, DESCRIPTION, WEIGHTS)}
        write_document(self.folder / DONE, {"format": FORMAT, **content, "files": files})

    def restore(self) -> None:
        """Write the documents of a finished training anew: they are damaged or gone, the posterior is not."""
        try:
            if self.done() is not None:
                return
            problem = f"{self.folder / DONE} is missing"
        except DamagedError as error:
            problem = str(error)
        told = self._told()
        files = told.get(DONE, {}).get("files", {})
        vouched = {name: digest for name, digest in files.items() if name not in REPEATED}
        if not vouched or any(file_hash(self.folder / n) != d for n, d in vouched.items()):
            return
        log(f"{problem}; {' and '.join(REPEATED)} are written anew from the journal")
        for name in REPEATED:
            write_document(self.folder / name, told[name])

    def told_done(self) -> dict[str, Any]:
        """Return what the mark of a finished training said, as the journal repeats it; {} before."""
        told: dict[str, Any] = self._told().get(DONE, {})
        return told

    def _told(self) -> dict[str, Any]:
        """Return by name the documents of a finished training as the journal repeats them; {} before."""
        own = [e for e in events.read(self.run).events if e.get("training") == self.key]
        return next((e["documents"] for e in reversed(own) if "documents" in e), {})

    def curves(self) -> list[dict[str, Any]] | None:
        """Return the losses so far."""
        try:
            content = read_document(self.folder / CURVES, unsealed=True)
        except FileNotFoundError:
            return None
        if isinstance(content, list):  # of a version without seals
            return content
        self._belongs(CURVES, content.get("training"))
        curves: list[dict[str, Any]] = content["curves"]
        return curves

    def posterior(self) -> dict[str, Any] | None:
        """Return the description of the posterior, whose checksum of the weights is checked."""
        files = self.folder / DESCRIPTION, self.folder / WEIGHTS
        try:
            return _descriptions.get(files, files, lambda: self._read_posterior()[0])
        except AbsentError:
            return None

    def _read_posterior(self) -> tuple[dict[str, Any], bytes]:
        """Return the description and the bytes of the weights, both checked; `AbsentError` if missing."""
        try:
            description, weights = read_posterior(self.folder / POSTERIOR)
        except AbsentError:
            raise
        except NewerError as error:
            raise PipelineError(str(error)) from error
        except ValueError as error:
            raise DamagedError(str(error)) from error
        provenance = description.get("provenance", {})
        self._belongs(DESCRIPTION, provenance.get("training", self.key))
        return description, weights

    def load(self, device: str = "cpu") -> Posterior:
        """Return the posterior, its weights on a device.

        Raises:
            UsageError: there is none, or its estimator is not installed.
            DamagedError: it is damaged.
        """
        from estimators import artefact

        files, weights = (self.folder / DESCRIPTION, self.folder / WEIGHTS), b""

        def read() -> dict[str, Any]:
            nonlocal weights
            description, weights = self._read_posterior()
            return description

        try:
            description = _descriptions.read(files, files, read)
            return artefact.restore(self.folder / POSTERIOR, description, weights, device)
        except AbsentError as error:
            message = f"training {self.key} has no posterior yet: run `sbiflow train`"
            raise UsageError(message) from error
        except LookupError as error:
            raise UsageError(f"{self.folder / POSTERIOR}: {error.args[0]}") from error
        except ValueError as error:
            raise DamagedError(str(error)) from error

    # --- its configuration -----------------------------------------------------------------------

    def config(self) -> dict[str, Any] | None:
        """Return the plain values of the configuration that the training was made by."""
        path = self.folder / CONFIG
        try:
            text = read_text(path)
        except FileNotFoundError:
            return None
        self._belongs(CONFIG, text.partition("\n")[0].removeprefix(BELONGS))
        return configuration.parse(text, path)

    def recorded_config(self) -> dict[str, Any] | None:
        """Return the configuration of the run at the time when the training began, from the journal."""
        known = None
        for event in events.read(self.run).events:
            known = event.get("config", known)
            if event.get("training") == self.key:
                return known
        return None

    def write_config(self, values: dict[str, Any]) -> None:
        """Write the plain values of the configuration."""
        text = f"{BELONGS}{self.key}\n{configuration.text(values)}"
        write_text(self.folder / CONFIG, text)

    # --- its evaluation --------------------------------------------------------------------------

    def evaluated(self) -> dict[str, Any] | None:
        """Return the evaluation, if it is of this posterior and of the draws beside it."""
        content = self._document(METRICS)
        if content is None:
            return None
        try:
            key, weights = content["posterior"]["key"], content["settings"]["weights"]
        except (KeyError, TypeError):
            raise DamagedError(
                f"{self.folder / METRICS} is damaged: it names no posterior"
            ) from None
        self._belongs(METRICS, key)
        if "draws" in content:
            self._is(DRAWS, content["draws"])
        if weights != (self.weights_digest() or weights):
            raise DamagedError(f"{self.folder / METRICS} was measured on other weights")
        return _with_present_names(content)

    def weights_digest(self) -> str | None:
        """Return the SHA-256 of the posterior's weights, None where there are no intact ones."""
        try:
            description = self.posterior()
        except DamagedError:
            return None
        return None if description is None else str(description["weights"]["sha256"])

    def draws(self) -> dict[str, np.ndarray] | None:
        """Return the draws that were evaluated, and those of the reference posterior."""
        try:
            return read_arrays(self.folder / DRAWS)
        except FileNotFoundError:
            return None

    def write_evaluated(self, content: dict[str, Any]) -> dict[str, Any]:
        """Write the evaluation, after its draws; return what is read again."""
        sealed = {"format": FORMAT, **content, "draws": file_hash(self.folder / DRAWS)}
        write_document(self.folder / METRICS, sealed)
        return read_document(self.folder / METRICS)

    # --- checks ----------------------------------------------------------------------------------

    def _document(self, name: str) -> dict[str, Any] | None:
        try:
            content = read_document(self.folder / name, unsealed=True)
        except FileNotFoundError:
            return None
        if not isinstance(content, dict):
            raise DamagedError(f"{self.folder / name} is damaged: it holds no mapping")
        if content.get("format", FORMAT) > FORMAT:
            raise PipelineError(f"{self.folder / name} was written by a newer sbiflow: update")
        return content

    def _belongs(self, name: str, key: Any) -> None:
        if key != self.key:
            raise DamagedError(f"{self.folder / name} is not of this training, but of {key}")

    def _is(self, name: str, digest: str) -> None:
        if (found := file_hash(self.folder / name)) != digest:
            problem = "is missing" if not found else "is not the one that was written"
            raise DamagedError(f"{self.folder / name} {problem}")


def _with_present_names(evaluated: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation with `sampling_steps` for what earlier versions wrote as `passes`."""

    def renamed(values: dict[str, Any]) -> dict[str, Any]:
        return {"sampling_steps" if key == "passes" else key: v for key, v in values.items()}

    def measured(one: dict[str, Any]) -> dict[str, Any]:
        metrics = {name: renamed(record) for name, record in one.get("metrics", {}).items()}
        return renamed(one) | {"metrics": metrics}

    sweep = [measured(one) for one in evaluated.get("sweep", ())]
    return measured(evaluated) | {"sweep": sweep, "settings": renamed(evaluated["settings"])}


def latest_training(run: RunDirectory, tell: Callable[[str], None] = log) -> str:
    """Return the key of the training that commands without a name refer to.

    If `latest.json` is lost or names an older one, it is the last training that finished.

    Raises:
        UsageError: there is none.
    """
    finished = _finished(run)
    try:
        key = run.read_latest()
        later = finished[finished.index(key) + 1 :] if key in finished else []
        if not later:
            return key
        problem = f"{run.path / LATEST} names {key}, but {later[-1]} is later"
    except FileNotFoundError:
        problem = f"{run.path / LATEST} is missing"
    except DamagedError as error:
        problem = str(error)
    marks = sorted(run.path.glob(f"trainings/*/{DONE}"), key=lambda mark: mark.stat().st_mtime_ns)
    candidates = finished or [mark.parent.name for mark in marks]
    if not candidates:
        raise UsageError(f"{run.path} has no training yet: run `sbiflow train`")
    tell(f"{problem}; takes {candidates[-1]}")
    return candidates[-1]


def _finished(run: RunDirectory) -> list[str]:
    """Return the finished trainings in the order in which the journal last names their start."""
    keys: dict[str, None] = {}
    for event in events.read(run).events:
        if (event.get("stage"), event.get("event")) == ("train", "start") and "training" in event:
            keys.pop(key := str(event["training"]), None)
            keys[key] = None
    return [key for key in keys if (run.training(key) / DONE).exists()]


# --- ABC -----------------------------------------------------------------------------------------


def abc_keys(run: RunDirectory) -> list[str]:
    """Return the keys of all finished ABC runs."""
    return sorted(path.parent.name for path in run.path.glob(f"abc/*/{DONE}"))


def abc_done(run: RunDirectory, key: str) -> dict[str, Any] | None:
    """Return the result of a finished ABC run, if its draws are those that were written."""
    folder = run.abc(key)
    try:
        content: dict[str, Any] = read_document(folder / DONE)
    except FileNotFoundError:
        return None
    if content.get("key") != key or file_hash(folder / ABC_DRAWS) != content.get("draws"):
        raise DamagedError(f"{folder / DONE} does not belong to {folder / ABC_DRAWS}")
    return content


def write_abc(run: RunDirectory, key: str, content: dict[str, Any]) -> dict[str, Any]:
    """Mark an ABC run as finished, after its draws; return what is read again."""
    folder = run.abc(key)
    sealed = {"format": FORMAT, "key": key, **content, "draws": file_hash(folder / ABC_DRAWS)}
    write_document(folder / DONE, sealed)
    written: dict[str, Any] = read_document(folder / DONE)
    return written


def abc_draws(run: RunDirectory, key: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the draws of a finished ABC run, and its observation."""
    folder = run.abc(key)
    with np.load(folder / ABC_DRAWS, allow_pickle=False) as file:
        draws = {name: file[name] for name in file.files}
    return draws, read_arrays(folder / "observation.npz")


def write_curves(folder: Path, curves: list[dict[str, Any]]) -> None:
    """Write the losses of the training in `folder`."""
    content = {"format": FORMAT, "training": folder.name, "curves": curves}
    write_document(folder / CURVES, content)


def repeated(folder: Path) -> dict[str, Any]:
    """Return the documents of the finished training in `folder` that the journal repeats."""
    return {name: read_document(folder / name) for name in REPEATED}


@contextmanager
def advising(run: RunDirectory, stage: str) -> Iterator[None]:
    """Add to a `DamagedError` which stage makes the file again, for commands that only read."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}; `sbiflow {stage} -o {run.path}` makes it anew") from error
