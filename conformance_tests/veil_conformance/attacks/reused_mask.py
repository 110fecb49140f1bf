"""Reused private mask: two tokens, or two layers, under one private factor S.

Definition, two tokens: C_1 - C_2 = X_1 - X_2 names the pair (a, b) of the vocabulary whose E[a] - E[b] equals
it; E[a] - (C_1 - C_2) is looked up for every a by a fingerprint that is linear over the integers. Two layers
with public bases A_0 and A_1: [C_0 C_1] = [H_0 H_1] + S [A_0 A_1] has an annihilator of dimension
2 width - m, also where m = width; the sequential matching goes through it.
Source: arXiv 2603.00196, appendix B.2 (freshness); the pair search is the two-time pad's.
Cost: tokens x vocabulary for the pairs; tokens x candidates forward passes for the layers.
Breaks: a mask used for two tokens, at every rank and for full pads; one S for two layers at m <= width.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from veil_conformance.attacks import modular, nearest
from veil_conformance.attacks.base import Attack, Guesses, Public, Sighting, View
from veil_conformance.attacks.sequential import Probe, matched
from veil_conformance.attacks.shared_mask import partner
from veil_spec import constants

REACH = 2 * constants.ACTIVATION_LIMIT
"""Largest absolute difference of two activations: two masks of their own differ by more, somewhere."""
FINGERPRINTS = 20260300196
"""Seed of the weights of fingerprints: they are public and only have to be spread."""


class PairSearch:
    """Finds the pair of vocabulary rows with a given difference, in vocabulary x log steps."""

    def __init__(self, rows: NDArray[np.int16]) -> None:
        self._rows = rows.astype(np.int64)
        weights = np.random.default_rng(FINGERPRINTS).integers(0, 2**63, rows.shape[1], dtype=np.int64)
        self._weights = 2 * weights + 1
        self._prints = self._rows @ self._weights
        self._order = np.argsort(self._prints)
        self._sorted = self._prints[self._order]

    def pair(self, difference: NDArray[np.int64]) -> tuple[int, int] | None:
        """Return (a, b) with rows[a] - rows[b] = difference, if there are such; equal rows name no pair."""
        if not difference.any() or np.abs(difference).max() > REACH:
            return None
        wanted = self._prints - difference @ self._weights
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        for first in np.flatnonzero(self._sorted[places] == wanted):
            second = int(self._order[places[first]])
            if np.array_equal(self._rows[first] - self._rows[second], difference):
                return int(first), second
        return None


def differences(seen: Sighting) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Yield (row, next row, their difference in plaintext units) where a common mask may have cancelled."""
    if seen.modulus is None:
        return
    rows = seen.masked[: len(seen.positions)]
    cancelled = modular.centred(modular.subtracted(rows[:-1], rows[1:], seen.modulus), seen.modulus)
    whole, rest = np.divmod(cancelled, np.int64(seen.scale))
    for row in np.flatnonzero(~rest.any(axis=1)):
        yield int(row), int(row) + 1, whole[row]


def guess_tokens(public: Public, view: View) -> Guesses:
    """Return the pair that each two neighbouring rows name, and the nearest token elsewhere."""
    search, guesses = PairSearch(public.words.rows), list[int | None]([None] * view.tokens)
    for seen in view.of():
        for row, following, difference in differences(seen):
            found = search.pair(difference)
            if found is not None:
                guesses[int(seen.positions[row])], guesses[int(seen.positions[following])] = found
    return nearest.filled(public, view, guesses)


def joined(first: Sighting, other: Sighting) -> Sighting:
    """Return two layers' rows side by side, with their bases side by side if both have one as high."""
    rows = np.concatenate((first.masked, other.masked), axis=1)
    basis = None
    if first.basis is not None and other.basis is not None and len(first.basis) == len(other.basis):
        basis = np.concatenate((first.basis, other.basis), axis=1)
    return replace(first, masked=rows, basis=basis)


def guess_layers(public: Public, view: View) -> Guesses:
    """Return the token of each position whose rows in two layers agree under the joint annihilator."""
    pair = partner(public, view)
    if pair is None:
        return [None] * view.tokens
    taps = pair[0].tap, pair[1].tap
    probe = Probe(taps, lambda rows: np.concatenate([rows[tap] for tap in taps], axis=1), joined(*pair))
    return matched(public, view, probe)


ATTACKS = (
    Attack(
        name="reused mask, two tokens",
        source="arXiv 2603.00196, appendix B.2",
        cost="tokens vocabulary",
        breaks=("mask of two tokens",),
        guess=guess_tokens,
    ),
    Attack(
        name="reused mask, two layers",
        source="arXiv 2603.00196, appendix B.2",
        cost="m^3 once, then tokens candidates forward passes",
        breaks=("mask of two layers",),
        guess=guess_layers,
        needs_model=True,
    ),
)
