"""One-off experiments: what was tried to decide something, kept so that it can be repeated.

They are no part of the package; run them in a clone, `python -m experiments.NAME`. The verdicts are in
`docs/experiments.md`.
"""
