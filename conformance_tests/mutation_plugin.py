"""A pytest plug-in for mutmut, which calls pytest itself: the suite's tests on the mutated reference."""

from typing import cast

import pytest

from veil_conformance import fixtures, runner
from veil_conformance.fixtures import impl
from veil_reference import implementation
from veil_spec.interface import Implementation

__all__ = ["impl", "runner"]


def pytest_configure(config: pytest.Config) -> None:
    """Leave the reference where the fixture `impl` finds it. The runner has registered the profile."""
    config.stash[fixtures.SUBJECT] = cast(Implementation, implementation())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring tests, which mutmut names in no order, into that of the files, vectors first: these are fast."""
    items.sort(key=lambda item: (not item.name.startswith("test_a_vector["), item.location))
