"""Inference: posterior draws for observations."""
