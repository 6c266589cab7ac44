"""The files of an answer: draws for numpy and ArviZ, the table, the checks, and the page.

draws.npz     theta, names, observation/NAME
answer.nc     an ArviZ data tree
summary.csv   a line for each parameter
answer.html   the page
answer.json   checks and numbers, sealed, written last
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pipeline.answer.answer import Answer
from pipeline.answer.page import answer_page
from pipeline.files import write_arrays, write_document, write_whole, writing


def write(answer: Answer, folder: Path) -> Answer:
    """Write all files into a folder; return the answer that knows it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"observation/{name}": values for name, values in answer.observed.items()}
        arrays |= {"theta": answer.draws.astype(np.float32), "names": np.array(answer.names)}
        write_arrays(folder / "draws.npz", arrays)
        part = folder / f".answer.nc.{os.getpid()}"
        try:
            answer.to_arviz().to_netcdf(part, engine="h5netcdf")
            os.replace(part, folder / "answer.nc")
        finally:
            part.unlink(missing_ok=True)
        write_whole(folder / "summary.csv", _csv(answer))
        write_whole(folder / "answer.html", answer_page(answer))
        write_document(folder / "answer.json", _content(answer))
    return replace(answer, path=folder)


def _csv(answer: Answer) -> str:
    text, rows = io.StringIO(), answer.rows()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _content(answer: Answer) -> dict[str, object]:
    return {
        "format": 1,
        "parameters": answer.rows(),
        "probabilities": answer.probabilities,
        "correlation": answer.marginals.correlation.tolist(),
        "checks": [asdict(check) for check in answer.checks],
        "rests_on": answer.rests_on,
        "budgets": answer.budgets,
        "provenance": answer.provenance,
    }
