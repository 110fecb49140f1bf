"""Nearest neighbour: the token whose layer-0 input is closest to the masked row.

Definition: argmin over v of |C_i - E[v]|, E the normalised vocabulary; field elements are centred first.
Source: arXiv 2603.00196 (its attackers use no more than C), arXiv 2305.18462.
Cost: one matrix product of n x width x vocabulary.
Breaks: a real-valued mask that is small against the activations; rows that are not masked at all.
"""

import numpy as np
from numpy.typing import NDArray

from veil_conformance.attacks.base import BATCH, Attack, Guesses, Public, View
from veil_conformance.attacks.modular import Floats


def nearest(points: Floats, rows: NDArray[np.int16] | Floats) -> list[int]:
    """Return for each point [n, k] the row of [vocabulary, k] at the least distance."""
    best, token = np.full(len(points), -np.inf), np.zeros(len(points), dtype=np.int64)
    for start in range(0, len(rows), BATCH):
        piece = rows[start : start + BATCH].astype(np.float64)
        scores = 2 * points @ piece.T - np.square(piece).sum(-1)
        ahead = scores.max(-1) > best
        token[ahead] = start + scores[ahead].argmax(-1)
        best[ahead] = scores[ahead].max(-1)
    return [int(number) for number in token]


def filled(public: Public, view: View, guesses: Guesses) -> Guesses:
    """Return the guesses with the nearest neighbour in place of none, where a row of group 0 shows one."""
    for seen in view.of():
        open_rows = [row for row, position in enumerate(seen.positions) if guesses[position] is None]
        if open_rows:
            found: Guesses = list(nearest(seen.lifted[open_rows], public.words.rows))
            for row, token in zip(open_rows, found, strict=True):
                guesses[int(seen.positions[row])] = token
    return guesses


def guess(public: Public, view: View) -> Guesses:
    """Return the nearest token for each row of group 0."""
    return filled(public, view, [None] * view.tokens)


ATTACK = Attack(
    name="nearest neighbour",
    source="arXiv 2603.00196, arXiv 2305.18462",
    cost="n width vocabulary",
    breaks=("no mask",),
    guess=guess,
)
