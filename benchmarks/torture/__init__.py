"""The torture test: injure a run at random, use it as people do, repeat it, compare with a quiet run.

`python -m benchmarks.torture` is the command, `make torture` its usual form; see `__main__.py`.
"""
