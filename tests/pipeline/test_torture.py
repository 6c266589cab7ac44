"""The short form of `make torture`: fixed trials of every kind, each equal or a clear error; and its own eyes."""

from __future__ import annotations

import pytest

from benchmarks.torture import facts
from benchmarks.torture.__main__ import names, table, torture
from benchmarks.torture.trial import BAD

FEW = [
    *("damage-1-0", "damage-1-1", "damage-1-2", "damage-1-3"),
    *("kill-1-0", "disk-1-0"),
    "odd-1-14",  # a mask
    "command-1-0",
]
MORE = [
    *("damage-1-4", "damage-1-5", "damage-1-6", "damage-1-7"),
    *("kill-1-1", "kill-1-3", "disk-1-1"),
    "odd-1-0",  # a reused buffer
    "command-1-1",
]
COUNTS = {"done": 9, "ok": 8, "failed": 1, "timeout": 0, "invalid": 0, "missing": 1, "digest": "a"}


@pytest.mark.chaos
@pytest.mark.parametrize(
    "trials", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_no_injury_gives_other_numbers_tracebacks_or_a_run_that_cannot_go_on(tmp_path, trials):
    results = torture(trials, workers=1, minutes=10, folder=tmp_path, quick=True)
    print(table(results))
    assert [trial["name"] for trial in results] == trials
    failed = {
        t["name"]: (t["what"], t["how"], t["problems"]) for t in results if t["verdict"] in BAD
    }
    assert failed == {}


def test_other_values_are_seen_and_fewer_are_honest():
    def status(**changed):
        return {"train": COUNTS | changed}

    assert facts.differs("status", status(), status()) == ""
    assert facts.differs("status", status(), status(done=8, ok=7, missing=2, digest="b")) == ""
    assert "digest" in facts.differs("status", status(), status(digest="b"))
    assert "ok" in facts.differs("status", status(), status(ok=9, failed=0, digest="b"))
    rows = [{"id": 1, "message": "a"}, {"id": 2, "message": "b"}]
    assert facts.differs("failures", rows, rows[:1]) == ""
    assert facts.differs("failures", rows, [{"id": 1, "message": "c"}])
    shown = ["300-cmpe | 300 | cmpe | 0.5", "rmse | 0.7 | of all"]
    assert facts.differs("report", shown, ["300-cmpe | cmpe | 0.5"]) == ""
    assert "0.8" in facts.differs("report", shown, ["rmse | 0.8 | of all"])


def test_columns_of_times_are_left_out_of_a_report(tmp_path):
    page = (
        "<table><tr><th>name</th><th>time</th><th>seconds</th></tr>"
        "<tr><td>a</td><td>1m2s</td><td>0.5</td></tr></table><p>said</p>"
    )
    (tmp_path / "report.html").write_text(page)
    assert facts.report(tmp_path / "report.html") == ["a", "said"]


def test_kinds_are_mixed_as_asked_and_each_trial_has_a_name_of_its_own():
    found = names(["damage", "kill", "disk", "odd"], 200, 3)
    assert len(set(found)) == 200
    assert all(
        sum(name.startswith(kind) for name in found) >= 8 for kind in ("kill", "disk", "odd")
    )
    assert found == names(["damage", "kill", "disk", "odd"], 200, 3)
