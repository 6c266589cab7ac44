"""Evaluation: metrics of a posterior over the test simulations."""
