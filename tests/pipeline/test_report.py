"""The report stands alone and tells the truth, whatever is there."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from pipeline import config as configuration
from pipeline.errors import UsageError
from pipeline.evaluate.stage import evaluate
from pipeline.report.pictures import simulation_pictures
from pipeline.report.stage import report
from pipeline.results import latest_training
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import DamagedError, Outcome, Rows, Store
from pipeline.store.shard import write_shard
from pipeline.train.stage import train

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects text and addresses, and checks that tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


def test_the_page_shows_the_numbers_of_the_run(evaluated: Any) -> None:
    path = report(evaluated.run)
    assert path == evaluated.run.report
    page = Page(path.read_text())
    folder = evaluated.run.training(latest_training(evaluated.run))
    result = json.loads((folder / "evaluation" / "metrics.json").read_text())
    metrics = result["metrics"]
    assert f"{metrics['c2st']['mean']:.3f}" in page.text
    assert metrics["c2st"]["definition"] in page.text
    assert f"{metrics['ece']['null_band'][1]:.3f}" in page.text
    assert (
        f"{metrics['c2st']['n']} test sets, 150 draws, 3 sampling steps, reference: exact"
        in page.text
    )
    assert latest_training(evaluated.run) in page.text
    assert result["posterior"]["digest"] in page.text
    bad = result["failed_share"]["train"]["failed"]
    assert bad > 0
    assert f"{result['failed_share']['train']['ok']} of 300" in page.text
    assert re.search(r"a = \d\.\d\d is too large", page.text)
    assert "sbiflow ui -o" in page.text


def test_the_page_needs_nothing_from_outside(evaluated: Any) -> None:
    html = report(evaluated.run).read_text()
    page = Page(html)
    assert len(page.addresses) >= 9  # pictures
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_equal_runs_give_equal_pages(evaluated: Any) -> None:
    assert report(evaluated.run).read_text() == report(evaluated.run).read_text()


def test_what_a_simulator_says_is_not_run_as_html(evaluated: Any) -> None:
    configuration.save(evaluated.configure("name=<script>alert(1)</script>"), evaluated.run)
    html = report(evaluated.run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_trained_but_not_evaluated(finished: Any) -> None:
    page = Page(report(finished.run).read_text())
    assert "not measured yet" in page.text
    assert "C2ST" not in page.text
    assert latest_training(finished.run) in page.text


def test_a_training_whose_rows_could_not_be_loaded_is_none(finished: Any) -> None:
    path = next(finished.run.path.glob("store/train/shards/*/theta/c/0/0"))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(DamagedError):
        train(finished.configure("train.steps=151"), finished.run, stop=Stop())
    path.write_bytes(content)
    assert len(list(finished.run.path.glob("trainings/*"))) == 2
    assert "not finished" not in Page(report(finished.run).read_text()).text


def test_only_simulations(finished: Any) -> None:
    shutil.rmtree(finished.run.path / "trainings")
    (finished.run.path / "latest.json").unlink()
    page = Page(report(finished.run).read_text())
    assert "no posterior is trained yet" in page.text
    assert "of 300" in page.text


def test_only_a_configuration(finished: Any) -> None:
    for name in ("trainings", "store"):
        shutil.rmtree(finished.run.path / name)
    (finished.run.path / "latest.json").unlink()
    assert "no posterior is trained yet" in Page(report(finished.run).read_text()).text


def test_a_sweep_of_sampling_steps_has_its_table(finished: Any) -> None:
    config = finished.configure("evaluate.sampling_steps=[2, 5]", "evaluate.metrics=[rmse]")
    result = evaluate(config, finished.run, stop=Stop())
    page = Page(report(finished.run).read_text())
    assert "Sampling steps sampling steps" in page.text
    assert f"{result['sweep'][0]['metrics']['rmse']['mean']:.4g}" in page.text


def test_no_run_no_page(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"no config.yml"):
        report(RunDirectory(tmp_path))


def test_pictures_of_equal_rows_are_equal_for_any_layout_of_shards(tmp_path: Any) -> None:
    pictures = []
    for order in ((0, 1, 2), (2, 0, 1)):
        store = Store.create(tmp_path / str(order[0]), {"names": ["a", "b"]})
        for number, part in enumerate(order):
            ids = np.arange(20 * part, 20 * part + 20)
            outcome = np.where(ids % 7, Outcome.OK, Outcome.FAILED).astype("u1")
            theta = np.cos(ids[:, None] + [0.0, 1.0])
            rows = Rows(ids, theta, {}, {}, outcome, np.ones(20, "f4"))
            write_shard(rows, store.path / "new", store.path / f"shards/{number:06d}")
        pictures.append(list(simulation_pictures({"train": store}, {"train": store.counts(60)})))
    assert len(pictures[0]) == 3
    assert pictures[0] == pictures[1]
