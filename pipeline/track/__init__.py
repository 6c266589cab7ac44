"""Tracking: what the run directory holds, written to MLflow."""
