"""Row-space membership: mixing the rows of a message with a secret matrix hides no row that is in it.

Definition: U = B [H; shields], B secret and invertible: the row space of U is that of its rows. Token v is in
the message iff E[v] lies in it; over a field by an annihilator of U, over the reals by the distance.
Source: arXiv 2603.05035 (GELO, the target); the attack is Veil's.
Cost: elimination or QR of n x width, then vocabulary x n x width; n plus shields must be below width.
Breaks: row mixing. It tells which tokens a message has, not their order or number.
"""

import numpy as np

from veil_conformance.attacks import base, modular, nearest
from veil_conformance.attacks.base import Attack, Guesses, Public, Sighting, View, Vocabulary

TOLERANCE = 1e-6
"""Largest squared distance to the row space, as part of the squared length, that counts as 0."""


def members(words: Vocabulary, seen: Sighting) -> list[int]:
    """Return the tokens whose rows lie in the row space of a message; none if it spans everything."""
    if len(seen.masked) >= seen.masked.shape[1]:
        return []
    if seen.modulus is not None:
        vectors = modular.null_vectors(seen.masked, seen.modulus)
        inside = ~base.images(words.rows, vectors, seen).any(axis=1)
    else:
        directions = np.linalg.qr(seen.masked.T)[0]
        rows = words.rows.astype(np.float64)
        length = np.square(rows).sum(-1)
        inside = length - np.square(rows @ directions).sum(-1) < TOLERANCE * length
    return [int(token) for token in np.flatnonzero(inside)]


def guess(public: Public, view: View) -> Guesses:
    """Return each message's tokens, in no order, and the nearest neighbour where there are too few."""
    guesses: Guesses = [None] * view.tokens
    for seen in view.of():
        found: Guesses = list(members(public.words, seen))
        guesses = base.placed(view, seen, found[: len(seen.positions)], guesses)
    return nearest.filled(public, view, guesses)


ATTACK = Attack(
    name="row-space membership",
    source="against arXiv 2603.05035",
    cost="n^2 width, then vocabulary n width",
    breaks=("row mixing", "real row mixing"),
    guess=guess,
    unordered=True,
)
