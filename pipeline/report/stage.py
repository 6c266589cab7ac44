"""The report: one self-contained page about a run, with the parts that exist so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import config as configuration
from pipeline.files import write_whole, writing
from pipeline.progress import duration
from pipeline.report import inversions, page
from pipeline.report.abc import abc_section
from pipeline.report.contents import RunContents, count
from pipeline.report.page import Headline
from pipeline.report.pictures import posterior_pictures, simulation_pictures
from pipeline.report.verdict import ROUNDING, verdicts
from pipeline.run import RunDirectory
from pipeline.simulate.sources import told

SHOWN_FAILURES = 20
MOST_COLUMNS = 100  # parameters in one table
COMPARED = (
    *("c2st", "rmse_paper", "nrmse", "rmse", "r2", "ece"),
    *("rmse_image", "coverage_pixels", "frechet_images", "kernel_images", "seconds"),
)  # between trainings
KINDS = ("failed", "timeout", "invalid")


def report(run: RunDirectory) -> Path:
    """Write `report.html` and return where it is.

    Raises:
        UsageError: the folder is not a run.
    """
    contents = RunContents(run)
    title = contents.title
    sections = [
        _words(contents),
        _quality(contents),
        abc_section(contents),
        _sampling_steps(contents),
        _metrics(contents),
        inversions.section(contents),
        _trainings(contents),
        _simulations(contents),
        _failures(contents),
        _provenance(contents),
        _tracking(contents),
    ]
    sections.insert(0, _problems(contents))  # known when all is read
    with writing(run.report):
        write_whole(run.report, page.page(title, contents.lead, _headlines(contents), sections))
    return run.report


# --- the headline ------------------------------------------------------------------------------


def _headlines(contents: RunContents) -> Iterator[Headline]:
    metrics = contents.metrics
    if "mean" in (c2st := metrics.get("c2st", {})):
        yield Headline("C2ST", f"{c2st['mean']:.3f}", _sem(c2st), f"0.5 is perfect. {_how(c2st)}")
    if "max" in (ece := metrics.get("ece", {})):
        low, high = ece["null_band"]
        band = f"a perfect sampler gives {low:.3f} to {high:.3f}"
        yield Headline("MaxECE", f"{ece['max']:.3f}", "", f"{_verdict(ece)} {band}. {_how(ece)}")
    if "inside" in (sbc := metrics.get("sbc", {})):
        inside, total = sum(sbc["inside"]), len(sbc["inside"])
        yield Headline("SBC", f"{inside} of {total}", "parameters in the band", _how(sbc))
    if "mean" in (rmse := metrics.get("rmse", {})):
        yield Headline("RMSE", f"{rmse['mean']:.3g}", _sem(rmse), _how(rmse))
    if "mean" in (nrmse := metrics.get("nrmse", {})):
        yield Headline("NRMSE", f"{nrmse['mean']:.3f}", _sem(nrmse), _how(nrmse))
    yield from _image_headlines(metrics)
    if "mean" in (speed := metrics.get("seconds", {})):
        yield Headline("Seconds per 1000 draws", f"{speed['median']:.3g}", "s", _how(speed))
    if contents.latest and contents.latest.done:
        yield _training_headline(contents.latest.done)
    if "train" in contents.counts:
        counts = contents.counts["train"]
        bad = sum(counts[kind] for kind in KINDS)
        missing = f", {count(counts['missing'])} still to run" if counts["missing"] else ""
        yield Headline(
            "Training simulations",
            count(counts["ok"]),
            f"of {count(counts['done'] + counts['missing'])}",
            f"{_share(bad, counts['done'])} not ok and left out of all numbers here{missing}.",
        )


def _image_headlines(metrics: Mapping[str, Any]) -> Iterator[Headline]:
    if "mean" in (rmse := metrics.get("rmse_image", {})):
        yield Headline("RMSE of images", f"{rmse['mean']:.3f}", _sem(rmse), _how(rmse))
    if "coverage_50" in (covered := metrics.get("coverage_pixels", {})):
        shares = f"{covered['coverage_50']:.1%}, {covered['coverage_90']:.1%}"
        note = "Of the pixels that vary, so many lie in the central 50 % and 90 % intervals"
        yield Headline("Coverage of pixels", shares, "", _how({**covered, "definition": note}))


def _training_headline(done: Mapping[str, Any]) -> Headline:
    """Return what training came to: its best validation loss, and whether it overfitted."""
    loss, kept = done.get("best_validation_loss"), done.get("kept_step")
    steps = count(done["steps"])
    weights = f"the weights of step {count(kept)} are kept" if kept else "the last weights are kept"
    overfits = "Overfits: " if done.get("minima") else ""
    note = f"{overfits}{weights}, of {steps} steps."
    return Headline("Best validation loss", "–" if loss is None else f"{loss:.4g}", "", note)


def _sem(record: Mapping[str, Any]) -> str:
    return "" if record.get("sem") is None else f"± {record['sem']:.2g}"


def _how(record: Mapping[str, Any]) -> str:
    """Return a metric's definition and how it was measured."""
    parts = [f"{record['n']} test sets", f"{record['draws']} draws"]
    if record.get("sampling_steps"):
        parts.append(f"{record['sampling_steps']} sampling steps")
    if record.get("reference"):
        parts.append(f"reference: {record['reference']}")
    definition = record.get("definition", "")
    return f"{definition} ({', '.join(parts)})."


