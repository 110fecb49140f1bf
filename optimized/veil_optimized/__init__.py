"""The optimized code: Veil for running, on arrays and tensors, in two processes."""

from veil_spec.interface import Implementation

__all__ = ["implementation"]


def implementation() -> Implementation:
    """Return the optimized code as a subject of `python -m veil_conformance --impl veil_optimized`."""
    from veil_optimized.implementation import Optimized

    return Optimized()
