"""The peers' own environment, and one training in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("sbi==0.27.0", "bayesflow==2.0.12", "jax==0.10.2", "keras==3.15.1")
WORKERS = {
    "sbiflow": "sbiflow_worker",
    "sbi": "sbi_worker",
    "bayesflow-jax": "bayesflow_worker",
    "bayesflow-torch": "bayesflow_worker",
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def prepare(folder: Path) -> Path:
    """Return the interpreter of the peers' environment; make it where there is none.

    Torch comes first and as this project takes it, so that all use the same one.

    Raises:
        subprocess.CalledProcessError: a package could not be installed.
    """
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(PEERS)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True)
        for packages in (("torch", "-c", str(ROOT / "constraints.txt")), PEERS):
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *packages], check=True, stdout=sys.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def work(package: str, peers: Path, folder: Path) -> None:
    """Run the worker of a package on the job in `folder`, with one thread.

    Arguments:
        package: one of WORKERS.
        peers: interpreter of the peers' environment.

    Raises:
        RuntimeError: the worker failed; its output is in `folder`.
    """
    python = sys.executable if package == "sbiflow" else str(peers.absolute())
    settings = {**ONE_THREAD, "PYTHONPATH": str(ROOT)}
    if package.startswith("bayesflow-"):
        settings["KERAS_BACKEND"] = package.removeprefix("bayesflow-")
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [python, "-m", f"benchmarks.peers.{WORKERS[package]}", str(folder.absolute())],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{package}: exit code {done.returncode}, see {folder / 'output.txt'}")
