"""LWE with its noise removed: the annihilator of the public basis over q = 2^64 - 59 opens every row.

Definition: C = D X + S A + E mod q. For N with A N = 0, C N = D X N + E N: with E = 0 the images of the
vocabulary, times D, are looked up; with E uniform in its bounds E N is as large as q.
Source: spec/remo.md RMO-A3; arXiv 2603.00196 for the mask without noise.
Cost: elimination of m x (m + 4) elements over F_q, then vocabulary x width.
Breaks: profile `lwe` with its noise left out, for m < width.
"""

from veil_conformance.attacks import annihilator, base, nearest
from veil_conformance.attacks.base import Attack, Guesses, Public, View
from veil_spec import constants


def guess(public: Public, view: View) -> Guesses:
    """Return what the annihilator over F_q names, or else the nearest token."""
    guesses: Guesses = [None] * view.tokens
    for seen in view.of():
        if seen.modulus == constants.LWE_MODULUS:
            guesses = base.placed(view, seen, annihilator.looked_up(public.words, seen), guesses)
    return nearest.filled(public, view, guesses)


ATTACK = Attack(
    name="LWE without noise",
    source="RMO-A3",
    cost="m^3 once a basis, then vocabulary width",
    breaks=("lwe without noise",),
    guess=guess,
)
