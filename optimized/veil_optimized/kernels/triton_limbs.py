"""The kernel of CUDA hardware: products of bytes, in one pass over the weights for all limbs.

An element is written in balanced digits, -2^(b-1) to 2^(b-1) - 1 for b bits, and so is a weight; with b = 8 a
weight of 8 bits is its own digit. Digit i of an element times digit j of a weight belongs to place i + j.

Nothing overflows. Let k be the bits of the field, c = 2^k - p, at most 87, and the inner dimension at most
2^14. At b = 8 a place takes at most two products of 2^14, and so at most three with fewer bits: its sum, in
int32, stays at or below 2^29. An element in digits is below 2^k in magnitude and a weight below 2^15, so a
whole sum is below 2^(k+29). `_joined` writes it as low + 2^32 * high: |low| < 2^57, so |high| < 2^(k-2).
With high = 2^(k-32) * above + lower, |above| <= 2^30, the sum is congruent to
(low + c * above) + 2^32 * lower: a number below 2^58 in magnitude plus an element. `_reduced` adds the two.
"""

from typing import Final, NamedTuple, Self

import torch
import triton
import triton.language as tl

from veil_spec import constants

LIMB_BITS: Final = 8
"""Bits of a digit: the widest that tensor cores multiply as integers; 6 and 7 are right, too."""
ROW_BITS: Final = 16
"""Bits of a plain row's integers, with their sign."""
ROW_LIMIT: Final = 2 ** (ROW_BITS - 1) - 1
"""Largest of those integers."""
CUT: Final = 1024
"""Elements that a program writes as digits."""
STEP: Final = 128
"""Inner positions of a tile: a line of the cache in bytes."""
ROWS_MOST: Final = 64
"""Most rows of a tile: with the limbs side by side, as many columns as four times that."""
OUTPUTS_LEAST: Final = 32
"""Fewest outputs of a tile."""
OUTPUTS_MOST: Final = 128
"""Most outputs of a tile."""
SUMS: Final = 9 * 2**12
"""Most sums that a program holds: 144 registers in each of 256 threads."""
SUMS_OF_FEW: Final = 3 * 2**12
"""Sums from which on 256 threads hold them, and no longer 128."""
PROGRAMS: Final = 256
"""Programs that keep all of the largest GPU's processors, 132 on an H200, reading."""
SHARED: Final = 216 * 2**10
"""Bytes of shared memory for the tiles on their way; an H100 has 227 KiB for a program."""
STAGES_MOST: Final = 6
"""Most tiles on their way at a time."""


class Tile(NamedTuple):
    """The block of results that a program computes, and how."""

    rows: int
    outputs: int
    stages: int
    warps: int


