"""One real SLURM for all tests that need it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm as real
from tests.real import missing


@pytest.fixture(scope="session")
def _slurm() -> Iterator[real.Slurm]:
    reason = real.obstacle()
    if reason:
        missing(f"SLURM ({reason})", "apt-get install slurm-wlm munge, as root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets need a short path
    try:
        with real.running(folder) as slurm:
            yield slurm
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def slurm(_slurm: real.Slurm) -> Iterator[real.Slurm]:
    """A SLURM whose queue is empty, before and after."""
    yield _slurm
    _slurm.clear()
