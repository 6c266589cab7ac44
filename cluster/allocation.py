"""Ray on the nodes of a batch job: the head in this process, one agent on each other node.

The nodes exchange files in a folder on the shared file system. Each agent (`cluster.node`) writes a card: its
host, its resources and its versions. The head reads the cards, starts Ray and writes its address. When the work
is done the head removes the address, and the agents end. The operating system chooses the ports, so that jobs
on the same node never collide, and a token keeps other users out.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.connection import RayCluster, attach
from cluster.head import OBJECT_STORE, head
from cluster.host import LOOPBACK, address_towards, daemons_alive

FOLDER = "SBIFLOW_NODES"  # variable that names the folder where the nodes of a job meet
HEAD, AGENTS = "head.json", "agents.exit"
PATIENCE = 300.0  # seconds until all nodes must have joined
POLL = 0.25  # seconds


@dataclass(frozen=True)
class Grant:
    """What a batch system granted on one node: cores, bytes of memory (None: no limit known), GPUs."""

    cpus: int
    memory: int | None = None
    gpus: int = 0

    def options(self) -> dict[str, Any]:
        """Return what Ray calls these."""
        memory = None if self.memory is None else max(self.memory - OBJECT_STORE, 0)
        return {"num_cpus": self.cpus, "memory": memory, "num_gpus": self.gpus}


def visible_gpus(environment: Mapping[str, str]) -> int:
    """Return how many GPUs the batch system shows to this process."""
    devices = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return len([device for device in devices if device.strip()])


@dataclass(frozen=True)
class NodeCard:
    """What an agent reports to the head."""

    host: str
    grant: Grant
    versions: dict[str, str]

    @classmethod
    def own(cls, grant: Grant) -> NodeCard:
        return cls(socket.gethostname(), grant, versions())

    def write(self, place: Path) -> None:
        _write(place / f"{self.host}-{os.getpid()}.card", asdict(self))

    @classmethod
    def read(cls, path: Path) -> NodeCard:
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(values["host"], Grant(**values["grant"]), values["versions"])


def versions() -> dict[str, str]:
    """Return the versions that must agree before two nodes can make one Ray."""
    return {"ray": version("ray"), "python": platform.python_version()}


@contextmanager
def inside(grant: Grant, nodes: int) -> Iterator[RayCluster]:
    """Start Ray on all nodes of this job and yield it; it ends with the block.

    On one node Ray listens on 127.0.0.1 alone.

    Raises:
        ConnectionError: a node did not join or has other versions, or Ray did not start.
    """
    import ray

    if ray.is_initialized():
        with attach(daemons_alive) as found:
            yield found
    elif nodes == 1:
        with head(LOOPBACK, **grant.options()) as found:
            yield found
    else:
        with _meeting() as place:
            cards = _gather(place, nodes - 1)
            _check_versions(cards)
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            with head(address_towards(cards[0].host), **grant.options()):
                _invite(place, nodes)
                with attach(daemons_alive) as found:
                    yield found


@contextmanager
def _meeting() -> Iterator[Path]:
    """Yield the folder where the nodes exchange files; in the end remove the address, so that the agents end."""
    name = os.environ.get(FOLDER)
    if not name:
        raise ConnectionError(
            f"this job has several nodes, but the variable {FOLDER} is not set: submit it with `sbiflow submit`, "
            "whose script starts the others"
        )
    place = Path(name)
    if not place.is_dir():
        raise ConnectionError(
            f"{place} does not exist: the run must be on a file system that all nodes share"
        )
    try:
        yield place
    finally:
        (place / HEAD).unlink(missing_ok=True)


def _gather(place: Path, count: int) -> list[NodeCard]:
    """Wait for the cards of all agents."""
    deadline = time.monotonic() + PATIENCE
    while len(paths := sorted(place.glob("*.card"))) < count:
        _check_agents(place)
        if time.monotonic() > deadline:
            found = ", ".join(path.stem for path in paths) or "none"
            raise ConnectionError(
                f"{len(paths)} of {count} other nodes joined within {PATIENCE:.0f} s ({found}); "
                f"is {place} on a file system that all nodes share?"
            )
        time.sleep(POLL)
    return [NodeCard.read(path) for path in paths]


def _check_versions(cards: list[NodeCard]) -> None:
    """Check that all nodes have the versions of Python and Ray of this one."""
    ours = versions()
    wrong = [
        f"{name} {card.versions.get(name)} on {card.host}, {mine} on {socket.gethostname()}"
        for card in cards
        for name, mine in ours.items()
        if card.versions.get(name) != mine
    ]
    if wrong:
        raise ConnectionError(f"the nodes of this job have different versions: {'; '.join(wrong)}")


def _invite(place: Path, nodes: int) -> None:
    """Write Ray's address for the agents, and wait until all have joined."""
    import ray

    address = ray.get_runtime_context().gcs_address
    _write(place / HEAD, {"address": address, "token": os.environ["RAY_AUTH_TOKEN"]})
    deadline = time.monotonic() + PATIENCE
    while (here := sum(1 for node in ray.nodes() if node["Alive"])) < nodes:
        _check_agents(place)
        if time.monotonic() > deadline:
            raise ConnectionError(f"{here} of {nodes} nodes joined Ray within {PATIENCE:.0f} s")
        time.sleep(POLL)


def _check_agents(place: Path) -> None:
    """Fail at once if the agents have ended, which the job's script records in a file."""
    if (place / AGENTS).exists():
        code = (place / AGENTS).read_text(encoding="utf-8").strip()
        raise ConnectionError(
            f"Ray did not start on the other nodes of this job (exit code {code}): the lines above say why"
        )


def _write(path: Path, values: dict[str, Any]) -> None:
    """Write a file that only this user can read, and that appears whole or not at all."""
    partial = path.with_name(f".{path.name}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
