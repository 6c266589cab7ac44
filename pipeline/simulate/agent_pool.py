"""A pool of agents: Ray actors that run workers on their nodes."""

from __future__ import annotations

import math
from typing import Any

import ray

from pipeline.simulate.actor import WorkerSetup
from pipeline.simulate.actor_pool import LEAVE, ActorPool
from pipeline.simulate.agent import SimulationAgent

CALLS = 64  # that an agent serves at a time


class AgentPool(ActorPool):
    """Living agents; one that is lost is replaced by another of the same size.

    Arguments:
        setup: for each worker.
        sizes: number of workers of each agent.
        cpus: cores of each worker.
        memory: bytes of each worker, if that matters.
    """

    def __init__(
        self, setup: WorkerSetup, sizes: list[int], cpus: float, memory: float | None
    ) -> None:
        super().__init__(setup, 0, cpus, memory)
        self.workers += [self._add(size) for size in sizes]

    def _start(self, name: str, processes: int) -> Any:
        options = self._options(processes) | {"max_concurrency": CALLS}
        return ray.remote(SimulationAgent).options(**options).remote(name, processes, self.cpus)

    def stop(self) -> None:
        """Tell all agents to answer with what they have."""
        for worker in self.workers:
            worker.handle.stop.remote()

    def dismiss(self, patience: float = LEAVE) -> None:
        """Let agents end their workers and close their spools, then end all of them."""
        waiting = [worker.handle.close.remote() for worker in self.workers if worker.started]
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=patience)
        for worker in self.workers:
            ray.kill(worker.handle)
        self.workers = []


def agent_sizes(
    workers: int, cpus: float, memory: float | None, per_agent: float | None
) -> list[int]:
    """Return how many workers each agent has, so that all agents fit on the nodes of the cluster.

    Arguments:
        workers: in all.
        cpus: cores of one worker.
        memory: bytes of one worker, if that matters.
        per_agent: cores of one agent at most; None: those of its node.
    """
    sizes: list[int] = []
    for node in ray.nodes():
        room = _room(node["Resources"], cpus, memory) if node["Alive"] else 0
        most = max(1, math.floor(per_agent / cpus + 1e-9)) if per_agent else room
        while room and (left := workers - sum(sizes)):
            sizes.append(min(room, most, left))
            room -= sizes[-1]
    return sizes or [1]  # waits for a node


def _room(resources: dict[str, float], cpus: float, memory: float | None) -> int:
    by_cpus = math.floor(resources.get("CPU", 0.0) / cpus + 1e-9)
    return min(by_cpus, int(resources.get("memory", 0.0) / memory)) if memory else by_cpus
