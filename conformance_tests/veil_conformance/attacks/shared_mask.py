"""One mask for all layers: the mask cancels between two layers of one token, in the whole space.

Definition: C_i = H_i + M and C_j = H_j + M give C_i - C_j = H_i - H_j, also where M has full rank. The token
is the candidate whose own difference, after the recovered prefix, equals the seen one.
Source: arXiv 2603.00196, Algorithm 1, which draws one mask for all layers.
Cost: tokens x candidates forward passes up to the later layer.
Breaks: a mask that is used again in another layer, at every rank, m = width included.
"""

from dataclasses import replace

import numpy as np

from veil_conformance.attacks import modular
from veil_conformance.attacks.base import GROUP, Attack, Guesses, Public, Sighting, View
from veil_conformance.attacks.sequential import TAPS, Probe, matched


def partner(public: Public, view: View) -> tuple[Sighting, Sighting] | None:
    """Return a token's sightings in layer 0 and in the earliest later tap of that width and field, if any."""
    first = next(view.of(GROUP), None)
    if public.model is None or first is None:
        return None
    for tap in sorted({tap(public.model.shape.layers) for tap in TAPS.values()} - {GROUP}):
        for other in view.of(tap):
            same = other.modulus == first.modulus and other.masked.shape == first.masked.shape
            if same and np.array_equal(other.positions, first.positions):
                return first, other
    return None


def difference(first: Sighting, other: Sighting) -> Sighting:
    """Return what is left of two layers' rows when a common mask cancels, with no basis."""
    if first.modulus is None:
        rows = first.masked - other.masked
    else:
        rows = modular.subtracted(first.masked, other.masked, first.modulus)
    return replace(first, masked=rows, basis=None)


def guess(public: Public, view: View) -> Guesses:
    """Return the token of each position whose difference between two layers is nearest to the seen one."""
    pair = partner(public, view)
    if pair is None:
        return [None] * view.tokens
    (first, other), factor = pair, pair[1].scale / pair[0].scale
    probe = Probe(
        (first.tap, other.tap),
        lambda rows: rows[first.tap] - rows[other.tap] * factor,
        difference(first, other),
    )
    return matched(public, view, probe)


ATTACK = Attack(
    name="shared mask",
    source="arXiv 2603.00196, Algorithm 1",
    cost="tokens candidates forward passes",
    breaks=("one mask", "real one mask"),
    guess=guess,
    needs_model=True,
)
