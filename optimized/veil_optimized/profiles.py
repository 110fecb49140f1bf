"""The mask profiles behind one interface: what is sent for a row, and how the answer is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

import torch

from veil_optimized import lwe, remo, steps
from veil_optimized.remo import Minter, Outsourced, RankMinter, Ratchet, Rows
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

PROFILES: Final = ("pad", "lwe", "rank")
Hidden = tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]
"""Masked rows [n, inner], and what turns the worker's product into the plain one, int64 [n, outputs]."""


@dataclass(frozen=True, slots=True)
class Masking:
    """How an epoch masks: a profile, m / width for `rank`, and in tests a seed: else the system gives one."""

    profile: str = "pad"
    rank: Fraction | None = None
    check: bool = True
    seed: bytes | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise Refused(
                Refusal.MODE_UNAVAILABLE, f"profile {self.profile!r} is not one of {', '.join(PROFILES)}"
            )
        if (self.profile == "rank") != (self.rank is not None):
            raise Refused(
                Refusal.RANK_OUT_OF_RANGE, "profile rank needs --m-over-d, and no other profile takes it"
            )

    @property
    def private(self) -> bool:
        """Return whether the guarantees of spec/remo.md cover this epoch."""
        return self.profile != "rank" and self.check and self.seed is None


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a worker multiplies by for one group; weights int16 or int8 [outputs, inner], as it is sent."""

    number: int
    weights: torch.Tensor
    modulus: int


class Profile(Protocol):
    """A way to mask; `macs` counts its multiplications."""

    @property
    def macs(self) -> int:
        """Return the multiplications so far."""
        ...

    def sent(self, group: Outsourced) -> Outsourced:
        """Return the matrix and field that the worker multiplies in for a group. Refuses: LWE_UNSUITABLE."""
        ...

    def basis(self, group: Outsourced) -> torch.Tensor | None:
        """Return a group's public basis [m, inner], which is sent before any row, if the profile has one."""
        ...

    def publish(self, group: Outsourced, basis: torch.Tensor, image: torch.Tensor) -> None:
        """Keep a basis with its image under the matrix that is sent."""
        ...

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on that so many rows can be masked in."""
        ...

    def ahead(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Prepare steps first_step to first_step + steps - 1, of so many rows, where that can be done."""
        ...

    def close(self) -> None:
        """Overwrite what is left of masks."""
        ...

    def hide(self, group: Outsourced, step: int, rows: torch.Tensor) -> Hidden:
        """Return masked rows and what opens the answer. Refuses: PAD_REUSED, what `mask` refuses."""
        ...


class Padded:
    """Additive pads from a minter: profiles `pad` and, with its minter, `rank`."""

    def __init__(self, minter: Minter) -> None:
        self.minter = minter

    @property
    def macs(self) -> int:
        """Return the multiplications of the minter."""
        return self.minter.macs

    def sent(self, group: Outsourced) -> Outsourced:
        """Return the group itself."""
        return group

    def basis(self, group: Outsourced) -> torch.Tensor | None:
        """Return nothing: pads have no basis."""
        return None

    def publish(self, group: Outsourced, basis: torch.Tensor, image: torch.Tensor) -> None:
        """Return nothing: there is no basis to keep."""

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on that the minter has pads for."""
        return self.minter.first_step(group, step, rows)

    def ahead(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Let the minter prepare pads."""
        self.minter.mint(groups, first_step, steps, rows)

    def hide(self, group: Outsourced, step: int, rows: torch.Tensor) -> Hidden:
        """Return rows plus pads; pads and, once used, corrections are overwritten.

        Refuses: PAD_REUSED, what `mask` refuses.
        """
        pads, correction = self.minter.take(group, step, len(rows))
        masked = steps.chosen().mask(rows, pads, group.modulus)
        pads.zero_()

        def reveal(product: torch.Tensor) -> torch.Tensor:
            plain = steps.chosen().unmask(product, correction, group.modulus)
            correction.zero_()
            return plain

        return masked, reveal

    def close(self) -> None:
        """Let the minter overwrite what is left."""
        self.minter.close()


class Ranked(Padded):
    """The paper's masks: a public basis for each group. Not private."""

    def __init__(self, ratchet: Ratchet, ratio: Fraction) -> None:
        self._ranked = RankMinter(ratchet)
        super().__init__(self._ranked)
        self._tape, self._ratio = ratchet.tape(0), ratio

    def basis(self, group: Outsourced) -> torch.Tensor:
        """Return the basis, m = floor(ratio * inner) rows. Refuses: RANK_OUT_OF_RANGE."""
        width = group.weights.shape[1]
        return remo.rank_basis(self._tape, group.number, int(self._ratio * width), width, group.modulus)

    def publish(self, group: Outsourced, basis: torch.Tensor, image: torch.Tensor) -> None:
        """Keep a basis with its image."""
        self._ranked.publish(group, basis, image)


class Lwe:
    """Learning with errors: a public basis for each group, a secret and noise for each row."""

    def __init__(self, ratchet: Ratchet) -> None:
        self._ratchet, self._tape = ratchet, ratchet.tape(0)
        self._used = remo.Addresses()
        self._bases: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.macs = 0

    def sent(self, group: Outsourced) -> Outsourced:
        """Return the high and low bytes of the weights, over q. Refuses: LWE_UNSUITABLE."""
        lwe.check_outputs(*group.weights.shape)
        return Matrix(group.number, lwe.halves(group.weights), constants.LWE_MODULUS)

    def basis(self, group: Outsourced) -> torch.Tensor:
        """Return the basis, m of RMO-R13 rows."""
        inner = group.weights.shape[1]
        return lwe.lwe_basis(self._tape, group.number, lwe.lwe_dimension(inner), inner)

    def publish(self, group: Outsourced, basis: torch.Tensor, image: torch.Tensor) -> None:
        """Keep a basis with its image."""
        self._bases[group.number] = basis, image

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on whose seed is there."""
        return self._ratchet.first_open(step)

    def ahead(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Return nothing: no work is done ahead yet."""

    def close(self) -> None:
        """Return nothing: what is left is the ratchet's."""

    def hide(self, group: Outsourced, step: int, rows: torch.Tensor) -> Hidden:
        """Return D X + S A + E and what rounds it away. Refuses: PAD_REUSED, what `lwe_mask` refuses."""
        self._used.burn(group.number, step)
        tape, (basis, hint) = self._ratchet.tape(step), self._bases[group.number]
        self._ratchet.forget_before(step)
        self.macs += len(rows) * len(basis) * (basis.shape[1] + hint.shape[1])
        masked = lwe.lwe_mask(tape, basis, group.number, step, rows)
        return masked, lambda product: lwe.lwe_unmask(tape, product, hint, group.number, step, basis.shape[1])


def profile_of(masking: Masking, ratchet: Ratchet, minter: Minter | None = None) -> Profile:
    """Return the profile of an epoch; `minter` takes the place of the local one.

    Refuses: MODE_UNAVAILABLE.
    """
    if minter is not None and masking.profile != "pad":
        raise Refused(Refusal.MODE_UNAVAILABLE, f"profile {masking.profile} takes no minter: use profile pad")
    if masking.rank is not None:
        return Ranked(ratchet, masking.rank)
    return Lwe(ratchet) if masking.profile == "lwe" else Padded(minter or remo.LocalMinter(ratchet))
