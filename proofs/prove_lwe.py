"""Profile `lwe` returns X W exactly: the noise never reaches half a scale, and nothing wraps around q."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import pytest
import sympy
import z3

from veil_reference import integrity, lwe, remo
from veil_reference.field import centred, dot
from veil_spec import constants
from veil_spec.constants import ACTIVATION_LIMIT, INNER_LIMIT, LWE_MODULUS, WEIGHT_LIMIT
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Rows

HALF: Final = 128
"""Largest absolute half of a weight."""


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    return bool(solver.check() == z3.unsat)


# The budget


@dataclass(frozen=True, slots=True)
class Budget:
    """What one inner dimension leaves for noise: |noise| <= 2**bits, times weights of at most `weight`."""

    inner: int
    bits: int
    scale: int
    weight: int = HALF

    @property
    def noise(self) -> int:
        """Return the largest |E W|."""
        return (1 << self.bits) * self.weight * self.inner

    @property
    def rounds(self) -> bool:
        """Return whether |E W| < D / 2."""
        return 2 * self.noise < self.scale

    @property
    def fits(self) -> bool:
        """Return whether |D X W + E W| < q / 2."""
        product = self.scale * ACTIVATION_LIMIT * self.weight * self.inner
        return 2 * (product + self.noise) < LWE_MODULUS


def budget(inner: int) -> Budget:
    """Return the reference's budget of an inner dimension."""
    return Budget(inner, *lwe.lwe_levels(inner))


@pytest.mark.requirement("RMO-G7")
def test_the_noise_stays_below_half_a_scale_at_every_inner_dimension() -> None:
    """|E W| < D / 2 and |D X W + E W| < q / 2 for all X, halves and E in range.

    Given: |x| <= 32767, halves of at most 128, |e| <= 2**b, each of the 16,384 inner dimensions (by machine:
    complete, exact integers; the sums by the triangle inequality, argued).
    Then: rounding has one outcome, and the centred lift is the number itself.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_reference.lwe.lwe_levels 27ad63c5.
    Pins: veil_reference.lwe.size_class ea3040b7.
    """
    budgets = [budget(inner) for inner in range(1, INNER_LIMIT + 1)]
    assert all(b.rounds and b.fits for b in budgets)
    assert {b.inner: b.bits for b in budgets if b.inner >= 2**11 and b.inner & (b.inner - 1) == 0} == {
        2**11: 11,
        2**12: 9,
        2**13: 7,
        2**14: 5,
    }