def _verdict(ece: Mapping[str, Any]) -> str:
    inside = ece["max"] <= ece["null_band"][1] + ROUNDING
    return "Within sampling error:" if inside else "Beyond sampling error:"


# --- sections ----------------------------------------------------------------------------------


def _problems(contents: RunContents) -> str:
    """List damaged files; nothing on this page is read from them."""
    lines = map(page.paragraph, contents.reader.problems)
    return page.section("Damaged files, left out here", *lines)


def _words(contents: RunContents) -> str:
    if contents.latest is None:
        return ""
    found = verdicts(contents.latest.evaluated, contents.latest.facts)
    return page.section("What to know about it", *map(page.paragraph, found))


def _quality(contents: RunContents) -> str:
    if contents.latest is None:
        return ""
    return page.section(
        "The posterior",
        page.figures(posterior_pictures(contents.latest.results, contents.reader).values()),
    )


def _sampling_steps(contents: RunContents) -> str:
    """Compare the numbers of sampling steps, where more than one was measured."""
    sweep = contents.latest.evaluated.get("sweep", []) if contents.latest else []
    if not sweep:
        return ""
    names = list(contents.metrics)
    rows = [
        [_steps_of(metrics), *(_value(metrics[name]) for name in names)]
        for metrics in (contents.metrics, *(one["metrics"] for one in sweep))
    ]
    return page.section("Sampling steps", page.table(["sampling steps", *names], rows))


def _metrics(contents: RunContents) -> str:
    rows = [
        [name, _value(record), _band(record), record.get("note") or _how(record)]
        for name, record in contents.metrics.items()
    ]
    head = ["metric", "value", "a perfect posterior", "definition"]
    table = page.table(head, rows, prose=3)
    parts = page.table(["metric", *_names(contents)], _per_parameter(contents))
    return page.section("Metrics", table, parts and page.heading("For each parameter"), parts)


def _per_parameter(contents: RunContents) -> Iterator[list[str]]:
    if len(_names(contents)) > MOST_COLUMNS:  # maps and pictures show these
        return
    for name, record in contents.metrics.items():
        if values := record.get("per_parameter"):
            yield [name, *(f"{value:.4g}" for value in values)]
        if inside := record.get("inside"):
            yield [f"{name}: in the band", *("yes" if one else "no" for one in inside)]


def _trainings(contents: RunContents) -> str:
    known = {name for training in contents.trainings for name in training.metrics}
    names = [name for name in COMPARED if name in known]
    rows, mark = [], None
    for number, training in enumerate(contents.trainings):
        if training is contents.latest:
            mark = number
        provenance = training.posterior.get("provenance", {})
        spent = training.done.get("seconds")
        rows.append(
            [
                training.key,
                count(provenance["budget"]) if "budget" in provenance else "",
                training.posterior.get("estimator", ""),
                training.steps,
                duration(spent) if spent is not None else "",
                *(_value(training.metrics.get(name, {})) for name in names),
            ]
        )
    head = ["training", "budget", "estimator", "steps", "time", *names]
    return page.section("Trainings", page.table(head, rows, mark))


