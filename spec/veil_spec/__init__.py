"""The shared vocabulary of Veil: constants, types, refusals and interfaces, and no algorithms."""

from typing import Final

__version__: Final = "0.4.0"
"""The specification's version: part of every tape's domain tag and of every message."""
