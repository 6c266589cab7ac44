"""Simulating by any number of processes that share nothing but a folder."""
