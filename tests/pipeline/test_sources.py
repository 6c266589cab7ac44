"""A store knows by which source it was made: a changed simulator is not mixed in without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

import simulators
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import DamagedError, UsageError
from pipeline.report.stage import report
from pipeline.run import RunDirectory
from pipeline.show import status, status_values
from pipeline.simulate import sources
from pipeline.simulate.leases.stage import simulate
from pipeline.stop import Stop
from pipeline.store import Store, repair, verify
from simulators.source import Source

MODEL = """
from simulators import Uniform, simulator


@simulator(prior={"a": Uniform(0, 1)})
def model(a, rng):
    return {"x": [a, rng.normal()]}
"""
CHANGED = MODEL.replace("rng.normal()", "100 * rng.normal()")


class Case:
    """A run whose simulator can be edited."""

    def __init__(self, folder: Path) -> None:
        self.file, self.run = folder / "model.py", RunDirectory(folder / "run")
        self.store = self.run.store("train")
        self.write(MODEL)

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def config(self, *words: str) -> Config:
        values = {"name": "model", "simulator": f"{self.file}:model", "budget": 20, "test": 0}
        return configuration.build(configuration.override(values, ["simulate.workers=1", *words]))

    def simulate(self, *words: str) -> None:
        simulate(self.config(*words), self.run, stop=Stop())

    @property
    def rows(self) -> list[int]:
        return [made.rows for made in sources.made_by(self.store)]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_rows_by_another_source_are_refused_with_a_diff(case: Case) -> None:
    case.simulate()
    digest = Store.open(case.store).digest()
    case.write(CHANGED)
    with pytest.raises(UsageError) as refused:
        case.simulate("budget=30")
    said = str(refused.value)
    assert "holds 20 rows by another source of simulator 'model.py:model'" in said
    assert (
        '\n-    return {"x": [a, rng.normal()]}\n+    return {"x": [a, 100 * rng.normal()]}\n'
        in said
    )
    assert "undo the change; or give the simulator another version" in said
    assert "simulate.accept_source=true" in said
    assert Store.open(case.store).counts()["done"] == 20
    assert case.rows == [0]
    case.write(MODEL + "\n# a comment is no change\n")
    case.simulate("budget=30")
    assert Store.open(case.store).digest(20) == digest
    assert Store.open(case.store).counts()["done"] == 30


def test_a_mixture_is_made_on_purpose_and_written_down(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.simulate()
    case.write(CHANGED)
    case.simulate("budget=30", "simulate.accept_source=true")
    assert "now mixes rows of 2 sources of 'model.py:model'" in capsys.readouterr().err
    assert case.rows == [0, 20]
    assert [list(made.source.files.values()) for made in sources.made_by(case.store)] == [
        [MODEL],
        [CHANGED],
    ]
    said = status_values(case.config(), case.run)
    assert [entry["rows"] for entry in said["sources"]] == [0, 20]
    first, second = (entry["digest"][:12] for entry in said["sources"])
    assert f"source {first}, after 20 rows {second}: MIXED on purpose" in status(said)
    configuration.save(case.config(), case.run)
    page = report(case.run).read_text()
    assert f"{first}, after 20 rows {second}: MIXED on purpose" in page
    case.simulate("budget=40")  # what was accepted need not be said again
    case.write(MODEL)
    with pytest.raises(UsageError, match="holds 40 rows by another source"):
        case.simulate("budget=50")


def test_jobs_are_given_leave_when_they_are_queued(case: Case) -> None:
    case.simulate()
    case.write(CHANGED)
    sources.accept(case.run, simulators.load(f"{case.file}:model"))
    assert case.rows == [0, 20]
    case.simulate("budget=30")


def test_leave_to_mix_holds_for_one_command(case: Case) -> None:
    config = case.config("simulate.accept_source=true")
    configuration.save(config, case.run)
    assert not configuration.resolve(case.run).simulate.accept_source


def test_a_complete_store_needs_no_source(case: Case) -> None:
    case.simulate()
    case.write(CHANGED)
    case.simulate()
    case.simulate("budget=10")


def test_a_store_without_rows_takes_any_source(case: Case) -> None:
    case.simulate()
    path = case.store / "source.json"
    text = path.read_bytes()
    other = Case(case.file.parent)
    other.run = RunDirectory(case.file.parent / "other")
    other.store = other.run.store("train")
    Store.create(other.store, Store.open(case.store).identity)
    (other.store / "source.json").write_bytes(text)
    other.write(CHANGED)
    other.simulate()
    assert [list(made.source.files.values()) for made in sources.made_by(other.store)] == [
        [CHANGED]
    ]


def test_a_store_of_an_earlier_version_learns_its_source(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.simulate()
    (case.store / "source.json").unlink()
    case.simulate("budget=30")
    assert "by which source the 20 rows there were made is not known" in capsys.readouterr().err
    assert case.rows == [20]
    assert sources.told(sources.values(case.store)).startswith("not known of 20 rows, then ")
    case.write(CHANGED)
    with pytest.raises(UsageError, match="by another source"):
        case.simulate("budget=40")


def test_a_damaged_file_says_what_to_do(case: Case) -> None:
    case.simulate()
    path = case.store / "source.json"
    path.write_bytes(path.read_bytes().replace(b"normal", b"narmol"))
    with pytest.raises(
        DamagedError, match=r"source.json is damaged: .*; delete it: the source is recorded anew"
    ):
        case.simulate("budget=30")
    path.unlink()
    case.simulate("budget=30")
    assert case.rows == [20]


def test_a_damaged_file_is_found_and_put_aside(case: Case) -> None:
    case.simulate()
    path = case.store / "source.json"
    path.write_bytes(path.read_bytes().replace(b"normal", b"narmol"))
    problems = verify(Store.open(case.store))
    assert [str(problem) for problem in problems] == ["source.json: does not match its checksum"]
    assert not len(repair(Store.open(case.store)))
    assert not path.exists()
    assert verify(Store.open(case.store)) == []
    assert len(list(case.store.glob("quarantine/source-*"))) == 1
    case.simulate("budget=30")
    assert case.rows == [20]


def test_a_long_diff_is_cut() -> None:
    old = Source({"a.py": "\n".join(f"a{k} = 1" for k in range(200))})
    new = Source({"a.py": "\n".join(f"a{k} = 2" for k in range(200))})
    lines = list(sources._diff(old, new))
    assert len(lines) == sources.MOST_LINES + 1
    assert lines[-1].endswith("more lines")
