"""Batch scripts as text, what bash makes of them, and what batch systems answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

import cluster
from cluster import batch, kubernetes, lsf, pbs, slurm
from cluster.allocation import Grant
from cluster.batch import Job, JobState
from cluster.connection import usable_cpus

JOB = Job(
    title="simulate of /runs/a",
    name="a-simulate",
    stage="simulate",
    place=Path("/home/me"),
    folder=Path("/runs/a/jobs"),
    work=("python", "-m", "pipeline", "simulate", "-o", "/runs/a"),
    node=("python", "-m", "cluster.node", "slurm"),
    lock=Path("/runs/a/lock"),
    options={"nodes": 3, "cpus-per-task": 8, "mem": "16G", "time": "1-02:30:00", "gres": "gpu:a100:2",
             "partition": "long", "account": "physics", "exclusive": True},
    directives=("-m abe",),
    setup=("module load python/3.11", "source venv/bin/activate"),
    notice=300,
)  # fmt: skip


def directives(text: str, prefix: str) -> list[str]:
    return [
        line.removeprefix(prefix).strip() for line in text.splitlines() if line.startswith(prefix)
    ]


@pytest.mark.parametrize("name", ["lsf", "pbs", "slurm"])
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_script_is_good_bash_and_has_its_parts_in_order(name: str, nodes: int) -> None:
    job = replace(JOB, options={**JOB.options, "nodes": nodes})
    text = cluster.system(name).script(job)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    agents = ["cluster.node"] if nodes > 1 else []
    parts = ["#!/bin/bash", job.title, "trap", f"cd {job.place}", *job.setup, "flock", *agents,
             "-m pipeline simulate", "wait $work", "exit $code"]  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert ("cluster.node" in text) == (nodes > 1)


def test_slurm_gets_all_options_in_its_own_words() -> None:
    job = replace(
        JOB, options={**JOB.options, "comment": "x", "exclusive": False, "overcommit": True}
    )
    assert directives(slurm.script(job), "#SBATCH") == [
        "--job-name=a-simulate", "--output=/runs/a/jobs/simulate-%j.log", "--open-mode=append",
        "--signal=B:USR1@300", "--requeue", "--ntasks-per-node=1", "--nodes=3", "--cpus-per-task=8", "--mem=16G",
        "--time=1-02:30:00", "--gres=gpu:a100:2", "--partition=long", "--account=physics", "--comment=x",
        "--overcommit", "-m abe",
    ]  # fmt: skip


def test_pbs_and_lsf_get_the_same_in_theirs() -> None:
    text = pbs.script(JOB)
    assert directives(text, "#PBS") == [
        "-N a-simulate", "-j oe", "-o /runs/a/jobs/simulate.log", "-r y",
        "-l select=3:ncpus=8:mem=16384mb:ngpus=2", "-l place=scatter:excl", "-l walltime=95400", "-q long",
        "-A physics", "-m abe",
    ]  # fmt: skip
    assert "timeout --preserve-status --signal=USR1 95100 python" in text
    text = lsf.script(JOB)
    assert directives(text, "#BSUB") == [
        "-J a-simulate", "-o /runs/a/jobs/simulate-%J.log", "-r", '-Q "4"', "-n 24", '-R "span[ptile=8]"',
        '-R "rusage[mem=16384MB/host]"', "-W 26:30", "-wt 5 -wa USR1", '-gpu "num=2"', "-x", "-q long",
        "-P physics", "-m abe",
    ]  # fmt: skip
    assert f"export SBIFLOW_MEMORY={16 << 30}" in text


@pytest.mark.parametrize("name", ["kubernetes", "lsf", "pbs"])
def test_an_option_that_a_system_has_no_word_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no option switches; valid are .*cluster\.directives"):
        cluster.system(name).script(replace(JOB, options={"switches": 1}))


# --- what must not become a command ----------------------------------------------------------------

HOSTILE = 'a b\'; touch pwned; "$(touch pwned)" `touch pwned` #'


@pytest.mark.parametrize("name", ["lsf", "pbs", "slurm"])
@pytest.mark.parametrize("nodes", [1, 3])
def test_names_options_and_paths_stay_words(tmp_path: Path, name: str, nodes: int) -> None:
    place = tmp_path / HOSTILE.replace("/", "")
    place.mkdir()
    options = {"partition": HOSTILE, "account": HOSTILE, "nodes": nodes}
    job = replace(
        JOB, title=HOSTILE, name=HOSTILE, place=place, folder=place, lock=place / "lock",
        work=("echo", HOSTILE), then=(("echo", HOSTILE),), setup=(), directives=(HOSTILE,), options=options,
    )  # fmt: skip
    text = cluster.system(name).script(job)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    head, _, _ = text.partition("stopping=")
    assert all(line.startswith("#") for line in head.splitlines() if line)
    if nodes > 1:
        return
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{HOSTILE}\n" * 2
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("control", ["\n", "\r", "\0", "\x1b[2J", "\x85", "\u2028"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: {"title": text},
        lambda text: {"name": text},
        lambda text: {"place": Path(text)},
        lambda text: {"folder": Path(text)},
        lambda text: {"lock": Path(text)},
        lambda text: {"options": {"partition": text}},
        lambda text: {"options": {text: "x"}},
        lambda text: {"directives": ("-m abe", text)},
    ],
)
def test_a_control_character_is_refused_before_a_script_is_written(
    change: Callable[[str], dict[str, object]], control: str
) -> None:
    with pytest.raises(ValueError, match=r"control character|option .* valid are letters"):
        replace(JOB, **change(f"a{control}#SBATCH --wrap=x"))  # type: ignore[arg-type]


def test_setup_is_the_user_s_own_shell() -> None:
    job = replace(JOB, setup=("module load a\n\tmodule load b",))
    assert "module load a\n\tmodule load b\n" in slurm.script(job)
    for change in ("setup", "work", "first", "node"):
        with pytest.raises(ValueError, match="control character"):
            replace(JOB, **{change: ("echo \x1b[2J",)})
    with pytest.raises(ValueError, match="control character"):
        replace(JOB, then=(("a",), ("b", "\0")))


# --- what the shell does ---------------------------------------------------------------------------

STOPS = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(4))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("code", "reported"), [(0, "0"), (3, "3"), (4, "4")])
def test_the_work_decides_how_a_job_ends(tmp_path: Path, code: int, reported: str) -> None:
    job = replace(
        JOB, place=tmp_path, folder=tmp_path, setup=(), lock=None,
        work=("bash", "-c", f"exit {code}"), then=(("touch", "reported"),),
    )  # fmt: skip
    text = batch.body(job, again="echo $code $stopping > again\n", end="touch ended\n")
    assert subprocess.run(["bash", "-c", text], check=False).returncode == code
    assert job.exit.read_text().strip() == reported
    assert (tmp_path / "again").read_text().strip() == reported
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "reported").exists() == (code == 0)


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_the_work_and_its_code_the_job(
    tmp_path: Path, sent: signal.Signals
) -> None:
    job = replace(
        JOB,
        place=tmp_path,
        folder=tmp_path,
        setup=(),
        lock=None,
        work=(sys.executable, "-c", STOPS),
    )
    text = batch.body(job, again="echo $code $stopping > again\n")
    with subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"ready\n"
        started = time.monotonic()
        shell.send_signal(sent)
        assert shell.wait() == 4
    assert time.monotonic() - started < 10
    assert (tmp_path / "again").read_text().split() == ["4", sent.name.removeprefix("SIG")]


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, True), (4, True), (138, True)])
def test_slurm_does_not_queue_again_what_was_complete_when_the_notice_came(
    tmp_path: Path, code: int, again: bool
) -> None:
    for name, text in {
        "squeue": "echo RUNNING",
        "scontrol": f"touch {tmp_path}/again; exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    work = ("bash", "-c", f"trap 'exit {code}' USR1; echo ready; while :; do sleep 0.1; done")
    job = replace(JOB, place=tmp_path, folder=tmp_path, setup=(), lock=None, work=work, options={})
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-c", slurm.script(job)], env=os.environ | path, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"ready\n"
        shell.send_signal(signal.SIGUSR1)
        assert shell.wait() == code
    assert (tmp_path / "again").exists() == again


def test_a_script_waits_for_the_other_nodes_to_leave_but_not_for_a_lost_one(tmp_path: Path) -> None:
    place = tmp_path / "nodes"
    for stay in (1, 60):
        place.mkdir()
        agent = f"{{ while [ -d {place} ]; do sleep 0.1; done; exec sleep {stay} >/dev/null; }} &\n"
        text = f"nodes={place}\n{agent}{batch.LEAVE.format(variable='nodes')}jobs -rp | wc -l; kill %% 2>/dev/null"
        started = time.monotonic()
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == ("0" if stay == 1 else "1")
        assert time.monotonic() - started < 30
        assert not place.exists()


def test_the_alarm_clock_asks_the_work_in_time(tmp_path: Path) -> None:
    work = ("bash", "-c", "trap 'exit 4' USR1; while :; do sleep 0.1; done")  # starts at once
    job = replace(JOB, work=work, options={"time": "0:05", "nodes": 1}, notice=2)  # asked after 3 s
    assert (
        subprocess.run(batch.in_time(job), check=False, stdout=subprocess.DEVNULL).returncode == 4
    )


# --- what is written and read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("1:30", 90),
        ("12:00:00", 43200),
        ("1-0", 86400),
        ("1-2:30", 95400),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: batch.Value, seconds: int) -> None:
    assert batch.seconds(time) == seconds


@pytest.mark.parametrize(
    ("memory", "size"), [(100, 100 << 20), ("500M", 500 << 20), ("2G", 2 << 30), ("1T", 1 << 40)]
)
def test_memory_is_in_megabytes_where_no_unit_is_given(memory: batch.Value, size: int) -> None:
    assert batch.size(memory) == size


@pytest.mark.parametrize(
    ("read", "wrong", "valid"),
    [
        (batch.seconds, "2h", "H:M:S"),
        (batch.size, "lots", "16G"),
        (batch.gpus, "lustre:1", "gpu:2"),
    ],
)
def test_what_cannot_be_read_is_named(read: object, wrong: str, valid: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong}.*valid are .*{valid}"):
        read(wrong)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("gres", "count"), [("gpu", 1), ("gpu:4", 4), ("gpu:a100", 1), ("gpu:a100:2", 2)]
)
def test_gpus_are_counted(gres: str, count: int) -> None:
    assert batch.gpus(gres) == count


def test_what_was_granted_is_read_from_the_job_not_from_the_node() -> None:
    assert usable_cpus() >= 1
    granted = slurm.granted(
        {"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_CPU": "500", "SLURM_GPUS_ON_NODE": "2"}
    )
    assert granted == Grant(1, 500 << 20, 2)
    assert (
        slurm.granted({"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "4000"}).memory
        == 4000 << 20
    )
    assert slurm.granted({}) == Grant(1, None, 0)
    assert slurm.granted({"SLURM_CPUS_ON_NODE": "4096"}).cpus == usable_cpus()
    assert pbs.granted(
        {"NCPUS": "1", "CUDA_VISIBLE_DEVICES": "0,3", "SBIFLOW_MEMORY": "7"}
    ) == Grant(1, 7, 2)
    assert lsf.granted({"LSB_MCPU_HOSTS": "a 1 b 1"}) == Grant(1, None, 0)


def test_answers_of_systems_that_are_not_here_are_read() -> None:
    table = (
        "Job id            Name             User              Time Use S Queue\n"
        "----------------  ---------------- ----------------  -------- - -----\n"
        "12.head           a-simulate       me                00:01:00 R long\n"
        "13.head           a-train          me                00:00:00 F long\n"
    )
    assert pbs.read_states(table) == {"12.head": JobState("R", "", True), "13.head": JobState("F")}
    assert lsf.read_id("Job <123> is submitted to default queue <normal>.\n") == "123"
    with pytest.raises(ValueError, match="names no job"):
        lsf.read_id("Request aborted by esub.")
    assert lsf.read_states("123 PEND -\n124 EXIT 3\n") == {
        "123": JobState("PEND", "", True),
        "124": JobState("EXIT", "exit code 3"),
    }
    assert kubernetes.read_state("Running RUNNING ") == JobState("RUNNING", "", True)
    assert kubernetes.read_state("Complete FAILED no image") == JobState("FAILED", "no image")


@pytest.mark.parametrize("name", ["kubernetes", "lsf", "pbs", "slurm"])
def test_outside_a_job_a_batch_backend_says_how_to_get_in(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SLURM_JOB_ID", "PBS_NODEFILE", "LSB_MCPU_HOSTS"):
        monkeypatch.delenv(variable, raising=False)
    if name != "kubernetes":  # which looks for any Ray on this machine
        with pytest.raises(ConnectionError, match="sbiflow submit"), cluster.connect(name):
            pass
    with pytest.raises(ValueError, match="no meaning"), cluster.connect(name, "127.0.0.1:1"):
        pass


def test_a_command_that_is_missing_or_refuses_is_one_error() -> None:
    with pytest.raises(ConnectionError, match="'no-such-sbatch' is not on the PATH"):
        batch.call(["no-such-sbatch"])
    with pytest.raises(ValueError, match=r"^no such queue$"):
        batch.call(["bash", "-c", "echo no such queue >&2; exit 1"])


# --- kubernetes ------------------------------------------------------------------------------------

SCHEMA = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
PODS = {
    "image": "registry/a:1",
    "claim": "runs",
    "mount": "/runs",
    "nodes": 3,
    "cpus-per-task": 8,
    "mem": "16G",
}


@pytest.mark.parametrize(
    "more", [{}, {"nodes": 1}, {"time": "1:00:00", "gres": "gpu:2", "namespace": "physics"}]
)
def test_a_ray_job_has_the_right_form(more: dict[str, batch.Value]) -> None:
    manifest = YAML(typ="safe").load(
        kubernetes.script(replace(JOB, name="My_Run", options={**PODS, **more}))
    )
    jsonschema.validate(manifest, SCHEMA)
    cluster_spec = manifest["spec"]["rayClusterSpec"]
    replicas = sum(group["replicas"] for group in cluster_spec.get("workerGroupSpecs", []))
    assert 1 + replicas == {**PODS, **more}["nodes"]
    assert "python -m pipeline simulate -o /runs/a" in manifest["spec"]["entrypoint"]


def test_the_schema_refuses_a_misspelt_key() -> None:
    manifest = YAML(typ="safe").load(kubernetes.script(replace(JOB, options=PODS)))
    manifest["spec"]["entryPoint"] = manifest["spec"].pop("entrypoint")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_kubernetes_needs_image_claim_and_a_run_on_the_volume() -> None:
    with pytest.raises(ValueError, match=r"cluster\.options\.image is missing"):
        kubernetes.script(replace(JOB, options={}))
    with pytest.raises(ValueError, match="/runs/a is not below"):
        kubernetes.script(replace(JOB, options={**PODS, "mount": "/data"}))