def _simulations(contents: RunContents) -> str:
    if not contents.counts:
        return ""
    head = ["stream", "asked for", "ok", *KINDS, "missing", "not ok"]
    rows = []
    for stream, counts in contents.counts.items():
        bad = sum(counts[kind] for kind in KINDS)
        asked = counts["done"] + counts["missing"]
        numbers = [asked, counts["ok"], *(counts[kind] for kind in KINDS), counts["missing"]]
        rows.append([stream, *map(count, numbers), _share(bad, counts["done"])])
    pictures = simulation_pictures(contents.stores, contents.counts)
    return page.section("Simulations", page.table(head, rows), page.figures(pictures))


def _failures(contents: RunContents) -> str:
    parts = []
    for stream, store in contents.stores.items():
        rows = store.failures(sum(contents.counts[stream][k] for k in ("done", "missing")))
        if not rows:
            continue
        shown = [
            [
                row.id,
                row.outcome.name.lower(),
                f"{row.seconds:.3g} s",
                ", ".join(f"{n}={v:.4g}" for n, v in zip(store.names, row.theta, strict=True)),
                row.message,
            ]
            for row in rows[:SHOWN_FAILURES]
        ]
        head = ["id", "outcome", "after", "parameters", "reason"]
        first = f"{stream}: the first {len(shown)} of {count(len(rows))}"
        parts.append(page.details(first, page.table(head, shown, prose=4)))
    advice = f"sbiflow failures -o {contents.run.path}\nsbiflow simulate -o {contents.run.path} --retry all"
    if parts:
        parts.append(page.code(advice))
    return page.section("Simulations that are not ok", *parts)


def _provenance(contents: RunContents) -> str:
    rows = [["run directory", contents.run.path.resolve()]]
    for stream, store in contents.stores.items():
        budget = sum(contents.counts[stream][k] for k in ("done", "missing"))
        rows.append([f"{stream} simulations, digest", store.digest(budget)])
        rows.append([f"{stream} simulations, source", told(contents.sources[stream])])
    if contents.latest:
        posterior = contents.latest.posterior
        provenance = dict(posterior.get("provenance", {}))
        versions = provenance.pop("versions", {})
        rows.append(["weights, sha256", posterior.get("weights", {}).get("sha256", "")])
        rows += [[name.replace("_", " "), value] for name, value in provenance.items()]
        rows.append(["versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v)])
        rows.append(
            ["evaluation seed", contents.latest.evaluated.get("settings", {}).get("seed", "")]
        )
    config = configuration.text(contents.config)
    shown = [row for row in rows if row[1] not in ("", None)]
    return page.section(
        "Where it comes from",
        page.table(["", ""], shown),
        page.details("configuration", page.code(config)),
    )


def _tracking(contents: RunContents) -> str:
    return page.section(
        "Look further",
        page.paragraph("All parameters, metrics and curves are in MLflow; this opens its pages:"),
        page.code(f"sbiflow ui -o {contents.run.path}"),
    )


# --- words -------------------------------------------------------------------------------------


def _value(record: Mapping[str, Any]) -> str:
    if record.get("mean") is not None:
        return f"{record['mean']:.4g} {_sem(record)}".strip()
    return f"{record['max']:.4g}" if record.get("max") is not None else "–"


def _band(record: Mapping[str, Any]) -> str:
    """Return the null band of a metric, with whether the value is in it."""
    if (band := record.get("null_band")) is None:
        return ""
    value = record.get("by_error", record.get("mean", record.get("max")))
    inside = value is not None and band[0] - ROUNDING <= value <= band[1] + ROUNDING
    distance = {"max", "reference", "rejected"} & record.keys()  # from what is perfect
    better = value is not None and distance and value < band[0]
    return f"{band[0]:.3g} to {band[1]:.3g}" + ("" if inside or better else " (outside)")


def _steps_of(metrics: Mapping[str, Any]) -> str:
    steps = (record.get("sampling_steps") for record in metrics.values())
    return next((str(n) for n in steps if n), "–")


def _names(contents: RunContents) -> list[str]:
    if contents.latest is None or not contents.metrics:
        return []
    return list(contents.latest.evaluated["posterior"]["names"])


def _share(part: int, whole: int) -> str:
    return "0 %" if not part else f"{100 * part / max(whole, 1):.2g} %"
