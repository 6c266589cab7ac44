"""Simulating: bring a store up to its budget, with actors that may die at any time."""
