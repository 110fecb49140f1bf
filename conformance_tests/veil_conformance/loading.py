"""Finding an implementation by name, and handing it to the tests."""

import importlib
import inspect
from collections.abc import Callable
from typing import Final, cast

import pytest

from veil_conformance.process import Limits, Plugin
from veil_conformance.program import PREFIX, NotStarted, Trouble, words
from veil_spec import __version__
from veil_spec.interface import Implementation

DEFAULT_FACTORY: Final = "implementation"
"""The factory where --impl names none."""
OPERATIONS: Final = frozenset(
    name for name, member in vars(Implementation).items() if inspect.isfunction(member)
) - {name for name in vars(Implementation) if name.startswith("_")}
"""Every operation that an implementation may claim."""


class Unusable(Exception):
    """Raised with one line that says why there is nothing to test."""


def load(name: str, limits: Limits | None = None) -> Implementation:
    """Return the implementation that a name leads to: `module`, `module:factory` or `exec:PROGRAM ARGUMENTS`.

    Raises: Unusable if there is none.
    """
    if name.startswith(PREFIX):
        return checked(_started(name.removeprefix(PREFIX), limits), name)
    module_name, _, factory_name = name.partition(":")
    factory = _factory(module_name, factory_name or DEFAULT_FACTORY)
    try:
        found = factory()
    except Exception as error:
        raise Unusable(f"{name}: the factory raised {_brief(error)}") from error
    return checked(found, name)


def _started(line: str, limits: Limits | None) -> Plugin:
    try:
        plugin = Plugin(words(line), limits)
    except NotStarted as error:
        raise Unusable(f"{PREFIX}{line}: {error}") from None
    except Trouble as trouble:
        raise Unusable(f"{PREFIX}{line}: {trouble.name}: {trouble}") from None
    claimed = set(plugin.about.operations)
    if ("word" in claimed) != bool(claimed & {"seeded_tape", "listed_tape"}):
        plugin.close()
        raise Unusable(f"{PREFIX}{line}: word comes with seeded_tape or listed_tape, and neither without it")
    return plugin


def _factory(module_name: str, factory_name: str) -> Callable[[], object]:
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise Unusable(f"cannot import {module_name!r}: {_brief(error)}") from error
    factory: object = getattr(module, factory_name, None)
    if not callable(factory):
        raise Unusable(f"{module_name} has no factory {factory_name!r}; name one with --impl module:factory")
    return factory


def checked(found: object, name: str) -> Implementation:
    """Return what a factory made, if it is an implementation of this version; Unusable if not."""
    for attribute, kind in (("name", str), ("spec_version", str), ("operations", frozenset)):
        if not isinstance(getattr(found, attribute, None), kind):
            raise Unusable(f"{name}: the implementation has no {attribute} of type {kind.__name__}")
    implementation = cast(Implementation, found)
    if implementation.spec_version != __version__:
        raise Unusable(
            f"{name} implements version {implementation.spec_version}; this suite tests {__version__}"
        )
    unknown = sorted(map(str, implementation.operations - OPERATIONS))
    if unknown or not implementation.operations:
        raise Unusable(
            f"{name} claims {'unknown operations: ' + ', '.join(unknown) if unknown else 'no operation'}"
        )
    return implementation


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Claimed:
    """An implementation as the tests see it: touching an operation that it does not claim skips the test."""

    def __init__(self, implementation: Implementation, operations: frozenset[str]) -> None:
        self._implementation, self._operations = implementation, operations
        self.touched: set[str] = set()
        """Operations that were touched since somebody cleared it."""

    def __getattr__(self, name: str) -> object:
        """Return an attribute of the implementation; skip if it is an operation that is not claimed."""
        if name in OPERATIONS:
            self.touched.add(name)
            if name not in self._operations:
                pytest.skip(f"not claimed: {name}")
        found: object = getattr(self._implementation, name)
        return found
