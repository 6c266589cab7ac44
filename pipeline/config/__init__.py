"""The configuration of a run: its schema, and how it is read, compared with that of the run, and kept."""

from pipeline.config.comparison import differences, flat, resolve
from pipeline.config.reading import build, override, parse, read, text
from pipeline.config.record import kept, load, mend, save
from pipeline.config.schema import IMPORTED, Config, TrainConfig, digest
from pipeline.config.simulator import simulator_of

__all__ = [
    "IMPORTED",
    "Config",
    "TrainConfig",
    "build",
    "differences",
    "digest",
    "flat",
    "kept",
    "load",
    "mend",
    "override",
    "parse",
    "read",
    "resolve",
    "save",
    "simulator_of",
    "text",
]
