"""Fixtures of the house's own tests; nothing here belongs to the shipped suite."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the tree under test."""
    return Path(__file__).resolve().parent.parent
