"""Inverse solvers against exact posteriors, and the claims of the consistency paper tested one by one."""
