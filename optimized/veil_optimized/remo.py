"""Masked outsourcing on int64 tensors: the same words as the reference, drawn and multiplied in bulk."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from veil_optimized.field import SIGN_BIT, blocks, check_elements, field_operand, product
from veil_optimized.field import centred as _centred
from veil_optimized.kernels import multiply
from veil_optimized.tape import SeededTape, domain_key, field_elements
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain

__all__ = [
    "Addresses",
    "LocalMinter",
    "Minter",
    "RankMinter",
    "Ratchet",
    "choose_modulus",
    "mask",
    "multiply",
    "pad",
    "ratchet",
    "unmask",
]


def choose_modulus(weights: torch.Tensor) -> int:
    """Return the smallest prime of the specification in which no product with 16-bit activations wraps.

    Implements: RMO-R1, RMO-R2.
    Refuses: WEIGHT_OUT_OF_RANGE, WOULD_WRAP.
    """
    largest = 0
    for _, block in blocks(weights):
        magnitudes = block.abs()
        if float(magnitudes.max()) > constants.WEIGHT_LIMIT:
            raise Refused(Refusal.WEIGHT_OUT_OF_RANGE)
        largest = max(largest, int(magnitudes.sum(-1).max()))
    for modulus in constants.PRIMES:
        if (constants.ACTIVATION_LIMIT + 1) * largest <= (modulus - 1) // 2:
            return modulus
    raise Refused(Refusal.WOULD_WRAP, "no field of the specification holds this layer's products")


def pad_stream(group: int, step: int) -> int:
    """Return the stream of a group's pads in one step.

    Implements: RMO-R6.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    if not (0 <= group < 2**32 and 0 <= step < 2**32):
        raise Refused(Refusal.STREAM_OUT_OF_RANGE)
    return (group << 32) + step


class Addresses:
    """The pad addresses burnt in one epoch."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._lock = threading.Lock()

    def burn(self, group: int, step: int) -> None:
        """Return nothing, and let a group's steps only ever increase.

        Implements: RMO-R11.
        Refuses: PAD_REUSED, STREAM_OUT_OF_RANGE.
        """
        pad_stream(group, step)
        with self._lock:
            if step <= self._last.get(group, -1):
                raise Refused(Refusal.PAD_REUSED)
            self._last[group] = step


def ratchet(seed: bytes | bytearray) -> bytes:
    """Return the seed of the next step: one way, so that a seed says nothing about those before it.

    Implements: RMO-R22.
    """
    return domain_key(seed, Domain.RATCHET)


class Ratchet:
    """The seeded tapes of an epoch's steps. A step that was passed over stays open until it is forgotten.

    Implements: RMO-P3.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = bytearray(seed)
        self._open: dict[int, SeededTape] = {}
        self.next = 0

    def tape(self, step: int) -> SeededTape:
        """Return the tape of a step. Refuses: PAD_REUSED where its seed is gone."""
        while self.next <= step < constants.STEP_LIMIT:
            self._open[self.next] = SeededTape(self._seed)
            self._seed[:] = ratchet(self._seed)
            self.next += 1
        if not self.has(step):
            raise Refused(Refusal.PAD_REUSED, f"the seed of step {step} is gone")
        return self._open[step]

    def has(self, step: int) -> bool:
        """Return whether a step's tape can still be had."""
        return self.next <= step < constants.STEP_LIMIT or step in self._open

    def first_open(self, step: int) -> int:
        """Return the first step from this one on whose tape can still be had."""
        return step if self.has(step) else min([self.next, *(n for n in self._open if n > step)])

    def forget(self, steps: Iterable[int]) -> None:
        """Return nothing, and overwrite what is left of these steps."""
        for step in set(steps) & self._open.keys():
            self._open.pop(step).erase()

    def close(self) -> None:
        """Return nothing, and overwrite all that is left: no step can be had any more."""
        self.next, self._seed[:] = constants.STEP_LIMIT, bytes(len(self._seed))
        self.forget(list(self._open))

    def forget_before(self, step: int) -> None:
        """Return nothing, and overwrite what is left of all steps before this one."""
        self.forget([number for number in self._open if number < step])


def matrix(tape: Tape, domain: Domain, stream: int, rows: int, width: int, modulus: int) -> torch.Tensor:
    """Return field elements [rows, width] of a stream, row after row."""
    return torch.from_numpy(field_elements(tape, domain, stream, 0, rows * width, modulus)).reshape(
        rows, width
    )


def pad(tape: Tape, group: int, step: int, rows: int, width: int, modulus: int) -> torch.Tensor:
    """Return uniform field elements [rows, width]; row r, column c is element r * width + c of its stream.

    Implements: RMO-R7.
    """
    return matrix(tape, Domain.PAD, pad_stream(group, step), rows, width, modulus)


