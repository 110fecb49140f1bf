"""All attacks, in the order of a report."""

from typing import Final

from veil_conformance.attacks import (
    annihilator,
    maximum_likelihood,
    nearest,
    noiseless_lwe,
    null_space,
    reused_mask,
    row_mixing,
    sequential,
    shared_mask,
    stacked_bases,
    static_basis,
)
from veil_conformance.attacks.base import Attack

ATTACKS: Final[tuple[Attack, ...]] = (
    nearest.ATTACK,
    null_space.ATTACK,
    annihilator.ATTACK,
    stacked_bases.ATTACK,
    shared_mask.ATTACK,
    *reused_mask.ATTACKS,
    static_basis.ATTACK,
    maximum_likelihood.ATTACK,
    *sequential.ATTACKS,
    row_mixing.ATTACK,
    noiseless_lwe.ATTACK,
)
"""Every attack of the suite."""