def test_negative_control_one_more_noise_bit_breaks_the_budget() -> None:
    """At the top of every class one more noise bit fails, as do the bits of the class below it.

    Controls: RMO-G7.
    """
    for k in range(15):
        bits, scale = lwe.lwe_levels(2**k)
        assert not Budget(2**k, bits + 1, scale).rounds
        assert not Budget(2**k, lwe.lwe_levels(2**k // 2 or 1)[0] + 2 * (k == 0), scale).rounds
    assert not rounds_to_itself(slack=2)
    assert all(not Budget(b.inner, b.bits, 2 * b.scale).fits for b in map(budget, (1, 2048, 14336, 16384)))


def test_negative_control_sixteen_bit_weights_leave_no_room_without_the_halves() -> None:
    """The scale that whole weights allow rounds no noise at all from inner dimension 2**11 on.

    Controls: RMO-G7.
    """
    for inner in (2**11, 2**12, 2**13, 14336, INNER_LIMIT):
        scale = LWE_MODULUS // (2 * ACTIVATION_LIMIT * WEIGHT_LIMIT * inner + 1)
        assert not any(Budget(inner, bits, scale, WEIGHT_LIMIT).rounds for bits in range(34))
        assert not Budget(inner, 0, lwe.lwe_levels(inner)[1], WEIGHT_LIMIT).fits


# Rounding, lifting, halves


@pytest.mark.requirement("RMO-G7")
def test_rounding_returns_the_integer_whatever_the_noise_below_half_a_scale() -> None:
    """floor((2 (D y + e) + D) / (2 D)) = y where 2 |e| < D.

    Given: any integers D > 0, y and e (by machine: z3, symbolic D). t = floor(n / (2 D)) is the t with
    0 <= n - 2 D t < 2 D; of the multiple D j with j = t - y only |D j| >= D for j != 0 is used.
    Then: RMO-R20 returns the exact column.
    Assuming: nothing.
    Proves: RMO-G7.
    """
    assert rounds_to_itself()


def rounds_to_itself(slack: int = 0) -> bool:
    """Return whether rounding is right for every scale > 0 and all noise with 2 |e| < scale + slack."""
    scale, e, j, multiple = z3.Ints("scale e j multiple")
    far = z3.And(z3.Implies(j >= 1, multiple >= scale), z3.Implies(j <= -1, multiple <= -scale))
    small = z3.And(-scale - slack < 2 * e, 2 * e < scale + slack)
    rest = 2 * e + scale - 2 * multiple
    return is_theorem(z3.Implies(z3.And(scale > 0, multiple == scale * j), far)) and is_theorem(
        z3.Implies(z3.And(scale > 0, far, small, rest >= 0, rest < 2 * scale), j == 0)
    )


@pytest.mark.requirement("RMO-G7")
def test_the_centred_lift_undoes_the_reduction_below_half_of_q() -> None:
    """centred((u + c - c) mod q) = u for |u| < q / 2 and every c.

    Given: u and any S (A W) = c in [0, q) (by machine: z3 over all integers).
    Then: U of RMO-R20 is D X W + E W.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_reference.field.centred f82bfed6.
    """
    u, c = z3.Ints("u c")
    element = ((u + c) % LWE_MODULUS - c) % LWE_MODULUS
    lifted = z3.If(2 * element > LWE_MODULUS, element - LWE_MODULUS, element)
    half = LWE_MODULUS // 2
    assert is_theorem(z3.Implies(z3.And(-half <= u, u <= half, c >= 0, c < LWE_MODULUS), lifted == u))
    assert not is_theorem(z3.Implies(z3.And(u == half + 1, c >= 0, c < LWE_MODULUS), lifted == u))
    assert [centred(x, LWE_MODULUS) for x in (half, half + 1)] == [half, -half]


@pytest.mark.requirement("RMO-G7")
def test_the_mask_comes_off_without_the_weights() -> None:
    """(D X + S A + E) W - S (A W) = D X W + E W over any ring.

    Given: matrices of any shape that fits (by machine: sympy, non-commuting symbols).
    Then: the image A W is all that unmasking needs of W.
    Assuming: nothing.
    Proves: RMO-G7.
    """
    assert left_over(hint_of_basis=True) == 0
    assert left_over(hint_of_basis=False) != 0


def left_over(hint_of_basis: bool) -> sympy.Expr:
    """Return Y' - S (A W) - D X W - E W, expanded; with W A in the hint's place where asked."""
    x, s, a, e, w = sympy.symbols("X S A E W", commutative=False)
    d = sympy.symbols("D")
    hint = a * w if hint_of_basis else w * a
    return sympy.expand((d * x + s * a + e) * w - s * hint - d * x * w - e * w)


@pytest.mark.requirement("RMO-G7")
def test_the_halves_of_every_weight_are_bytes_that_recombine() -> None:
    """w = 256 h + l with h in -127 to 127 and l in -128 to 127, for all 65,279 weights.

    Given: |w| <= 32639 (by machine: complete); X W = 256 X H + X L by linearity.
    Then: two columns of bytes carry one column of 16-bit weights.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_reference.lwe.halves 4f559fe3.
    """
    weights = list(range(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1))
    high, low = lwe.halves([weights])
    assert len(weights) == 65279
    assert [256 * h + part for h, part in zip(high, low, strict=True)] == weights
    assert (min(high), max(high), min(low), max(low)) == (-127, 127, -128, 127)
    for beyond in (WEIGHT_LIMIT + 1, -WEIGHT_LIMIT - 1):
        with pytest.raises(Refused) as refused:
            lwe.halves([[beyond]])
        assert refused.value.reason is Refusal.WEIGHT_OUT_OF_RANGE


# The reference itself, at its worst


SPREAD: Final = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, odd: its multiples are spread over the words."""


@dataclass(frozen=True, slots=True)
class Saturated:
    """A tape with chosen noise and otherwise spread words: noise is -2**b or 2**b - 1 as `up` says."""

    up: tuple[bool, ...]
    bits: int

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return the word at an address; of a noise word only the lowest b + 1 bits are chosen."""
        word = SPREAD * (SPREAD * len(domain) + stream + index + 1) % 2**64
        if domain is not Domain.LWE_NOISE:
            return word
        chosen = (2 << self.bits) - 1
        return word | chosen if self.up[index] else word & ~chosen


WEIGHTS: Final = (WEIGHT_LIMIT, -WEIGHT_LIMIT, 127, -128, -126 * 256 - 128, 1)
"""Weights with halves (127, 127), (-127, -127), (0, 127), (0, -128), (-126, -128) and (0, 1)."""


def worst_rows(inner: int) -> list[list[int]]:
    """Return rows of weights of one extreme value each, and one of extremes in turn [7, inner]."""
    turns = [WEIGHTS[i % len(WEIGHTS)] for i in range(inner)]
    return [[weight] * inner for weight in WEIGHTS] + [turns]


def unmasked(inner: int, weights: Rows, row: Sequence[int], up: Sequence[bool], secrets: int) -> list[int]:
    """Return the reference's product of one row with weights, through a saturated mask, checked."""
    tape = Saturated(tuple(up), lwe.lwe_levels(inner)[0])
    parts = lwe.halves(weights)
    basis = lwe.lwe_basis(tape, 3, secrets, inner)
    masked = lwe.lwe_mask(tape, basis, 3, 5, [row])
    answer = remo.multiply(masked, parts, LWE_MODULUS)
    secret = integrity.challenge(tape, 3, len(parts), LWE_MODULUS)
    integrity.verify(masked, answer, secret, integrity.check_key(parts, secret, LWE_MODULUS), LWE_MODULUS)
    hint = remo.multiply(basis, parts, LWE_MODULUS)
    return list(lwe.lwe_unmask(tape, answer, hint, 3, 5, inner)[0])


def worst_cases(inner: int, weights: Rows) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield activations of either extreme with noise for and against the signs of the first and last row."""
    for channel, sign, against in product((weights[0], weights[-1]), (1, -1), (False, True)):
        low = [(w + HALF) % 256 - HALF for w in channel]
        yield (
            [sign * ACTIVATION_LIMIT if w >= 0 else -sign * ACTIVATION_LIMIT for w in channel],
            [(part >= 0) != against for part in low],
        )


def is_exact(inner: int, weights: Rows, secrets: int) -> bool:
    """Return whether every worst case at an inner dimension comes back as X W."""
    return all(
        unmasked(inner, weights, row, up, secrets) == [dot(row, channel) for channel in weights]
        for row, up in worst_cases(inner, weights)
    )


@pytest.mark.requirement("RMO-G7")
def test_the_reference_is_exact_on_worst_rows_and_saturated_noise_at_small_sizes() -> None:
    """lwe_unmask(multiply(lwe_mask(X), halves(W))) = X W, with the check on.

    Given: inner dimensions 1 to 9, 16, 17 and 64, all weights at an extreme, activations of 32767 in absolute
    value, noise of -2**b and 2**b - 1 along the signs of the weights and against them (checked).
    Then: the budget above is that of the code that runs.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_reference.lwe.lwe_mask 5d68a676.
    Pins: veil_reference.lwe.lwe_unmask ff139499.
    Pins: veil_reference.lwe.lwe_noise 4471ddbd.
    """
    assert all(is_exact(inner, worst_rows(inner), 3) for inner in (*range(1, 10), 16, 17, 64))


@pytest.mark.requirement("RMO-G7")
@pytest.mark.parametrize("inner", [2048, 4096, 14336, INNER_LIMIT])
def test_the_reference_is_exact_on_worst_rows_and_saturated_noise_at_full_inner_dimension(inner: int) -> None:
    """The same at the inner dimensions of real models.

    Given: weights of one sign, all at an extreme, saturated noise; A has 2 rows instead of m: neither the
    bound nor U depends on how many, since S A W cancels for every S and A (checked, by the reference).
    Then: exact products with the noise at its bound.
    Assuming: nothing.
    Proves: RMO-G7.
    """
    assert is_exact(inner, [[-128] * inner, [WEIGHT_LIMIT] * inner], 2)


@pytest.mark.parametrize("inner", [1, 4, 2048, INNER_LIMIT])
def test_negative_control_the_same_run_with_one_more_noise_bit_is_wrong(
    inner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a power of two, a budget of 34 for 33 makes the reference return a wrong product.

    Controls: RMO-G7.
    """
    weights = [[-128] * inner]
    assert inner > 4 or is_exact(inner, weights, 2)
    monkeypatch.setattr(constants, "LWE_NOISE_BUDGET", constants.LWE_NOISE_BUDGET + 1)
    assert not is_exact(inner, weights, 2)


def test_negative_control_the_same_run_with_whole_weights_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 16 bits in the place of halves wrap around q.

    Controls: RMO-G7.
    """
    monkeypatch.setattr(lwe, "halves", lambda weights: [[0] * len(weights[0]), *weights])
    assert not is_exact(2048, [[WEIGHT_LIMIT] * 2048], 2)
