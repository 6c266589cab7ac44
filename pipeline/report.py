"""The report: one self-contained page about a run, with whatever of it is there yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UsageError
from pipeline.progress import duration
from pipeline.reporting import page
from pipeline.reporting.facts import Facts, count
from pipeline.reporting.page import Card
from pipeline.reporting.pictures import posterior_pictures, simulation_pictures
from pipeline.run import Run, write_whole

SHOWN_FAILURES = 20
COMPARED = ("c2st", "rmse_paper", "nrmse", "rmse", "r2", "ece", "seconds")  # between trainings
KINDS = ("failed", "timeout", "invalid")


def report(run: Run) -> Path:
    """Write `report.html` and return where it is.

    Raises:
        UsageError: the folder is not a run.
    """
    if not run.config.exists():
        raise UsageError(f"{run.path} is not a run: it has no config.yml")
    facts = Facts(run)
    sections = (
        _quality(facts),
        _passes(facts),
        _metrics(facts),
        _trainings(facts),
        _simulations(facts),
        _failures(facts),
        _provenance(facts),
        _tracking(facts),
    )
    write_whole(run.report, page.page(facts.title, facts.lead, _cards(facts), sections))
    return run.report


# --- the headline ------------------------------------------------------------------------------


def _cards(facts: Facts) -> Iterator[Card]:
    metrics = facts.metrics
    if "mean" in (c2st := metrics.get("c2st", {})):
        yield Card("C2ST", f"{c2st['mean']:.3f}", _sem(c2st), f"0.5 is perfect. {_how(c2st)}")
    if "max" in (ece := metrics.get("ece", {})):
        low, high = ece["null_band"]
        band = f"a perfect sampler gives {low:.3f} to {high:.3f}"
        yield Card("MaxECE", f"{ece['max']:.3f}", "", f"{_verdict(ece)} {band}. {_how(ece)}")
    if "inside" in (sbc := metrics.get("sbc", {})):
        inside, total = sum(sbc["inside"]), len(sbc["inside"])
        yield Card("SBC", f"{inside} of {total}", "parameters in the band", _how(sbc))
    if "mean" in (rmse := metrics.get("rmse", {})):
        yield Card("RMSE", f"{rmse['mean']:.3g}", _sem(rmse), _how(rmse))
    if "mean" in (nrmse := metrics.get("nrmse", {})):
        yield Card("NRMSE", f"{nrmse['mean']:.3f}", _sem(nrmse), _how(nrmse))
    if "mean" in (speed := metrics.get("seconds", {})):
        passes = f"{speed['passes']} passes. " if speed.get("passes") else ""
        yield Card("Seconds per 1000 draws", f"{speed['median']:.3g}", "s", passes + _how(speed))
    if "train" in facts.counts:
        counts = facts.counts["train"]
        bad = sum(counts[kind] for kind in KINDS)
        missing = f", {count(counts['missing'])} still to run" if counts["missing"] else ""
        yield Card(
            "Training simulations",
            count(counts["ok"]),
            f"of {count(counts['done'] + counts['missing'])}",
            f"{_share(bad, counts['done'])} not ok and in no number here{missing}.",
        )


def _sem(record: Mapping[str, Any]) -> str:
    return "" if record.get("sem") is None else f"± {record['sem']:.2g}"


def _how(record: Mapping[str, Any]) -> str:
    """Return a metric's definition and how it was measured."""
    parts = [f"{record['n']} test sets", f"{record['draws']} draws"]
    if record.get("passes"):
        parts.append(f"{record['passes']} passes")
    if record.get("reference"):
        parts.append(f"reference: {record['reference']}")
    definition = record.get("definition", "")
    return f"{definition} ({', '.join(parts)})."


def _verdict(ece: Mapping[str, Any]) -> str:
    inside = ece["max"] <= ece["null_band"][1]
    return "Within chance:" if inside else "Beyond chance:"


# --- sections ----------------------------------------------------------------------------------


def _quality(facts: Facts) -> str:
    if facts.latest is None:
        return ""
    return page.section(
        "The posterior", page.figures(posterior_pictures(facts.run, facts.latest.key).values())
    )


def _passes(facts: Facts) -> str:
    sweep = facts.latest.evaluated.get("sweep", []) if facts.latest else []
    if not sweep:
        return ""
    names = list(facts.metrics)
    rows = [
        [_passes_of(metrics), *(_value(metrics[name]) for name in names)]
        for metrics in (facts.metrics, *(one["metrics"] for one in sweep))
    ]
    return page.section("Network passes", page.table(["passes", *names], rows))


