"""The parts of the report and of the way into MLflow: what a run holds, shown."""