class TritonLimbs:
    """Digits of rows times digits of weights: a tile of weights is read once and serves every limb."""

    name = "triton"

    def __init__(self, bits: int = LIMB_BITS) -> None:
        self._bits = bits

    @classmethod
    def load(cls) -> Self | None:
        """Return the kernel, or nothing where there is no GPU with room for its tiles."""
        if not torch.cuda.is_available():
            return None
        about = triton.runtime.driver.active.utils.get_device_properties(torch.cuda.current_device())
        return cls() if about["max_shared_mem"] >= SHARED else None

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return masked rows times weights, mod p, int64 [n, outputs]."""
        return self._multiplied(masked, weights, modulus.bit_length(), modulus)

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return 16-bit rows times weights as integers, int64 [n, outputs].

        Digits reach further down than up: rows are lowered, and a row of ones adds up what that has taken.
        """
        lowered = max(0, ROW_LIMIT - largest(limb_count(ROW_BITS, self._bits), self._bits))
        stacked = torch.cat((rows - lowered, torch.ones_like(rows[:1])))
        sums = self._multiplied(stacked, weights, ROW_BITS, 0)
        return sums[:-1] + lowered * sums[-1]

    def _multiplied(self, rows: torch.Tensor, weights: torch.Tensor, bits: int, modulus: int) -> torch.Tensor:
        """Return rows times weights: mod p, or as integers where the modulus is 0."""
        (count, inner), held, outputs = rows.shape, weights.contiguous(), len(weights)
        limbs, parts = limb_count(bits, self._bits), part_count(weights.dtype, self._bits)
        most = min(largest(limbs, self._bits), 2**63 - 1)
        digits = torch.empty(count, limbs, inner, dtype=torch.int8, device=rows.device)
        result: torch.Tensor = torch.empty(count, outputs, dtype=torch.int64, device=rows.device)
        tile = tile_for(count, outputs, limbs, parts, weights.element_size())
        with torch.cuda.device(held.get_device()):
            _cut[(triton.cdiv(rows.numel(), CUT),)](
                *(rows.contiguous(), digits, rows.numel(), inner),
                *(most, _signed(-modulus), limbs, self._bits, CUT),
            )
            _multiply[triton.cdiv(count, tile.rows), triton.cdiv(outputs, tile.outputs)](
                *(held, digits, result, outputs, inner, count),
                *(modulus, bits, limbs, parts, self._bits, tile.rows, tile.outputs, STEP),
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
        digits.zero_()
        return result


def limb_count(bits: int, digit_bits: int) -> int:
    """Return how many digits hold integers of so many bits."""
    return -(-bits // digit_bits)


def largest(count: int, bits: int) -> int:
    """Return the largest integer of so many balanced digits."""
    return sum(2 ** (bits - 1) - 1 << place * bits for place in range(count))


def part_count(kind: torch.dtype, bits: int) -> int:
    """Return how many digits hold the weights of a type."""
    limit = constants.SHORT_WEIGHT_LIMIT if kind == torch.int8 else constants.WEIGHT_LIMIT
    return next(count for count in range(1, limit) if largest(count, bits) >= limit)


def tile_for(count: int, outputs: int, limbs: int, parts: int, size: int) -> Tile:
    """Return the tile for so many rows and outputs, with weights of `size` bytes.

    The sizes follow from arithmetic and from what the compiler says of registers; no GPU has timed them.
    """
    rows = min(ROWS_MOST, max(16, triton.next_power_of_2(count)))
    places = limbs + parts - 1
    most = min(OUTPUTS_MOST, SUMS // (rows * places))
    wide = max(OUTPUTS_LEAST, 1 << most.bit_length() - 1)
    while wide > OUTPUTS_LEAST and triton.cdiv(outputs, wide) * triton.cdiv(count, rows) < PROGRAMS:
        wide //= 2
    stages = min(STAGES_MOST, SHARED // (STEP * (wide * size + rows * limbs)))
    return Tile(rows, wide, stages, 4 if wide * rows * places < SUMS_OF_FEW else 8)


def _signed(word: int) -> int:
    """Return the integer of 64 bits and a sign with the bits of a word."""
    return (word + 2**63) % 2**64 - 2**63


@triton.jit
def _digit(word: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Return the lowest balanced digit of words, int8."""
    return (((word & (2**BITS - 1)) ^ (2 ** (BITS - 1))) - 2 ** (BITS - 1)).to(tl.int8)


@triton.jit
def _rest(word: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Return words without their lowest balanced digit, which is taken as the next one's carry."""
    return (word >> BITS) + ((word >> (BITS - 1)) & 1)


@triton.jit
def _parts(word: tl.tensor, PARTS: tl.constexpr, BITS: tl.constexpr) -> tl.tuple:
    """Return weights as their digits, int8; those of one digit are as they were."""
    if PARTS == 1:
        return (word,)
    else:
        parts: tl.tuple = (_digit(word, BITS),)
        for _ in tl.static_range(PARTS - 1):
            word = _rest(word, BITS)
            parts += (_digit(word, BITS),)
        return parts


@triton.jit(do_not_specialize=["size"])
def _cut(
    elements: tl.tensor,
    digits: tl.tensor,
    size: int,
    inner: int,
    MOST: tl.constexpr,
    LESS: tl.constexpr,
    LIMBS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write the digits of `size` elements, int64 [n, inner], as int8 [n, LIMBS, inner].

    An element above MOST is replaced by itself less p. Only the bits of the digits count, so the words may
    wrap; those of q, negative here, are all above MOST.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    word = tl.load(elements + place, mask=inside, other=0)
    word = tl.where((word < 0) | (word > MOST), word + LESS, word)
    digits += place + place // inner * inner * (LIMBS - 1)
    for limb in tl.static_range(LIMBS):
        tl.store(digits + limb * inner, _digit(word, BITS), mask=inside)
        word = _rest(word, BITS)


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    weights: tl.tensor,
    digits: tl.tensor,
    results: tl.tensor,
    outputs: int,
    inner: int,
    rows: int,
    MODULUS: tl.constexpr,
    FIELD_BITS: tl.constexpr,
    LIMBS: tl.constexpr,
    PARTS: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Write one tile of the results, int64 [n, outputs]; digits int8 [n, LIMBS, inner].

    Neighbouring programs share their weights: the rows of a batch vary first.
    """
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[None, :]
    output = (tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS))[:, None]
    place = tl.arange(0, STEP)
    weights += output.to(tl.int64) * inner + place[None, :]
    digits += row.to(tl.int64) * (LIMBS * inner) + place[:, None]
    sums = (tl.zeros((OUTPUTS, ROWS), tl.int32),) * (LIMBS + PARTS - 1)
    for start in range(0, inner, STEP):
        left = inner - start
        word = tl.load(weights + start, mask=(output < outputs) & (place < left)[None, :], other=0)
        parts = _parts(word, PARTS, BITS)
        for limb in tl.static_range(LIMBS):
            inside = (row < rows) & (place < left)[:, None]
            digit = tl.load(digits + limb * inner + start, mask=inside, other=0)
            for part in tl.static_range(PARTS):
                made = tl.dot(parts[part], digit, sums[part + limb], out_dtype=tl.int32)
                # Triton has no starred items.
                sums = sums[: part + limb] + (made,) + sums[part + limb + 1 :]  # noqa: RUF005
    total = _joined(sums, MODULUS, FIELD_BITS, BITS, LIMBS + PARTS - 1)
    at = results + row.to(tl.int64) * outputs + output
    tl.store(at, total, mask=(row < rows) & (output < outputs))


@triton.jit
def _joined(
    sums: tl.tuple,
    MODULUS: tl.constexpr,
    FIELD_BITS: tl.constexpr,
    BITS: tl.constexpr,
    PLACES: tl.constexpr,
) -> tl.tensor:
    """Return the sums of all places as one: an element, or the integer where MODULUS is 0."""
    low = tl.zeros_like(sums[0]).to(tl.int64)
    high = tl.zeros_like(low)
    for place in tl.static_range(PLACES):
        if place * BITS < 32:
            low += sums[place].to(tl.int64) << (place * BITS)
        else:
            high += sums[place].to(tl.int64) << (place * BITS - 32)
    if MODULUS == 0:
        return low + (high << 32)
    else:
        above = high >> (FIELD_BITS - 32)
        lower = high - (above << (FIELD_BITS - 32))
        return _reduced(low + (2**FIELD_BITS - MODULUS) * above, lower << 32, MODULUS, FIELD_BITS)


@triton.jit
def _reduced(
    number: tl.tensor, element: tl.tensor, MODULUS: tl.constexpr, FIELD_BITS: tl.constexpr
) -> tl.tensor:
    """Return an element plus a number below 2^58 in magnitude, mod p.

    In 64 bits, which wrap, a word that has passed 2^64 or q is 59 short, and one that has passed 0 is 59
    over. In fewer, one fold of what is above them leaves less than p beyond either end.
    """
    FOLD: tl.constexpr = 2**FIELD_BITS - MODULUS
    total = number + element
    if FIELD_BITS == 64:
        word, before = total.to(tl.uint64), element.to(tl.uint64)
        over = (number >= 0) & ((word >= MODULUS) | (word < before))
        under = (number < 0) & (word > before)
        return tl.where(over, total + FOLD, tl.where(under, total - FOLD, total))
    else:
        total = (total & (2**FIELD_BITS - 1)) + FOLD * (total >> FIELD_BITS)
        return tl.where(total < 0, total + MODULUS, tl.where(total >= MODULUS, total - MODULUS, total))
