"""Kubernetes (experimental): one KubeRay RayJob for all stages; all pods mount the run's volume at one path."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cluster.allocation import Grant
from cluster.batch import Job, JobState, call, gpus, known, seconds, size
from cluster.connection import RayCluster, attach, no_address, usable_cpus
from cluster.existing import head_answers

CHAINS = False
WORDS = ("claim", "cpus-per-task", "gres", "image", "mem", "mount", "namespace", "nodes", "time")
RETRIES = 3  # new clusters after a failure
NAME = 40  # characters that KubeRay leaves for a name
LIVE = {"Initializing", "New", "Retrying", "Running", "Suspended", "Suspending", "Waiting"}


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RayCluster]:
    """Connect to the Ray that KubeRay made for the job this process is part of; see `cluster.connect`.

    Raises:
        ValueError: an address was given.
        ConnectionError: there is no Ray here.
    """
    no_address(address, "kubernetes")
    with attach(head_answers, address="auto") as found:
        yield found


def granted(environment: Mapping[str, str]) -> Grant:
    """Return the cores of a pod; KubeRay passes memory and GPUs to Ray."""
    return Grant(usable_cpus())


def script(job: Job) -> str:
    """Return the RayJob of a job, as YAML.

    Raises:
        ValueError: an option that has no meaning here, or a run outside the volume.
    """
    known(job, WORDS, "kubernetes")
    options = job.options
    for name in ("image", "claim", "mount"):
        if name not in options:
            raise ValueError(
                f"cluster.options.{name} is missing: kubernetes needs image, claim and mount"
            )
    if not job.folder.is_relative_to(str(options["mount"])):
        raise ValueError(
            f"{job.folder.parent} is not below cluster.options.mount={options['mount']}"
        )
    spec: dict[str, Any] = {
        "entrypoint": _entrypoint(job),
        "shutdownAfterJobFinishes": True,
        "backoffLimit": min(RETRIES, job.restarts),
        "rayClusterSpec": {"rayVersion": version("ray"), **_groups(job)},
    }
    if "time" in options:
        spec["activeDeadlineSeconds"] = seconds(options["time"])
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "generateName": f"{_name(job)}-",
            "namespace": options.get("namespace", "default"),
        },
        "spec": spec,
    }
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(manifest, text)
    return f"# {job.title}\n{text.getvalue()}"


def _name(job: Job) -> str:
    return re.sub(r"[^a-z0-9]+", "-", job.name.lower())[:NAME].strip("-")


def _entrypoint(job: Job) -> str:
    return shlex.join(("bash", "-c", "\n".join((*job.setup, f"exec {shlex.join(job.work)}"))))


def _groups(job: Job) -> dict[str, Any]:
    head = {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": _pod(job, "ray-head")}
    groups: dict[str, Any] = {"headGroupSpec": head}
    if job.nodes > 1:
        count = job.nodes - 1
        worker = {
            "groupName": "workers",
            "replicas": count,
            "minReplicas": count,
            "maxReplicas": count,
        }
        groups["workerGroupSpecs"] = [
            {**worker, "rayStartParams": {}, "template": _pod(job, "ray-worker")}
        ]
    return groups


def _pod(job: Job, name: str) -> dict[str, Any]:
    options = job.options
    limits: dict[str, Any] = {"cpu": str(options.get("cpus-per-task", 1))}
    if "mem" in options:
        limits["memory"] = f"{size(options['mem']) >> 20}Mi"
    if "gres" in options:
        limits["nvidia.com/gpu"] = gpus(options["gres"])
    container = {
        "name": name,
        "image": options["image"],
        "resources": {"limits": limits, "requests": dict(limits)},
        "volumeMounts": [{"name": "shared", "mountPath": options["mount"]}],
    }
    volume = {"name": "shared", "persistentVolumeClaim": {"claimName": options["claim"]}}
    return {"spec": {"containers": [container], "volumes": [volume]}}


def submit(path: Path, after: str | None = None, success: bool = True) -> str:
    """Create the RayJob and return "NAMESPACE/NAME".

    Raises:
        ConnectionError: there is no `kubectl` here.
        ValueError: Kubernetes refused.
    """
    words = "jsonpath={.metadata.namespace}/{.metadata.name}"
    return call(["kubectl", "create", "-f", str(path), "-o", words]).strip()


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """Return the states of jobs as KubeRay reports them.

    Raises:
        ConnectionError: there is no `kubectl` here.
        ValueError: Kubernetes knows none of them.
    """
    words = "jsonpath={.status.jobDeploymentStatus} {.status.jobStatus} {.status.message}"
    return {number: read_state(call([*_of("get", number), "-o", words])) for number in ids}


def read_state(line: str) -> JobState:
    """Read deployment state, job state and message."""
    deployment, _, rest = line.partition(" ")
    status, _, message = rest.partition(" ")
    return JobState(status or deployment, message.strip(), deployment in LIVE)


def cancel(ids: Iterable[str]) -> None:
    """Delete RayJobs; what they finished is kept.

    Raises:
        ConnectionError: there is no `kubectl` here.
        ValueError: Kubernetes refused.
    """
    for number in ids:
        call(_of("delete", number))


def _of(verb: str, number: str) -> list[str]:
    namespace, _, name = number.partition("/")
    return ["kubectl", verb, "rayjob", name, "--namespace", namespace]
