"""Accounting: the exact law, certificates, calibration."""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from itertools import product
from math import factorial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import DIGITS, examples, ln, refusal
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Geometric, Noise, Part, Table, TwoSidedGeometric, WorstPair

TWO_THIRDS = Fraction(2, 3)
LIMIT = 2**16
TOY = Table(
    "suite",
    (
        Part(("a", "b", "c"), ((4, 1, 0), (1, 4, 2), (0, 3, 4))),
        Part(("d", "e"), ((3, 0), (2, 3))),
        Part(("f",), ((1,),)),
    ),
)
noises = st.builds(
    lambda alpha, two: TwoSidedGeometric(alpha) if two else Geometric(alpha),
    strategies.alphas(),
    st.booleans(),
)


def range_distance(table: Table) -> int:
    """Return the range distance by its definition."""
    changes = [
        [a - b for a, b in zip(part.scores[x], part.scores[y], strict=True)]
        for part in table.parts
        for x, y in product(range(len(part.tokens)), repeat=2)
    ]
    return max(max(change) - min(change) for change in changes)


def chance(noise: Noise, value: int) -> Fraction:
    """Return the probability of one noise value."""
    if isinstance(noise, TwoSidedGeometric):
        return (1 - noise.alpha) / (1 + noise.alpha) * noise.alpha ** abs(value)
    return (1 - noise.alpha) * noise.alpha**value


@pytest.mark.requirement("ACC-R1")
@pytest.mark.parametrize(
    ("noise", "law"),
    [
        (TwoSidedGeometric(TWO_THIRDS), (Fraction(112, 475), Fraction(1179, 2375), Fraction(636, 2375))),
        (Geometric(TWO_THIRDS), (Fraction(4, 19), Fraction(479, 855), Fraction(196, 855))),
    ],
)
def test_known_laws(impl: Implementation, noise: Noise, law: tuple[Fraction, ...]) -> None:
    assert impl.exact_pmf([0, 2, 1], noise) == law


@pytest.mark.requirement("ACC-R1")
@pytest.mark.parametrize("noise", [TwoSidedGeometric(Fraction(1, 4)), Geometric(Fraction(1, 4))])
@pytest.mark.parametrize("scores", [[0, 0], [1, 0, 1], [0, 2, -1]])
def test_the_law_lies_between_what_enumeration_finds_and_leaves(
    impl: Implementation, noise: Noise, scores: list[int]
) -> None:
    values = range(-8, 9) if isinstance(noise, TwoSidedGeometric) else range(17)
    weight = {value: chance(noise, value) for value in values}
    found = [Fraction(0)] * len(scores)
    for drawn in product(values, repeat=len(scores)):
        noisy = [score + value for score, value in zip(scores, drawn, strict=True)]
        together = Fraction(1)
        for value in drawn:
            together *= weight[value]
        found[noisy.index(max(noisy))] += together
    rest = 1 - sum(found)
    law = impl.exact_pmf(scores, noise)
    assert rest < Fraction(1, 1000) and sum(law) == 1
    assert all(low <= p <= low + rest for low, p in zip(found, law, strict=True))


@pytest.mark.requirement("ACC-R1")
@given(scores=strategies.small_scores, noise=noises, shift=st.integers(-9, 9))
@examples(60)
def test_the_law_sums_to_one_and_ignores_a_common_shift(
    impl: Implementation, scores: list[int], noise: Noise, shift: int
) -> None:
    law = impl.exact_pmf(scores, noise)
    assert sum(law) == 1 and law == impl.exact_pmf([score + shift for score in scores], noise)


@pytest.mark.requirement("ACC-R2")
@given(table=strategies.tables(), noise=noises)
@examples(40)
def test_the_range_distance_is_that_of_the_worst_pair(
    impl: Implementation, table: Table, noise: Noise
) -> None:
    assert impl.certificate(table, noise).range_distance == range_distance(table)


@pytest.mark.requirement("ACC-R3")
@given(table=strategies.tables(), noise=noises)
@examples(40)
def test_the_bound_is_a_power_of_alpha(impl: Implementation, table: Table, noise: Noise) -> None:
    assert impl.certificate(table, noise).bound == (1 / noise.alpha) ** range_distance(table)


@pytest.mark.requirement("ACC-R4")
@given(table=strategies.tables(), noise=noises)
@examples(40)
def test_the_exact_figure_is_the_first_largest_ratio(
    impl: Implementation, table: Table, noise: Noise
) -> None:
    best: tuple[Fraction, WorstPair] | None = None
    for part in table.parts:
        laws = [impl.exact_pmf(row, noise) for row in part.scores]
        for x, other, y in product(range(len(part.tokens)), repeat=3):
            ratio = laws[x][y] / laws[other][y]
            if best is None or ratio > best[0]:
                best = ratio, WorstPair(part.tokens[x], part.tokens[other], part.tokens[y])
    certificate = impl.certificate(table, noise)
    assert (certificate.exact, certificate.worst) == best
    assert certificate.exact <= certificate.bound


