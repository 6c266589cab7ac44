"""Rounds of simulations for one observation: truncated sequential inference."""
