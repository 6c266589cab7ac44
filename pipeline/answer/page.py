"""The page of an answer: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evaluation.scale import on_scale
from pipeline.answer.answer import MOST_VALUES, WHOLE, Answer, interval, shown
from pipeline.answer.check import DOUBT, GOOD
from pipeline.answer.evidence import output_names
from pipeline.report import page
from pipeline.report.page import Headline

SHOWN = {GOOD: "good", DOUBT: "doubt", "not done": "not done"}
MOST_OUTPUTS, MOST_ELEMENTS = 6, 400  # in pictures
MOST_COLUMNS = 12


def answer_page(answer: Answer) -> str:
    """Return the page."""
    verdict = "can be trusted" if answer.trusted else "read the doubts below first"
    if not answer.checks:
        verdict = "not checked"
    lead = f"{len(answer.draws)} posterior draws of {len(answer.names)} parameters: {verdict}."
    sections = [
        _checks(answer),
        _parameters(answer),
        _predictive(answer),
        _sensitivity(answer),
        _correlation(answer),
        _provenance(answer),
    ]
    return page.page("An answer for one observation", lead, _headlines(answer), sections)


def _headlines(answer: Answer) -> Iterator[Headline]:
    for check in answer.checks:
        yield Headline(check.question, SHOWN[check.verdict], "", check.sentence)


def _checks(answer: Answer) -> str:
    rows = [
        [c.question, SHOWN[c.verdict], f"{c.sentence} {c.advice}".strip()] for c in answer.checks
    ]
    return page.section(
        "Can it be trusted?", page.table(["check", "verdict", "what to do"], rows, prose=2)
    )


def _parameters(answer: Answer) -> str:
    from evaluation import answer_plots, plots

    head = [
        "parameter",
        "mean",
        "sd",
        "median",
        "mode",
        *(f"HPD {one}" for one in WHOLE),
        "contraction",
    ]
    rows = [
        [
            row["parameter"],
            *(shown(row[key]) for key in ("mean", "sd", "median", "mode")),
            *(interval(row, one, "{} to {}") for one in WHOLE),
            shown(row["contraction"], ".3f"),
        ]
        for row in answer.rows()
    ]
    draws, prior = (on_scale(values, answer.scales) for values in (answer.draws, answer.prior))
    hpd = on_scale(answer.marginals.hpd[1].T, answer.scales).T
    best = on_scale(answer.marginals.mode, answer.scales)
    few = draws[:2000]
    pictures = [
        (plots.svg(plots.pairs(few, answer.labels, best)), "Posterior draws; lines mark the mode."),
        (
            plots.svg(answer_plots.prior_and_posterior(draws, prior, hpd, answer.labels)),
            "What was learned of each parameter; the band is the shortest interval with 90 %.",
        ),
    ]
    note = (
        "The mode is that of the joint density. A HPD interval is the shortest one that holds so much of the "
        "posterior. Contraction is 1 - var(posterior) / var(prior): 0 where nothing was learned, 1 where all."
    )
    return page.section(
        "The parameters",
        page.table(head, rows),
        page.paragraph(note, "note"),
        *_probabilities(answer),
        page.figures(pictures),
    )


def _probabilities(answer: Answer) -> Iterator[str]:
    """Yield a table for each discrete parameter."""
    for name, values in answer.probabilities.items():
        most = sorted(values, key=lambda one: -one[1])[:MOST_VALUES]
        rows = [[value, f"{after:.3f}", f"{before:.3f}"] for value, after, before in sorted(most)]
        yield page.table([name, "posterior probability", "prior probability"], rows)


def _predictive(answer: Answer) -> str:
    from evaluation import answer_plots, plots

    found = answer.predictive
    if found is None:
        return ""
    pictures: list[tuple[str, str]] = []
    start = 0
    for name in output_names(answer.predicted):
        size = int(np.prod(answer.predicted[name].shape[1:]))
        part, start = slice(start, start + size), start + size
        if len(pictures) >= MOST_OUTPUTS or size > MOST_ELEMENTS:
            continue
        observed = np.resize(np.asarray(answer.observed[name], float).reshape(-1), size)
        figure = answer_plots.predicted(
            observed, found.low[:, part], found.high[:, part], found.tail[part], name
        )
        pictures.append(
            (plots.svg(figure), f"{name}: intervals with 50 and 90 % of the simulations.")
        )
    rows = [[name, f"{value:.3g}"] for name, value in found.p_values.items()]
    table = page.table(["test quantity", "p"], rows)
    return page.section("Simulations from the posterior", page.figures(pictures), table)


def _sensitivity(answer: Answer) -> str:
    from evaluation import answer_plots, plots

    parts = []
    if len(answer.rests_on) > 1:
        names, values = list(answer.rests_on), list(answer.rests_on.values())
        caption = (
            "Shift of a posterior mean if an output is replaced by what the others lead to expect."
        )
        figure = answer_plots.bars(values, names, "largest shift, posterior sd")
        parts.append(page.figures([(plots.svg(figure), caption)]))
    if len(answer.budgets) > 1 and len(answer.names) <= MOST_COLUMNS:
        rows = [
            [
                one["training"],
                one["budget"],
                *(f"{m:.4g} ± {s:.2g}" for m, s in zip(one["mean"], one["sd"], strict=True)),
            ]
            for one in answer.budgets
        ]
        mark = next((k for k, one in enumerate(answer.budgets) if one["used"]), None)
        parts.append(page.heading("By the trainings of this run: mean ± sd"))
        parts.append(page.table(["training", "budget", *answer.labels], rows, mark))
    return page.section("What the answer rests on", *parts)


def _correlation(answer: Answer) -> str:
    if not 1 < len(answer.names) <= MOST_COLUMNS:
        return ""
    rows = [
        [name, *(f"{value:.2f}" for value in row)]
        for name, row in zip(answer.names, answer.marginals.correlation, strict=True)
    ]
    return page.section("Correlation", page.table(["", *answer.names], rows))


def _provenance(answer: Answer) -> str:
    rows = [
        [name, ", ".join(f"{count} {key}" for key, count in value.items() if count)
         if isinstance(value, dict) else value]
        for name, value in answer.provenance.items()
        if value not in (None, {})
    ]  # fmt: skip
    return page.section("Where it comes from", page.table(["", ""], rows))