def rank_basis(tape: Tape, group: int, rank: int, width: int, modulus: int) -> torch.Tensor:
    """Return the public basis of a group, uniform field elements [rank, width].

    Source: Talaria, M_pub.
    Implements: RMO-R10.
    Refuses: RANK_OUT_OF_RANGE.
    """
    if not 1 <= rank < width:
        raise Refused(Refusal.RANK_OUT_OF_RANGE)
    return matrix(tape, Domain.RANK_BASIS, group, rank, width, modulus)


def rank_secret(tape: Tape, group: int, step: int, rows: int, rank: int, modulus: int) -> torch.Tensor:
    """Return the private factor of a step's pads, uniform field elements [rows, rank].

    Source: Talaria, M_pvt.
    """
    return matrix(tape, Domain.RANK_MASK, pad_stream(group, step), rows, rank, modulus)


def rank_pad(tape: Tape, basis: torch.Tensor, group: int, step: int, rows: int, modulus: int) -> torch.Tensor:
    """Return the paper's pads M_pvt M_pub [rows, width]: not private, for comparison only.

    Implements: RMO-R9.
    """
    secret = rank_secret(tape, group, step, rows, basis.shape[0], modulus)
    return product(secret, field_operand(basis.T), modulus)


def check_activations(activations: torch.Tensor) -> None:
    """Refuse an empty matrix, and activations of more than 16 bits.

    Refuses: SHAPE_MISMATCH, ACTIVATION_OUT_OF_RANGE.
    """
    if activations.dim() != 2 or not activations.numel():
        raise Refused(Refusal.SHAPE_MISMATCH)
    if max(-int(activations.min()), int(activations.max())) > constants.ACTIVATION_LIMIT:
        raise Refused(Refusal.ACTIVATION_OUT_OF_RANGE)


