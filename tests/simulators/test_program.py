"""External programs: parameters in, arrays out, nothing left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import simulators
from simulators import Program, Uniform

PRIOR = {"mu": Uniform(-3, 3), "sigma": Uniform(0, 1)}
NUMPY = """
import json, sys, numpy as np
given = json.load(open(sys.argv[1]))
rng = np.random.default_rng(given["seed"])
p = given["parameters"]
np.savez(sys.argv[2], x=rng.normal(p["mu"], p["sigma"], 5), twice=2 * p["mu"])
"""


def shell(script: str, **options) -> Program:
    return Program(["sh", "-c", script], PRIOR, **options)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder that temporary folders are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_parameters_go_in_and_arrays_come_out(tmp_path, temporary):
    (tmp_path / "model.py").write_text(NUMPY)
    command = [sys.executable, "model.py", "{parameters}", "{output}"]
    program = simulators.load("program", command=command, prior=PRIOR, directory=str(tmp_path))
    first, again = (program(mu=2.0, sigma=0.5, seed=1) for _ in range(2))
    assert first["twice"] == 4.0
    assert first["x"].shape == (5,)
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], program(mu=2.0, sigma=0.5, seed=2)["x"])
    assert list(temporary.iterdir()) == []
    assert program.owns_timeout


def test_values_in_the_command_and_json_out(temporary):
    script = 'echo "{{\\"x\\": [{mu}, {sigma}], \\"n\\": {seed}}}" > out.json'
    outputs = shell(script, output="out.json")(mu=0.5, sigma=0.25, seed=7)
    assert outputs["x"].tolist() == [0.5, 0.25]
    assert outputs["n"] == np.random.default_rng(7).integers(2**31 - 1)


def test_npz_in_and_npy_out(temporary):
    code = "import numpy as np; p = np.load('in.npz'); np.save('out.npy', [p['mu'], p['sigma']])"
    program = Program([sys.executable, "-c", code], PRIOR, parameters="in.npz", output="out.npy")
    assert program(mu=0.5, sigma=0.25)["x"].tolist() == [0.5, 0.25]


def test_it_runs_in_a_folder_of_its_own(temporary):
    script = f'case "$PWD" in {temporary}/?*) echo 1;; *) echo 0;; esac > output.json'
    assert shell(script, output="output.json")(mu=0, sigma=1)["x"] == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo deep trouble >&2; exit 3",
            "exit code 3; its standard error ends with:\ndeep trouble",
        ),
        ("exit 3", "exit code 3; its standard error is empty"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("echo hm >&2", "left no file 'output.npz'; its standard error ends with:\nhm"),
        ("echo rubbish > output.npz", "'output.npz' cannot be read"),
        (": > output.npz", "'output.npz' cannot be read"),
    ],
)
def test_a_failure_tells_the_end_of_standard_error(temporary, script, said):
    with pytest.raises(RuntimeError, match=said):
        shell(script)(mu=0, sigma=1)
    assert list(temporary.iterdir()) == []


def test_a_pickle_among_the_outputs_is_refused(temporary):
    code = "import numpy as np; np.save('output.npy', np.array([print], dtype=object))"
    with pytest.raises(RuntimeError, match="cannot be read"):
        Program([sys.executable, "-c", code], PRIOR, output="output.npy")(mu=0, sigma=1)


def test_the_time_out_kills_the_whole_group(tmp_path, temporary):
    pids = tmp_path / "pids"
    script = (
        f"echo $$ > {pids}; sleep 100 & echo $! >> {pids}; echo waiting >&2; trap '' TERM; wait"
    )
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0.5 s; its standard error ends with:\nwaiting"):
        shell(script).simulate(np.array([0.0, 1.0]), np.random.default_rng(0), timeout=0.5)
    assert time.monotonic() - start < 5
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    assert wait_until(lambda: not any(alive(pid) for pid in started))
    assert list(temporary.iterdir()) == []


def test_a_program_within_its_time_returns_at_once(temporary):
    program = shell("sleep 0.2; echo 1 > output.json", output="output.json")
    start = time.monotonic()
    program.simulate(np.array([0.0, 1.0]), np.random.default_rng(0), timeout=60)
    assert time.monotonic() - start < 5


def test_children_that_are_left_behind_are_killed(tmp_path, temporary):
    pid = tmp_path / "pid"
    script = f"sleep 100 & echo $! > {pid}; echo 1 > output.json"
    shell(script, output="output.json")(mu=0, sigma=1)
    assert wait_until(lambda: not alive(int(pid.read_text())))


def test_the_program_dies_with_the_process_that_runs_it(tmp_path):
    """SIGKILL to the simulating process: program, its children and the folder go too."""
    pids, temporary = tmp_path / "pids", tmp_path / "temporary"
    temporary.mkdir()
    script = f"echo $$ > {pids}.new; sleep 100 & echo $! >> {pids}.new; mv {pids}.new {pids}; wait"
    code = (
        "from simulators import Program, Uniform\n"
        f"Program(['sh', '-c', {script!r}], {{'mu': Uniform(0, 1)}})(mu=0.5)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)}
    )
    try:
        assert wait_until(pids.exists, 30)
        started = [int(pid) for pid in pids.read_text().split()]
        assert all(alive(pid) for pid in started)
        assert len(list(temporary.iterdir())) == 1
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in started))
    assert wait_until(lambda: not list(temporary.iterdir()))


def test_nothing_waits_for_collection(temporary):
    """All processes that a simulation starts are collected: no zombies pile up."""
    program = shell("echo 1 > output.json", output="output.json")
    for _ in range(3):
        program(mu=0, sigma=1)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    zombies = [pid for pid in children if not alive(int(pid))]
    assert zombies == []


def test_identity_and_pickling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = simulators.load(
        "program", command="sh -c '{output}'", prior=PRIOR, version="2", directory="."
    )
    identity = made.identity()
    assert identity["name"] == "program"
    assert identity["version"] == "2"
    assert identity["arguments"]["command"] == "sh -c '{output}'"
    assert identity["arguments"]["directory"] == "."
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(made))
    assert again.identity() == identity
    assert again.directory == tmp_path


def test_source_digest_follows_the_files_of_the_command(tmp_path):
    (tmp_path / "model.py").write_text(NUMPY)
    command = [sys.executable, "model.py", "{parameters}", "{output}"]
    program = Program(command, PRIOR, directory=str(tmp_path))
    first = program.source_digest()
    (tmp_path / "model.py").write_text(NUMPY + "\n# a comment does not count\n")
    assert program.source_digest() == first
    (tmp_path / "model.py").write_text(NUMPY + "\npass\n")
    assert program.source_digest() != first


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({}, TypeError, "command"),
        ({"command": ["sh"], "prior": None}, ValueError, "no prior of its own"),
        ({"command": []}, ValueError, "command must be words"),
        ({"command": ["sh", 3]}, ValueError, "command must be words"),
        ({"command": ["no-such-program"]}, ValueError, "no executable program 'no-such-program'"),
        ({"command": "sh {nu}"}, ValueError, r"unknown field \{nu\}; valid: .*\{mu\}"),
        ({"command": "sh {"}, ValueError, "command word '{'"),
        ({"command": "sh", "output": "a/b.npz"}, ValueError, "output must be a file name"),
        ({"command": "sh", "output": "b.csv"}, ValueError, r"ends in \.npz or \.npy or \.json"),
        ({"command": "sh", "parameters": "p.txt"}, ValueError, r"ends in \.json or \.npz"),
        ({"command": "sh", "directory": "/nowhere"}, ValueError, "'/nowhere' is not a folder"),
        ({"command": "sh", "directory": "/tmp"}, ValueError, "must use {output}"),
        ({"command": "sh", "outptu": "x.npz"}, TypeError, "no argument 'outptu'; did you mean"),
    ],
)
def test_bad_arguments_are_named(options, kind, said):
    with pytest.raises(kind, match=said):
        simulators.load("program", **{"prior": PRIOR, **options})
