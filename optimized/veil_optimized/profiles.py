"""The mask profiles behind one interface: what is sent for a row, and how the answer is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple, Protocol

import torch

from veil_optimized import lwe, remo, steps
from veil_optimized.remo import LocalMinter, Minter, Outsourced, RankMinter, Ratchet, Rows
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

PROFILES: Final = ("pad", "lwe", "rank")


class Hidden(NamedTuple):
    """Masked rows [n, inner], their bytes, and what turns their product into the plain one [n, outputs]."""

    masked: torch.Tensor
    data: bytes
    reveal: Callable[[torch.Tensor], torch.Tensor]


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


class Cover(Protocol):
    """What hides the rows of a group in one step."""

    def hide(self, rows: torch.Tensor) -> Hidden:
        """Return the next rows masked, and what opens the answer. Refuses: what `mask` refuses."""
        ...

    def erase(self) -> None:
        """Overwrite what is left of masks that were not used."""
        ...


class Profile(Protocol):
    """A way to mask; `macs` counts its multiplications."""

    @property
    def macs(self) -> int:
        """Return the multiplications so far."""
        ...

    @property
    def in_parts(self) -> bool:
        """Return whether a step's rows may be hidden part by part."""
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

    @property
    def background(self) -> LocalMinter | None:
        """Return the minter that can work while the worker does, if there is one."""
        ...

    def close(self) -> None:
        """Overwrite what is left of masks."""
        ...

    def cover(self, group: Outsourced, step: int, rows: int) -> Cover:
        """Return what hides so many rows of a group in a step. Refuses: PAD_REUSED, as a minter does."""
        ...


class PadCover:
    """Pads [rows, inner] and their corrections; each is overwritten once it is used."""

    def __init__(self, pads: torch.Tensor, correction: torch.Tensor, modulus: int) -> None:
        self._pads, self._correction, self._modulus = pads, correction, modulus
        self._used = 0

    def hide(self, rows: torch.Tensor) -> Hidden:
        """Return rows plus the next pads. Refuses: SHAPE_MISMATCH, what `mask` refuses."""
        used = slice(self._used, self._used + rows.shape[0])
        if used.stop > self._pads.shape[0]:
            raise Refused(Refusal.SHAPE_MISMATCH, "more rows than pads")
        self._used = used.stop  # whatever happens below: what was overwritten hides nothing
        pads, correction, modulus = self._pads[used], self._correction[used], self._modulus
        masked, data = steps.chosen().mask(rows, pads, modulus)

        return Hidden(masked, data, lambda product: steps.chosen().unmask(product, correction, modulus))

    def erase(self) -> None:
        """Overwrite what is left of pads and corrections: nothing is hidden from here on."""
        self._used = self._pads.shape[0]
        self._pads.zero_()
        self._correction.zero_()


class Padded:
    """Additive pads from a minter: profiles `pad` and, with its minter, `rank`."""

    in_parts = True

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

    @property
    def background(self) -> LocalMinter | None:
        """Return the enclave's own minter."""
        return self.minter if isinstance(self.minter, LocalMinter) else None

    def cover(self, group: Outsourced, step: int, rows: int) -> PadCover:
        """Return the minter's pads. Refuses: PAD_REUSED, as the minter does."""
        return PadCover(*self.minter.take(group, step, rows), group.modulus)

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


class LweCover:
    """Secret and noise of all rows of a step, which have to be hidden at once."""

    def __init__(
        self, tape: SeededTape, about: tuple[int, int], basis: torch.Tensor, hint: torch.Tensor
    ) -> None:
        """Take the tape of a step, (group, step), the group's basis and its image."""
        self._tape, self._about, self._basis, self._hint = tape, about, basis, hint

    def hide(self, rows: torch.Tensor) -> Hidden:
        """Return D X + S A + E and what rounds it away. Refuses: what `lwe_mask` refuses."""
        tape, basis, hint, about = self._tape, self._basis, self._hint, self._about
        masked = lwe.lwe_mask(tape, basis, *about, rows)
        data = steps.chosen().pack(masked, constants.LWE_MODULUS)
        return Hidden(
            masked, data, lambda product: lwe.lwe_unmask(tape, product, hint, *about, basis.shape[1])
        )

    def erase(self) -> None:
        """Return nothing: what is left is the ratchet's."""


class Lwe:
    """Learning with errors: a public basis for each group, a secret and noise for each row."""

    in_parts = False

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

    @property
    def background(self) -> None:
        """Return nothing: there is no minter."""
        return None

    def close(self) -> None:
        """Return nothing: what is left is the ratchet's."""

    def cover(self, group: Outsourced, step: int, rows: int) -> LweCover:
        """Return the step's secret and noise. Refuses: PAD_REUSED."""
        self._used.burn(group.number, step)
        tape, (basis, hint) = self._ratchet.tape(step), self._bases[group.number]
        self._ratchet.forget_before(step)
        self.macs += rows * len(basis) * (basis.shape[1] + hint.shape[1])
        return LweCover(tape, (group.number, step), basis, hint)


def profile_of(masking: Masking, ratchet: Ratchet, minter: Minter | None = None) -> Profile:
    """Return the profile of an epoch; `minter` takes the place of the local one.

    Refuses: MODE_UNAVAILABLE.
    """
    if minter is not None and masking.profile != "pad":
        raise Refused(Refusal.MODE_UNAVAILABLE, f"profile {masking.profile} takes no minter: use profile pad")
    if masking.rank is not None:
        return Ranked(ratchet, masking.rank)
    return Lwe(ratchet) if masking.profile == "lwe" else Padded(minter or remo.LocalMinter(ratchet))
