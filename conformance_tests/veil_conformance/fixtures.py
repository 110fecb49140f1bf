"""The fixture through which every test reaches the implementation under test."""

from typing import Final

import pytest

from veil_spec.interface import Implementation

SUBJECT: Final = pytest.StashKey[Implementation]()
"""Where a run keeps its implementation."""


@pytest.fixture(scope="session")
def impl(pytestconfig: pytest.Config) -> Implementation:
    """Return the implementation under test."""
    return pytestconfig.stash[SUBJECT]
