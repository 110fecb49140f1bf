"""Null-space nearest neighbour: real-valued masks in the row space of a public basis.

Definition: C = X + S A over the reals, N an orthonormal basis of the null space of A from the QR of its
transpose; argmin over v of |C_i N - E[v] N|. C N = X N up to rounding, whatever the scale of S is.
Source: arXiv 2603.00196, appendix B.2 (a mask must span the space, else one projects on the complement).
Cost: one QR of width x width, and a matrix product of n x (width - m) x vocabulary.
Breaks: real-valued masks of rank m < width, at every scale in float32 and at moderate scales in bfloat16.

The names below `ATTACK` are those of earlier versions; they live in base.py, modular.py and annihilator.py.
"""

import numpy as np

from veil_conformance.attacks import base, nearest
from veil_conformance.attacks.annihilator import Guess, Seen, guesses, recover, seen
from veil_conformance.attacks.base import Attack, Guesses, Public, Sighting, View, Vocabulary, vocabulary
from veil_conformance.attacks.modular import Floats, centred, multiplied, null_vectors
from veil_conformance.attacks.view import simulate

__all__ = [
    "ATTACK",
    "Guess",
    "Seen",
    "Vocabulary",
    "centred",
    "guess",
    "guesses",
    "multiplied",
    "null_vectors",
    "recover",
    "seen",
    "simulate",
    "vocabulary",
]


def complement(basis: Floats) -> Floats:
    """Return an orthonormal basis of the null space of a real basis [m, width], as columns."""
    rank = int(np.linalg.matrix_rank(basis))
    return np.linalg.qr(basis.T, mode="complete")[0][:, rank:]


def matched(words: Vocabulary, found: Sighting) -> Guesses:
    """Return the nearest token in the null space for each row; none without a real-valued basis."""
    if found.basis is None or found.modulus is not None:
        return [None] * len(found.positions)
    vectors = complement(found.basis)
    if not vectors.shape[1]:
        return [None] * len(found.positions)
    return list(nearest.nearest(found.lifted @ vectors, words.rows @ vectors))


def guess(public: Public, view: View) -> Guesses:
    """Return the nearest token in the null space, or in the whole space where there is none."""
    guesses: Guesses = [None] * view.tokens
    for found in view.of():
        guesses = base.placed(view, found, matched(public.words, found), guesses)
    return nearest.filled(public, view, guesses)


ATTACK = Attack(
    name="null-space nearest neighbour",
    source="arXiv 2603.00196, appendix B.2",
    cost="width^3 once a basis, then n (width - m) vocabulary",
    breaks=("real rank",),
    guess=guess,
)
