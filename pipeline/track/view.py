"""How MLflow's page of an experiment opens: which columns and charts it has."""

from __future__ import annotations

import json

VIEW = "sbiflow"  # name of the shared view
MODE = "workflowType=machine_learning"  # of MLflow's pages; the other one shows traces and tokens
TRAININGS = "tags.`sbiflow.kind` = 'training'"
COLUMNS = (
    "metrics.`quality/ece.max`",
    "metrics.`quality/c2st.mean`",
    "metrics.`quality/nrmse.mean`",
    "metrics.`loss/validation`",
    "params.`budget`",
    "params.`estimator.name`",
    "params.`simulator.name`",
)


def view_tags() -> dict[str, str]:
    """Return the experiment's tags that hold the view, which an address with its name opens."""
    state = {
        "selectedColumns": list(COLUMNS),
        "searchFilter": TRAININGS,
        "orderByKey": COLUMNS[0],  # by its start, MLflow would hide trainings below their run
        "orderByAsc": True,
    }
    return {f"mlflow.sharedViewState.{VIEW}": json.dumps(state)}