def _metrics(facts: Facts) -> str:
    rows = [
        [name, _value(record), record.get("note") or _how(record)]
        for name, record in facts.metrics.items()
    ]
    table = page.table(["metric", "value", "definition"], rows, prose=2)
    parts = page.table(["metric", *_names(facts)], _per_parameter(facts))
    return page.section("Metrics", table, parts and page.heading("For each parameter"), parts)


def _per_parameter(facts: Facts) -> Iterator[list[str]]:
    for name, record in facts.metrics.items():
        if values := record.get("per_parameter"):
            yield [name, *(f"{value:.4g}" for value in values)]
        if inside := record.get("inside"):
            yield [f"{name}: in the band", *("yes" if one else "no" for one in inside)]


def _trainings(facts: Facts) -> str:
    known = {name for training in facts.trainings for name in training.metrics}
    names = [name for name in COMPARED if name in known]
    rows, mark = [], None
    for number, training in enumerate(facts.trainings):
        if training is facts.latest:
            mark = number
        provenance = training.posterior.get("provenance", {})
        spent = training.done.get("seconds")
        rows.append(
            [
                training.key,
                count(provenance["budget"]) if "budget" in provenance else "",
                training.posterior.get("estimator", ""),
                count(training.done["steps"]) if training.done else "not finished",
                duration(spent) if spent is not None else "",
                *(_value(training.metrics.get(name, {})) for name in names),
            ]
        )
    head = ["training", "budget", "estimator", "steps", "time", *names]
    return page.section("Trainings", page.table(head, rows, mark))


def _simulations(facts: Facts) -> str:
    if not facts.counts:
        return ""
    head = ["stream", "asked for", "ok", *KINDS, "missing", "not ok"]
    rows = []
    for stream, counts in facts.counts.items():
        bad = sum(counts[kind] for kind in KINDS)
        asked = counts["done"] + counts["missing"]
        numbers = [asked, counts["ok"], *(counts[kind] for kind in KINDS), counts["missing"]]
        rows.append([stream, *map(count, numbers), _share(bad, counts["done"])])
    pictures = simulation_pictures(facts.stores, facts.counts)
    return page.section("Simulations", page.table(head, rows), page.figures(pictures))


def _failures(facts: Facts) -> str:
    parts = []
    for stream, store in facts.stores.items():
        rows = store.failures(sum(facts.counts[stream][k] for k in ("done", "missing")))
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
    advice = (
        f"sbiflow failures -o {facts.run.path}\nsbiflow simulate -o {facts.run.path} --retry all"
    )
    if parts:
        parts.append(page.code(advice))
    return page.section("Simulations that are not ok", *parts)


def _provenance(facts: Facts) -> str:
    rows = [["run directory", facts.run.path.resolve()]]
    for stream, store in facts.stores.items():
        budget = sum(facts.counts[stream][k] for k in ("done", "missing"))
        rows.append([f"{stream} simulations, digest", store.digest(budget)])
    if facts.latest:
        posterior = facts.latest.posterior
        provenance = dict(posterior.get("provenance", {}))
        versions = provenance.pop("versions", {})
        rows.append(["weights, sha256", posterior.get("weights", {}).get("sha256", "")])
        rows += [[name.replace("_", " "), value] for name, value in provenance.items()]
        rows.append(["versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v)])
        rows.append(["evaluation seed", facts.latest.evaluated.get("settings", {}).get("seed", "")])
    config = yaml.safe_dump(facts.config, sort_keys=False)
    shown = [row for row in rows if row[1] not in ("", None)]
    return page.section(
        "Where it comes from",
        page.table(["", ""], shown),
        page.details("configuration", page.code(config)),
    )


def _tracking(facts: Facts) -> str:
    return page.section(
        "Look further",
        page.paragraph("All parameters, metrics and curves are in MLflow; this opens its pages:"),
        page.code(f"sbiflow ui -o {facts.run.path}"),
    )


# --- words -------------------------------------------------------------------------------------


def _value(record: Mapping[str, Any]) -> str:
    if record.get("mean") is not None:
        return f"{record['mean']:.4g} {_sem(record)}".strip()
    return f"{record['max']:.4g}" if record.get("max") is not None else "–"


def _passes_of(metrics: Mapping[str, Any]) -> str:
    return next((str(r["passes"]) for r in metrics.values() if r.get("passes")), "–")


def _names(facts: Facts) -> list[str]:
    if facts.latest is None or not facts.metrics:
        return []
    return list(facts.latest.evaluated["posterior"]["names"])


def _share(part: int, whole: int) -> str:
    return "0 %" if not part else f"{100 * part / max(whole, 1):.2g} %"
