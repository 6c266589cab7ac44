"""Tracking with MLflow: what a run holds as records, written to a server or to the run's own database.

`record.py` says what one MLflow run holds, `publisher.py` writes records and sends only what the server lacks,
`model.py` logs and registers posteriors, `local.py` keeps the database of a run, `database.py` its file.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # it logs tracebacks of what it raises
os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")  # a database may be renamed
