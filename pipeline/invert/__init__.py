"""Inverse problems: draws given a measurement by any operator, from a prior that was trained without it."""