@pytest.mark.requirement("ACC-R4")
def test_a_known_exact_figure(impl: Implementation) -> None:
    table = Table("pair", (Part(("a", "b"), ((1, 0), (0, 1))),))
    certificate = impl.certificate(table, Geometric(Fraction(1, 2)))
    assert (certificate.exact, certificate.worst) == (Fraction(4), WorstPair("b", "a", "b"))


def decimals(ratio: Fraction) -> str:
    """Return ln(ratio) rounded up to six decimals."""
    with localcontext() as context:
        context.prec = DIGITS
        return str(ln(ratio).quantize(Decimal("0.000001"), ROUND_CEILING))


@pytest.mark.requirement("ACC-R5")
@given(table=strategies.tables(), noise=noises)
@example(table=Table("one", (Part(("a",), ((0,),)),)), noise=Geometric(Fraction(1, 2)))
@examples(40)
def test_epsilons_are_logarithms_rounded_up(impl: Implementation, table: Table, noise: Noise) -> None:
    made = impl.certificate(table, noise)
    assert (made.epsilon_bound, made.epsilon_exact) == (decimals(made.bound), decimals(made.exact))


@pytest.mark.requirement("ACC-R6")
@given(table=strategies.tables(), noise=noises)
@examples(40)
def test_part_bits_and_bayes_recovery(impl: Implementation, table: Table, noise: Noise) -> None:
    sizes = [len(part.tokens) for part in table.parts]
    guessed = Fraction(0)
    for part in table.parts:
        laws = [impl.exact_pmf(row, noise) for row in part.scores]
        guessed += sum(max(law[y] for law in laws) for y in range(len(part.tokens)))
    made = impl.certificate(table, noise)
    thousandths = int(made.part_bits.replace(".", ""))
    ratio = Fraction(sum(sizes), min(sizes)) ** 1000
    assert made.part_bits == f"{thousandths // 1000}.{thousandths % 1000:03d}"
    assert Fraction(2) ** (thousandths - 1) < ratio <= 2**thousandths
    assert made.bayes_recovery == guessed / sum(sizes)


@pytest.mark.requirement("ACC-R6")
def test_part_bits_of_one_part_in_six_tokens(impl: Implementation) -> None:
    assert impl.certificate(TOY, Geometric(TWO_THIRDS)).part_bits == "2.585"


NUMBERS = (0, -1, 65, Fraction(0), Fraction(-1, 2), Fraction(6401, 100), 1.5, float("nan"), None, b"1")
TEXTS = ("0", "-1", "abc", "nan", "inf", "1e3", "", "1.", ".5", " 1", "1\n", "+1", "1/2", "64.5", "\u0661")
NO_CLAIMS = (*NUMBERS, *TEXTS, "1" * 21, "0." + "1" * 21)
SERIES = {
    e: sum(Fraction(e) ** k / factorial(k) for k in range(256)) for e in ("1", "0.5", "8", "64", "0.001")
}


@pytest.mark.requirement("ACC-R7")
@pytest.mark.parametrize("distance", [0, 1, 3, 20])
@pytest.mark.parametrize("epsilon", SERIES)
def test_calibration_finds_the_smallest_alpha(impl: Implementation, epsilon: str, distance: int) -> None:
    alpha = impl.calibrate(epsilon, distance)
    a = alpha * LIMIT
    assert a.denominator == 1 and 1 <= a < LIMIT
    assert (1 / alpha) ** distance <= SERIES[epsilon]
    assert a == 1 or (LIMIT / (a - 1)) ** distance > SERIES[epsilon]


@pytest.mark.requirement("ACC-R7")
def test_known_calibrations(impl: Implementation) -> None:
    assert impl.calibrate(1, 1) == Fraction(24110, LIMIT)
    assert impl.calibrate(Fraction(1), 0) == Fraction(1, LIMIT)
    assert refusal(impl.calibrate, Fraction(1, 10**6), 1) == Refusal.EPSILON_OUT_OF_RANGE


@pytest.mark.requirement("ACC-R8")
@pytest.mark.parametrize("epsilon", NO_CLAIMS, ids=repr)
def test_an_epsilon_that_is_no_claim_is_refused(impl: Implementation, epsilon: object) -> None:
    calibrate: Callable[..., object] = impl.calibrate
    assert refusal(calibrate, epsilon, 2) == Refusal.EPSILON_OUT_OF_RANGE


@pytest.mark.requirement("ACC-R8")
@pytest.mark.parametrize("epsilon", [1, Fraction(1), "1", "1.0", "01", "1." + "0" * 20])
def test_one_epsilon_in_every_spelling(impl: Implementation, epsilon: Fraction | int | str) -> None:
    assert impl.calibrate(epsilon, 1) == Fraction(24110, LIMIT)


@pytest.mark.requirement("ACC-R9")
@given(table=strategies.tables(), noise=noises)
@examples(10)
def test_the_adjacency_is_stated(impl: Implementation, table: Table, noise: Noise) -> None:
    assert impl.certificate(table, noise).adjacency == "one token replaced by another token of the same part"
