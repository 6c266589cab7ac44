"""What is submitted, and what is refused before anything is; none of it needs a batch system."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Config, build, override, read
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.submit.chain import options
from pipeline.submit.gate import gate
from pipeline.submit.stage import states, submit

PLAIN = {"name": "a", "simulator": "two_moons", "budget": 100, "cluster": {"shared": True}}


def configure(*words: str) -> Config:
    return build(override(PLAIN, words))


def jobs(config: Config, run: RunDirectory, stage: str = "all", **asked: str) -> dict[str, str]:
    """Return the scripts by stage."""
    result = submit(
        config, run, stage, {k.replace("_", "-"): v for k, v in asked.items()}, dry=True
    )
    return {job["stage"]: job["text"] for job in result["jobs"]}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def test_a_dry_run_writes_nothing(run: RunDirectory) -> None:
    scripts = jobs(configure(), run, time="1:00:00")
    assert list(scripts) == ["simulate", "train", "evaluate"]
    assert all("#SBATCH --time=1:00:00" in text for text in scripts.values())
    assert f"-m pipeline evaluate -o {run.path}" in scripts["evaluate"]
    assert f"-m pipeline report -o {run.path}" in scripts["evaluate"]
    assert not run.path.exists()
    assert states(run) == []


@pytest.mark.parametrize("text", ["", '{"format": 1, "system": "pbs", "jobs": []}'])
def test_of_a_damaged_record_of_jobs_nothing_is_known(
    run: RunDirectory, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "jobs.json").write_text('{"system": "slurm", "jobs": []}')  # of an earlier version
    assert states(run) == []
    (run.path / "jobs.json").write_text(text)
    assert states(run) == []
    assert "jobs.json is damaged: which jobs were submitted is not known" in capsys.readouterr().err


def test_simulations_that_are_all_there_are_not_queued(finished) -> None:
    config = finished.configure("cluster.shared=true")
    assert list(jobs(config, finished.run)) == ["train", "evaluate"]
    more = finished.configure("cluster.shared=true", "budget=1000")
    assert list(jobs(more, finished.run)) == ["simulate", "train", "evaluate"]
    with pytest.raises(UsageError, match="700 simulations are missing; use --stage all"):
        jobs(more, finished.run, "train")


def test_only_work_that_is_shared_gets_several_nodes(run: RunDirectory) -> None:
    scripts = jobs(configure(), run, nodes="4")
    nodes = {stage: "--nodes=4" in text for stage, text in scripts.items()}
    assert nodes == {"simulate": True, "train": False, "evaluate": False}
    assert "--nodes=4" in jobs(configure("train.workers=4"), run, nodes="4")["train"]


def test_options_come_from_the_configuration_its_stages_and_the_call(run: RunDirectory) -> None:
    config = configure(
        "cluster.options={mem: 4G, partition: cpu}",
        "cluster.stages.train={partition: gpu, gres: gpu:1}",
    )
    scripts = jobs(config, run, mem="8G")
    assert all("--mem=8G" in text and "--mem=4G" not in text for text in scripts.values())
    partitions = {stage: "--partition=gpu" in text for stage, text in scripts.items()}
    assert partitions == {"simulate": False, "train": True, "evaluate": False}
    assert "--gres=gpu:1" in scripts["train"]
    assert "--partition=cpu" in jobs(config, run, partition="cpu")["train"]


def test_the_environment_of_the_nodes_is_the_configuration_s(run: RunDirectory) -> None:
    config = configure("cluster.setup=[module load x]", "cluster.prefix=apptainer exec a.sif")
    text = jobs(config, run, nodes="2")["simulate"]
    assert text.index("module load x") < text.index(
        "apptainer exec a.sif python -m pipeline simulate"
    )
    assert "apptainer exec a.sif python -m cluster.node slurm" in text
    assert "/opt/python -m pipeline" in jobs(configure("cluster.python=/opt/python"), run)["train"]


def test_the_job_after_an_array_looks_for_itself(run: RunDirectory) -> None:
    scripts = jobs(configure("cluster.layout=array"), run, array="0-3")
    gate = f"-m pipeline.submit.gate {run.path.resolve()} || {{"
    assert [gate in text for text in scripts.values()] == [False, True, False]
    assert 'scancel --quiet --state=PENDING "$SLURM_ARRAY_JOB_ID"' in scripts["simulate"]
    plain = jobs(configure(), run)
    assert not any("pipeline.submit.gate" in text or "scancel" in text for text in plain.values())


def test_an_array_is_only_asked_for_where_something_is_simulated(finished) -> None:
    config = finished.configure("cluster.shared=true", "cluster.layout=array")
    assert list(jobs(config, finished.run)) == ["train", "evaluate"]


def test_the_gate_is_open_when_all_simulations_are_there(finished, tmp_path: Path) -> None:
    config = finished.configure()
    gate(config, finished.run)
    with pytest.raises(UsageError, match="700 of 1000 train simulations are missing"):
        gate(finished.configure("budget=1000"), finished.run)
    with pytest.raises(UsageError, match="simulations are missing"):
        gate(config, RunDirectory(tmp_path / "nothing"))


def test_a_system_without_chains_gets_one_job(run: RunDirectory) -> None:
    (text,) = jobs(configure("cluster.backend=pbs"), run).values()
    assert f"-m pipeline run {run.path}/config.yml -o {run.path} cluster.backend=pbs" in text


@pytest.mark.parametrize(
    ("words", "asked", "message"),
    [
        ([], {"stage": "trian"}, "--stage 'trian': valid are simulate, train, evaluate, all"),
        ([], {"nodes": "none"}, "nodes = 'none': valid are whole numbers"),
        ([], {"time": "soon"}, "time = 'soon': valid are minutes"),
        ([], {"time": "2"}, "leaves nothing before the notice of cluster.notice=120 seconds"),
        (["simulate.memory=2GB"], {"mem": "1G"}, "mem=1G is less than simulate.memory=2GB"),
        (
            ["simulate.memory=2GB"],
            {"mem_per_cpu": "500M", "cpus_per_task": "3"},
            "mem-per-cpu=500M is less than simulate.memory=2GB",
        ),
        (["simulate.memory=2GB"], {"mem": "much"}, "mem = 'much'"),
        (
            ["simulate.cpus=4"],
            {"cpus_per_task": "2"},
            "cpus-per-task=2 is less than simulate.cpus=4",
        ),
        ([], {"array": "1-4"}, "--array=1-4 needs --layout=array"),
        ([], {"ntasks": "4"}, "--ntasks is decided by sbiflow"),
        (
            ["cluster.stages.evaluate={nodes: 2}"],
            {},
            "evaluate: nodes=2, but this work uses one node",
        ),
        (["cluster.layout=tree"], {}, "cluster.layout = 'tree': valid are ray"),
        (["cluster.backend=pbs"], {"qos": "high"}, "pbs has no option qos"),
        (["cluster.backend=slrum"], {}, "did you mean 'slurm'"),
    ],
)
def test_what_cannot_work_is_refused(
    run: RunDirectory, words: list[str], asked: dict[str, str], message: str
) -> None:
    stage = asked.get("stage", "all")
    rest = {name: value for name, value in asked.items() if name != "stage"}
    with pytest.raises(UsageError) as error:
        jobs(configure(*words), run, stage, **rest)
    assert message in str(error.value)
    assert not run.path.exists()


@pytest.mark.parametrize("place", ["/tmp/run", "/dev/shm/run", "/proc/self/../../tmp/run"])
def test_a_run_on_this_machine_s_own_disk_is_refused(place: str) -> None:
    config = configure("cluster.shared=false")
    with pytest.raises(UsageError, match=r"on a disk of this machine .*cluster\.shared=true"):
        jobs(config, RunDirectory(Path(place)))


def test_a_simulator_on_this_machine_s_own_disk_is_refused(tmp_path: Path) -> None:
    model = "@simulator(prior={'a': Uniform(0, 1)})\ndef s(a, rng):\n    return rng.normal(a)\n"
    (tmp_path / "s.py").write_text("from simulators import Uniform, simulator\n" + model)
    config = configure("cluster.shared=false", f"simulator={tmp_path}/s.py:s")
    with pytest.raises(UsageError, match=rf"the simulator {tmp_path}/s\.py is on a disk"):
        jobs(config, RunDirectory(Path("/work-of-nobody/run")))


def test_without_sbatch_nothing_is_left(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="'sbatch' is not on the PATH: submit from a login node"):
        submit(configure(), run)
    assert not run.path.exists()


def test_options_of_the_system_are_told_from_overrides() -> None:
    words = ["budget=7", "--comment=a=b", "--overcommit", "train.steps=1"]
    assert options(words) == ({"comment": "a=b", "overcommit": True}, ["budget=7", "train.steps=1"])
    for wrong in ("-w", "node7"):
        with pytest.raises(UsageError, match=f"'{wrong}': valid are"):
            options([wrong])


def test_a_time_in_a_file_is_a_time(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("cluster: {options: {time: 12:00:00, nodes: 2, mem: 4G}}\n")
    assert read(path)["cluster"]["options"] == {"time": "12:00:00", "nodes": 2, "mem": "4G"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"system": "slurm", "jobs": [{"stage": "train", "id": "--user=root"}]}',
     '{"system": "slurm", "jobs": [{"stage": "../../x", "id": "3"}]}', '{"system": "x", "jobs": []}',
     '{"system": "slurm", "jobs": 3}'],
)  # fmt: skip
def test_a_damaged_note_of_jobs_is_said_and_blocks_nothing(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run.path.mkdir(exist_ok=True)
    (run.path / "jobs.json").write_text(text)
    assert states(run) == []
    assert "jobs.json is damaged" in capsys.readouterr().err


def test_a_path_with_a_line_end_reaches_no_script(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a\n#SBATCH --wrap=x")
    with pytest.raises(UsageError, match="control character"):
        jobs(configure(), run)
    with pytest.raises(UsageError, match="printable"):
        configure(r'name="a\x1b[2J"')
