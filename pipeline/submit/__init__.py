"""Submission: the stages of a run as jobs of a batch system."""
