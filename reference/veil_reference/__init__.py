"""The reference: Veil for reading, with nothing but Python's standard library, integers and fractions."""

from veil_reference.implementation import Reference

__all__ = ["implementation"]


def implementation() -> Reference:
    """Return the reference as a subject of `python -m veil_conformance --impl veil_reference`."""
    return Reference()
