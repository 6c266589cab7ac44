"""Programs that tests need: where one is missing they are skipped, as the summary says; in CI they fail."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, package: str) -> NoReturn:
    """Skip a test because a program is not installed; in CI (`CI` is set) fail it."""
    message = f"NOT TESTED HERE: {what}; install it with: {package}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
