"""What killed processes leave is removed by those that come next; what is in use stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.run import PARTIAL_SECONDS, RunDirectory
from pipeline.simulate.scratch import OLD, scratch

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.simulate.scratch import scratch
with scratch(Path(sys.argv[1]), "notes-") as folder:
    (folder / "one").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_goes_with_its_context(tmp_path: Path) -> None:
    with scratch(tmp_path / "below", "notes-") as folder:
        (folder / "file").write_text("1")
        assert folder.parent == tmp_path / "below"
        assert folder.name.startswith("notes-")
    assert list((tmp_path / "below").iterdir()) == []


def test_those_of_killed_processes_go_and_others_stay(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (killed,) = tmp_path.iterdir()
    assert (killed / "one").exists()
    (tmp_path / "notes-link").symlink_to(killed)
    (tmp_path / "notes-file").write_text("")
    (tmp_path / "notes-young").mkdir()
    (tmp_path / "notes-old").mkdir()
    os.utime(tmp_path / "notes-old", (0, time.time() - OLD - 60))
    with scratch(tmp_path, "notes-") as first:
        assert not killed.exists()
        with scratch(tmp_path, "notes-") as second:
            assert first.exists()
            kept = {"notes-link", "notes-file", "notes-young"}
            assert {path.name for path in tmp_path.iterdir()} == kept | {first.name, second.name}


def test_a_run_drops_files_that_a_killed_process_had_begun(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.lock():
        old = [".config.yml.abcd12_z", ".latest.json.1234", "trainings/k/.done.json.99"]
        kept = [
            "config.yml",
            ".hidden",
            ".notes-abcdefgh",
            "trainings/k/.state.pt.new",
            ".x.aaaaaaaa",
        ]
        for name in old + kept:
            path = run.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
            os.utime(path, (0, time.time() - PARTIAL_SECONDS - 60))
        os.utime(run.path / ".x.aaaaaaaa")  # somebody may be writing it
    with run.lock(shared=True):
        assert all((run.path / name).exists() for name in old + kept)
    with run.lock():
        assert not any((run.path / name).exists() for name in old)
        assert all((run.path / name).exists() for name in kept)
