"""What of Ray may die: its dashboard and monitors may, under which simulations go on."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster import host

LOSES = """
import os, signal, sys, time, cluster, ray
from ray._private import worker

with cluster.connect("local", cpus=1) as ray_cluster:
    processes = worker._global_node.all_processes
    for name in sys.argv[1:]:
        for info in processes[name]:
            os.kill(info.process.pid, signal.SIGKILL)
    time.sleep(6)  # the guard looks twice a second
    assert ray_cluster.alive()
    print(ray.get(ray.remote(lambda: 42).remote()))
"""


@pytest.mark.slow
def test_without_its_dashboard_and_monitors_ray_is_not_dead() -> None:
    lost = ["dashboard", "log_monitor", "monitor"]
    done = subprocess.run(
        [sys.executable, "-c", LOSES, *lost], capture_output=True, text=True, timeout=280, check=False
    )  # fmt: skip
    assert done.stdout == "42\n", done.stderr


# --- the folder of sockets -------------------------------------------------------------------------


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this user's folders lie, below a temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(host, "LONGEST", 1000)
    return tmp_path / f"sbiflow-{os.getuid()}"


def test_a_folder_is_there_while_it_is_needed_and_closed_to_others(parent: Path) -> None:
    with host.folder() as own:
        assert own.parent == parent
        assert [stat.S_IMODE(path.stat().st_mode) for path in (parent, own)] == [0o700, 0o700]
        with host.folder() as inner:
            assert inner == own
        assert own.exists()
    assert not own.exists()


def test_a_link_a_file_and_a_folder_open_to_others_are_refused(
    parent: Path, tmp_path: Path
) -> None:
    def refused(why: str) -> None:
        with pytest.raises(ConnectionError, match=why), host.folder():
            pass

    (tmp_path / "elsewhere").mkdir(mode=0o700)
    parent.symlink_to(tmp_path / "elsewhere")
    refused("is no folder")
    parent.unlink()
    parent.write_text("")
    refused("is no folder")
    parent.unlink()
    parent.mkdir()
    for mode in (0o755, 0o770, 0o702):
        parent.chmod(mode)
        refused(f"is open to others, with mode {mode:o}")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder away")
def test_a_folder_of_another_user_is_refused(parent: Path) -> None:
    parent.mkdir(mode=0o700)
    os.chown(parent, 12345, -1)
    with pytest.raises(ConnectionError, match="belongs to user 12345"), host.folder():
        pass


def test_folders_go_when_nobody_holds_their_lock_whatever_their_number_says(parent: Path) -> None:
    """A number says nothing: in another namespace a process of the same number may live, or none be seen."""
    parent.mkdir(mode=0o700)
    with subprocess.Popen(["true"]) as ended:
        dead = str(ended.pid)
    for name in (dead, str(os.getppid()), "1"):
        (parent / name / "session").mkdir(parents=True)
        (parent / name / host.ALIVE).touch()
    own = parent / str(os.getpid())
    own.mkdir()
    (own / host.ALIVE).touch()
    with open(parent / dead / host.ALIVE) as one, open(own / host.ALIVE) as other:
        for file in (one, other):
            fcntl.flock(file, fcntl.LOCK_EX)
        with host.folder() as mine:
            assert mine.name == f"{os.getpid()}-1"
            assert {path.name for path in parent.iterdir()} == {"lock", dead, own.name, mine.name}


def test_links_among_the_folders_are_not_followed(parent: Path, tmp_path: Path) -> None:
    parent.mkdir(mode=0o700)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / host.ALIVE).touch()
    (parent / "77").symlink_to(tmp_path / "precious")
    with host.folder():
        assert (tmp_path / "precious").exists()
