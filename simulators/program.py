"""A simulator that is an external program: it reads parameters from a file and writes arrays to a file."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import string
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.random import Generator

from simulators.distribution import Array
from simulators.simulator import Outputs, PriorLike, Simulator
from simulators.source import Source, text_of

INPUTS = (".json", ".npz")
OUTPUTS = (".npz", ".npy", ".json")
STDERR_TAIL = 2000  # characters

# The watcher leads the program's process group. Its standard input is a pipe from this process: when
# the pipe closes because this process died, it ends the group and removes the folder.
WATCHER = """trap '' TERM; read _; kill -TERM 0; rm -rf -- "$1"; kill -KILL 0"""


class Program(Simulator):
    """A simulator that is an external program, run in a temporary folder of its own.

    The program finds its parameters and a seed in a file and leaves its outputs in another:

        parameters.json   {"parameters": {"mu": 0.5, ...}, "seed": 123}
        output.npz        one array per output (.npy: one array, named "x"; .json: lists by name)

    `{parameters}`, `{output}`, `{seed}` and `{<name of a parameter>}` in the command are replaced by
    the two paths and the values. The program, and whatever it started in its process group, is
    killed at the time-out, when it leaves children behind, and when this process dies.

    Arguments:
        command: the program and its words, a list or one text in shell quoting; no shell runs it.
        prior: a prior, or what `prior_from` takes.
        version: change it when the program changes its outputs.
        parameters, output: names of the two files; their suffix chooses the format, .json or .npz
            and .npz, .npy or .json. An .npz holds one scalar per parameter and "seed".
        directory: where the program runs; None is its temporary folder. The temporary folder is
            removed in either case.
        ragged: outputs whose first axis varies in length from simulation to simulation.

    Raises: ValueError or TypeError naming the argument, its value and what is valid.
    """

    owns_timeout = True

    def __init__(
        self,
        command: str | Sequence[str],
        prior: PriorLike | None = None,
        *,
        version: str = "1",
        parameters: str = "parameters.json",
        output: str = "output.npz",
        directory: str | None = None,
        ragged: Sequence[str] = (),
    ) -> None:
        if prior is None:
            raise ValueError("program has no prior of its own: give one")
        self.words = shlex.split(command) if isinstance(command, str) else list(command)
        self.input, self.output = Path(parameters), Path(output)
        _check_file("parameters", self.input, INPUTS)
        _check_file("output", self.output, OUTPUTS)
        self.directory = None if directory is None else Path(directory).resolve()
        super().__init__(
            self._run,
            prior,
            name="program",
            version=version,
            ragged=ragged,
            arguments={
                "command": command if isinstance(command, str) else list(command),
                "version": version,
                "parameters": parameters,
                "output": output,
                "directory": directory,
                "ragged": sorted(ragged),
            },
            address="program",
        )
        self._check_command()

    def _check_command(self) -> None:
        if not self.words or not all(isinstance(word, str) for word in self.words):
            raise ValueError(f"program: command must be words of text, got {self.words!r}")
        valid = ("parameters", "output", "seed", *self.prior.names)
        used = set()
        for word in self.words:
            fields = _fields(word)
            if unknown := fields - set(valid):
                listed = ", ".join(f"{{{key}}}" for key in valid)
                raise ValueError(
                    f"program: command word {word!r} has the unknown field {{{unknown.pop()}}}; "
                    f"valid: {listed}; write {{{{ for a brace"
                )
            used |= fields
        if self.directory is not None:
            if not self.directory.is_dir():
                raise ValueError(f"program: directory '{self.directory}' is not a folder")
            if "output" not in used:
                raise ValueError("program: with a directory, the command must use {output}")
        found = shutil.which(self.words[0])
        if found is None:
            raise ValueError(f"program: no executable program '{self.words[0]}' was found")
        self.words[0] = str(Path(found).absolute())

    def __reduce__(self) -> str | tuple[Any, ...]:
        return object.__reduce__(self)  # its parts: paths are resolved once, where it was made

    def simulate(self, theta: Array, rng: Generator, timeout: float | None = None) -> Outputs:
        """Run the program once at theta, shape (D,), for at most `timeout` seconds.

        Raises: TimeoutError past the time-out; RuntimeError, with the end of the program's standard
        error, for a non-zero exit code or outputs that are missing or cannot be read.
        """
        return self._outputs(self._run(np.asarray(theta, dtype=float), rng, timeout))

    def source(self) -> Source:
        """Return the program, and the files among the words of its command."""
        base, files = self.directory or Path.cwd(), dict[str, str]()
        for number, word in enumerate(self.words):
            if not _fields(word) and (base / word).is_file():
                name = Path(word).name
                files[name if name not in files else f"{number}/{name}"] = text_of(base / word)
        return Source(files)

    def _run(self, theta: Array, rng: Generator, timeout: float | None = None) -> Any:
        values = dict(zip(self.prior.names, theta.tolist(), strict=True))
        seed = int(rng.integers(2**31 - 1))
        with tempfile.TemporaryDirectory(prefix="simulation-") as name:
            folder = Path(name)
            _write(folder / self.input, values, seed)
            paths = {"parameters": folder / self.input, "output": folder / self.output}
            fields = {**values, **paths, "seed": seed}
            command = [word.format_map(fields) for word in self.words]
            with open(folder / "stderr.txt", "wb") as stderr:
                _execute(command, self.directory or folder, folder, stderr, timeout)
            return _read(folder / self.output, folder / "stderr.txt")


def _check_file(argument: str, file: Path, suffixes: Sequence[str]) -> None:
    if file.name != str(file) or file.suffix not in suffixes:
        valid = " or ".join(suffixes)
        raise ValueError(
            f"program: {argument} must be a file name that ends in {valid}, got '{file}'"
        )


def _fields(word: str) -> set[str]:
    try:
        return {field for _, field, _, _ in string.Formatter().parse(word) if field is not None}
    except ValueError as error:
        what = f"{error}; write {{{{ for a brace"
        raise ValueError(f"program: command word {word!r}: {what}") from None


def _write(path: Path, values: dict[str, float], seed: int) -> None:
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {key: np.float64(value) for key, value in values.items()}
        np.savez(path, **arrays, seed=np.int64(seed))
    else:
        path.write_text(json.dumps({"parameters": values, "seed": seed}))


@contextmanager
def _group(folder: Path) -> Iterator[int]:
    """Start a process group under a watcher; on leaving, whatever is in it is killed."""
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", WATCHER, "sbiflow-watcher", str(folder)],
        env={"PATH": os.environ.get("PATH", os.defpath)},  # who kills by a variable spares it
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield watcher.pid
    finally:
        os.killpg(watcher.pid, signal.SIGKILL)  # before the pipe closes: the folder is ours
        watcher.wait()
        assert watcher.stdin is not None
        watcher.stdin.close()


def _execute(
    command: list[str], directory: Path, folder: Path, stderr: IO[bytes], timeout: float | None
) -> None:
    """Run the command to its end; TimeoutError or RuntimeError where that is not a good one."""
    with _group(folder) as group:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=group,
        )
        try:
            ended = _wait(process, timeout)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if not ended:
        raise TimeoutError(f"the program did not end within {timeout:g} s{_tail(stderr.name)}")
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise RuntimeError(f"the program was killed by {name}{_tail(stderr.name)}")
    if process.returncode > 0:
        code = process.returncode
        raise RuntimeError(f"the program ended with exit code {code}{_tail(stderr.name)}")


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> bool:
    """Wait for the process; False at the time-out."""
    if timeout is None or not hasattr(os, "pidfd_open"):
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True
    handle = os.pidfd_open(process.pid)  # wakes at once; Popen.wait(timeout) sleeps up to 50 ms
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(1000 * timeout):
            return False
    finally:
        os.close(handle)
    process.wait()
    return True


def _read(path: Path, stderr: Path) -> Any:
    if not path.exists():
        raise RuntimeError(f"the program left no file '{path.name}'{_tail(stderr)}")
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        what = f"the program's file '{path.name}' cannot be read: {error}"
        raise RuntimeError(f"{what}{_tail(stderr)}") from error


def _tail(stderr: str | Path) -> str:
    text = Path(stderr).read_bytes()[-STDERR_TAIL:].decode(errors="replace").strip()
    return f"; its standard error ends with:\n{text}" if text else "; its standard error is empty"
