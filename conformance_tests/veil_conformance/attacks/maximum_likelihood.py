"""Maximum likelihood: real-valued masks, weighed by their covariance, over all copies of a row.

Definition: C_k = X + S_k A_k + rounding, with Cov_k = sigma^2 A_k' A_k + (u^2 / 3) I, u half a rounding step;
argmax over v of the sum over k of the Gaussian log density of C_k - E[v]. Copies of a row under one basis
average out: the covariance of k of them is Cov / k.
Source: arXiv 2505.13758 (BeamClean) for the Gaussian likelihood; Mahalanobis 1936.
Cost: one inverse of width x width a basis, and a matrix product of n x width x vocabulary.
Breaks: a real-valued mask of full rank (m = width) with a public basis; white noise over enough copies.
"""

import numpy as np

from veil_conformance.attacks import base, nearest
from veil_conformance.attacks.base import GROUP, Attack, Guesses, Public, Sighting, View, Vocabulary
from veil_conformance.attacks.modular import Floats

ROUNDING = 2.0**-24
"""Half a rounding step of float32 against the largest value."""
RELATIVE = 1e-12
"""Least variance of a direction against the mean one: float64 inverts such a covariance."""


def precision(seen: Sighting) -> Floats:
    """Return the inverse covariance [width, width] of a masked row, up to a factor if nothing is known."""
    width = seen.masked.shape[1]
    if seen.basis is None or seen.modulus is not None:
        return np.eye(width)
    covariance = (seen.spread / seen.scale) ** 2 * seen.basis.T @ seen.basis
    floor = ROUNDING**2 * float(np.square(seen.lifted).max()) + RELATIVE * np.trace(covariance) / width
    return np.asarray(np.linalg.inv(covariance + floor * np.eye(width)))


def most_likely(words: Vocabulary, alike: list[Sighting]) -> list[int]:
    """Return for each row the token of the largest likelihood, given sightings of the same tokens."""
    matrices = [precision(seen) for seen in alike]
    joint = np.sum(matrices, axis=0)
    pulled = np.sum([seen.lifted @ matrix for seen, matrix in zip(alike, matrices, strict=True)], axis=0)
    # Factor L L' = joint: the joint density is that of the row at distance |x L^-T' - v L|.
    factor = np.linalg.cholesky(joint)
    centre = np.linalg.solve(factor, pulled.T).T
    return nearest.nearest(centre, words.rows @ factor)


def guess(public: Public, view: View) -> Guesses:
    """Return the most likely token for each row of group 0."""
    guesses: Guesses = [None] * view.tokens
    for alike in view.alike(GROUP):
        named: Guesses = list(most_likely(public.words, alike))
        guesses = base.placed(view, alike[0], named, guesses)
    return nearest.filled(public, view, guesses)


ATTACK = Attack(
    name="maximum likelihood",
    source="arXiv 2505.13758",
    cost="width^3 once a basis, then n width vocabulary",
    breaks=("real full rank",),
    guess=guess,
)
