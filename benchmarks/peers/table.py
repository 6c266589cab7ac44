"""The tables of a comparison, in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

Line = Mapping[str, Any]


def table(lines: Sequence[Line]) -> str:
    """Return one table of speed in training, one of accuracy; means over the seeds."""
    groups: dict[tuple[str, str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        key = line["contest"], line["package"], line["entry"], str(line["arguments"])
        groups[key].append(line)
    speed = [_speed(key, found) for key, found in groups.items() if not found[0]["drawing"]]
    accuracy = [
        _accuracy(key, found, passes)
        for key, found in groups.items()
        for passes in found[0]["drawing"]
    ]
    text = [_markdown(rows) for rows in (speed, accuracy) if rows]
    return "\n\n".join(text)


def _speed(key: tuple[str, ...], found: Sequence[Line]) -> dict[str, str]:
    row = {"contest": key[0], "package": key[1], "entry": key[2], "runs": str(len(found))}
    for clock in ("processor", "wall"):
        rates = [line["steps_per_s"][clock] for line in found]
        row[f"steps per s ({clock})"] = _spread(rates, 0)
    milliseconds = [1000 / line["steps_per_s"]["processor"] for line in found]
    row["ms per step"] = _spread(milliseconds, 2)
    warm = [line["warm_up"] for line in found]
    row["warm-up: steps, s"] = f"{warm[0]['steps']}, {mean(w['processor'] for w in warm):.1f}"
    phases = [line["phases_steps_per_s"] for line in found if "phases_steps_per_s" in line]
    row["by phase"] = ", ".join(
        f"{mean(rates[phase]['processor'] for rates in phases):.0f}"
        for phase in (phases[0] if phases else ())
    )
    return row


def _accuracy(key: tuple[str, ...], found: Sequence[Line], passes: str) -> dict[str, str]:
    costs = [line["drawing"][passes] for line in found]
    row = {"contest": key[0], "package": key[1], "entry": key[2]}
    row |= {"passes": "default" if passes == "None" else passes, "seeds": str(len(found))}
    scores = [cost["c2st"] for cost in costs if cost["c2st"] is not None]
    row["C2ST"] = _spread(scores, 3) if scores else "not finite"
    row["training s"] = _spread([line["training_s"]["processor"] for line in found], 0)
    for name in ("together", "one"):
        seconds = [cost[f"{name}_processor_s"] for cost in costs]
        row[f"s per 1000 ({name})"] = f"{mean(seconds):.4f}"
    return row


def _spread(values: Sequence[float], digits: int) -> str:
    """Return the mean and the standard error."""
    text = f"{mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {stdev(values) / len(values) ** 0.5:.{digits}f}"
    return text


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])