def mask(activations: torch.Tensor, pads: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return activations plus pads, mod p [rows, width].

    Implements: RMO-R3, RMO-R12.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, ACTIVATION_OUT_OF_RANGE.
    """
    check_elements(pads, modulus)
    if activations.shape != pads.shape:
        raise Refused(Refusal.SHAPE_MISMATCH)
    check_activations(activations)
    return (activations + pads).remainder(modulus)


def unmask(masked_product: torch.Tensor, correction: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return the plain product as integers [rows, outputs]: the centred lift of product minus correction.

    Implements: RMO-R5.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    check_elements(masked_product, modulus)
    check_elements(correction, modulus)
    if masked_product.shape != correction.shape:
        raise Refused(Refusal.SHAPE_MISMATCH)
    rest = masked_product - correction
    return _centred(rest.add_((rest >> SIGN_BIT) & modulus), modulus)


class Outsourced(Protocol):
    """The public facts of a linear group that masking needs."""

    @property
    def number(self) -> int: ...
    @property
    def weights(self) -> torch.Tensor: ...
    @property
    def modulus(self) -> int: ...


Rows = Sequence[int] | None
"""How many rows the pads of each group have; None is one for each."""


class Minter(Protocol):
    """A source of pads with their corrections, each address once; `macs` counts its multiplications."""

    macs: int

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on whose pads can be had for so many rows."""
        ...

    def mint(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Prepare the pads of all groups for some steps, of so many rows, where that can be done ahead."""
        ...

    def close(self) -> None:
        """Overwrite what is left."""
        ...

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads [rows, inner], pads times weights [rows, outputs]); the caller overwrites them."""
        ...


def _first_rows(
    pads: torch.Tensor, corrections: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first rows of pads and their corrections, and overwrite the others."""
    if pads.shape[0] == rows:
        return pads, corrections
    for elements in (pads, corrections):
        elements[rows:].zero_()
    return pads[:rows], corrections[:rows]


@dataclass(slots=True)
class Ahead:
    """A step's pads for a group; the correction comes later, and `left` ends with use."""

    pads: torch.Tensor
    correction: torch.Tensor | None = None
    left: bool = True

    def erase(self) -> None:
        """Overwrite pads and correction."""
        self.left = False
        for elements in (self.pads, self.correction):
            if elements is not None:
                elements.zero_()


class LocalMinter:
    """Mints uniform pads in the enclave, which holds the weights: profile `pad`."""

    def __init__(self, ratchet: Ratchet) -> None:
        self._ratchet = ratchet
        self._used = Addresses()
        self._ahead: dict[int, dict[int, Ahead]] = {}
        self._drawn: deque[tuple[Outsourced, list[Ahead]]] = deque()
        self.macs = 0

    def _corrected(self, group: Outsourced, pads: torch.Tensor) -> torch.Tensor:
        self.macs += pads.shape[0] * group.weights.numel()
        return multiply(pads, group.weights, group.modulus)

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on that has enough pads ready, or whose seed is there."""
        if self._has(group, step, rows):
            return step
        ahead = (number for number in self._ahead if number > step and self._has(group, number, rows))
        return min([self._ratchet.first_open(step), *ahead])

    def _has(self, group: Outsourced, step: int, rows: int) -> bool:
        ready = self._ahead.get(step, {}).get(group.number)
        return ready is not None and ready.pads.shape[0] >= rows

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads, corrections), minted ahead or now. Refuses: PAD_REUSED."""
        self._used.burn(group.number, step)
        ready = self._ahead[step].pop(group.number) if self._has(group, step, rows) else None
        if ready is not None:
            self._forget(step)
            ready.left = False
            correction = ready.correction
            if correction is None:
                correction = self._corrected(group, ready.pads)
            return _first_rows(ready.pads, correction, rows)
        tape = self._ratchet.tape(step)
        self._forget(step)
        pads = pad(tape, group.number, step, rows, group.weights.shape[1], group.modulus)
        return pads, self._corrected(group, pads)

    def _forget(self, step: int) -> None:
        """Overwrite what is left of earlier steps: seeds, and pads of every group."""
        self._ratchet.forget_before(step)
        for passed in [number for number in self._ahead if number < step]:
            for ahead in self._ahead.pop(passed).values():
                ahead.erase()

    def mint(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Prepare the pads of all groups, of so many rows, for steps first_step to first_step + steps - 1.

        Their tapes are gone afterwards. Steps that were passed over stay open, and who reads the tape of an
        open step can derive all that follow.
        """
        self.draw(groups, range(first_step, first_step + steps), rows)
        while self.work():
            pass

    def is_open(self, step: int) -> bool:
        """Return whether the pads of a step can be drawn."""
        return self._ratchet.first_open(step) == step

    def draw(self, groups: Sequence[Outsourced], numbers: Sequence[int], rows: Rows = None) -> None:
        """Draw the pads of these steps as `mint` does, and leave their corrections to `work`."""
        if not numbers:
            return
        tapes = [self._ratchet.tape(step) for step in numbers]
        for group, count in zip(groups, rows or [1] * len(groups), strict=True):
            about = (count, group.weights.shape[1], group.modulus)
            drawn = [
                Ahead(pad(tape, group.number, step, *about))
                for tape, step in zip(tapes, numbers, strict=True)
            ]
            for step, ahead in zip(numbers, drawn, strict=True):
                self._ahead.setdefault(step, {})[group.number] = ahead
            self._drawn.append((group, drawn))
        self._ratchet.forget(numbers)

    @property
    def behind(self) -> bool:
        """Return whether there are drawn pads without a correction."""
        return bool(self._drawn)

    def work(self) -> bool:
        """Return whether there was something to do, and correct the drawn pads of one group."""
        if not self._drawn:
            return False
        group, drawn = self._drawn.popleft()
        if left := [ahead for ahead in drawn if ahead.left]:
            joined = torch.cat([ahead.pads for ahead in left])
            corrections = self._corrected(group, joined)
            joined.zero_()
            for ahead, part in zip(left, torch.split(corrections, len(left[0].pads)), strict=True):
                ahead.correction = part.clone()
            corrections.zero_()
        return True

    def close(self) -> None:
        """Return nothing, and overwrite all pads and corrections that are left."""
        self._forget(constants.STEP_LIMIT)
        self._drawn.clear()


class RankMinter:
    """The paper's pads: a public basis a group, a fresh private factor a step. Not private."""

    def __init__(self, ratchet: Ratchet) -> None:
        self._ratchet = ratchet
        self._used = Addresses()
        self._bases: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.macs = 0

    def publish(self, group: Outsourced, basis: torch.Tensor, image: torch.Tensor) -> None:
        """Keep a group's basis [rank, inner] with its image under the weights [rank, outputs]."""
        self._bases[group.number] = basis, image

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on whose seed is there."""
        return self._ratchet.first_open(step)

    def mint(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Return nothing: no work is done ahead."""

    def close(self) -> None:
        """Return nothing: what is left is the ratchet's."""

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads, corrections) of this step. Refuses: PAD_REUSED."""
        self._used.burn(group.number, step)
        tape = self._ratchet.tape(step)
        self._ratchet.forget_before(step)
        basis, image = self._bases[group.number]
        pads = rank_pad(tape, basis, group.number, step, rows, group.modulus)
        secret = rank_secret(tape, group.number, step, rows, basis.shape[0], group.modulus)
        self.macs += rows * basis.shape[0] * (basis.shape[1] + image.shape[1])
        return pads, product(secret, field_operand(image.T), group.modulus)
