"""Why a noisy max is private: the theorem behind NMX-G1 for both geometric noises, and its checks on a grid.

The theorem. Let the noise Z have the tail condition P(Z >= t + s) >= alpha**s * P(Z >= t) for all integers t
and s >= 0. Then the index of the largest score plus noise, lowest index on ties, is D_R ln(1/alpha)-private.

1. The tail condition holds for both noises (`test_tail_condition_*`).
2. A constant added to all scores changes nothing, so the score change d may be taken between 0 and D_R. Fix
   the noises of all other candidates. Candidate i wins exactly if Z_i >= t for an integer t, and the change
   moves t by at most D_R (`test_the_threshold_moves_by_at_most_the_range_distance`).
3. So P(i | u + d) >= P(Z >= t + D_R) >= alpha**D_R * P(i | u) for every choice of the other noises, hence on
   average; exchange u and u + d for the other direction.
4. No word of the tape serves two draws (`test_distinct_draws_read_disjoint_words`), so noises of different
   selections are independent. The other tokens are equal, so the factor of a document is the factor of the
   changed token (the product rule; NMX-A3).
5. The code draws these noises (`test_the_sampler_cuts_at_the_powers_of_alpha`) and its exact law is this
   mechanism's (`test_exact_pmf_*`), so the exhaustive grid measures what runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import product

import pytest
import sympy
import z3

from veil_reference.accounting import exact_pmf
from veil_reference.noise import at_least, geometric, sample
from veil_spec import constants
from veil_spec.types import Address, Domain, Geometric, ListedTape, Noise, TwoSidedGeometric

TWO_THIRDS = Fraction(2, 3)
NOISES = (Geometric(TWO_THIRDS), TwoSidedGeometric(TWO_THIRDS))
WORST = {
    Geometric(TWO_THIRDS): Fraction(9, 4),
    TwoSidedGeometric(TWO_THIRDS): Fraction(4893556113, 2179972388),
}

alpha, power, first = sympy.symbols("alpha power first", positive=True)
p, q, r = sympy.symbols("p q r", nonnegative=True)
UNIT = {alpha: 1 / (1 + p), power: 1 / (1 + q), first: 1 / (1 + r)}
"""Every number in (0, 1] is 1 / (1 + p) for one p >= 0."""


def never_negative(expression: sympy.Expr) -> bool:
    """Return whether this is a quotient of polynomials in p, q, r >= 0 without negative coefficients."""
    over, under = sympy.fraction(sympy.cancel(sympy.together(expression.subs(UNIT))))
    return all(
        coefficient >= 0
        for polynomial in (over, under)
        for coefficient in sympy.Poly(sympy.expand(polynomial), p, q, r).coeffs()
    )


def tail_condition_holds(tail: Callable[[int], Fraction], ratio: Fraction, reach: int) -> bool:
    """Return whether P(Z >= t + 1) >= ratio * P(Z >= t) for all t from -reach to reach."""
    return all(tail(t + 1) >= ratio * tail(t) for t in range(-reach, reach + 1))


@pytest.mark.requirement("NMX-G1")
def test_tail_condition_one_sided() -> None:
    """Proves: NMX-G1.

    Given: P(Z >= t) = alpha**max(t, 0).
    Then: the tail condition, in the three cases of the signs of t and t + s.
    """
    # t >= 0: alpha**(t + s) and alpha**s * alpha**t are equal.
    t, s = sympy.symbols("t s", integer=True, nonnegative=True)
    assert sympy.simplify(alpha ** (t + s) - alpha**s * alpha**t) == 0
    # t + s <= 0: first = alpha**s; both tails are 1.
    assert never_negative(1 - first)
    # t < 0 < t + s: first = alpha**(t + s), power = alpha**-t, so alpha**s = first * power.
    assert never_negative(first - first * power)


@pytest.mark.requirement("NMX-G1")
def test_tail_condition_two_sided() -> None:
    """Proves: NMX-G1.

    Given: P(Z >= t) = c alpha**t for t > 0 and 1 - c alpha**(1 - t) for t <= 0, with c = 1 / (1 + alpha).
    Then: the tail condition, in the three cases of the signs of t and t + s.
    """
    c = 1 / (1 + alpha)
    # t > 0: c * alpha**(t + s) and alpha**s * c * alpha**t are equal.
    t, s = sympy.symbols("t s", integer=True, nonnegative=True)
    assert sympy.simplify(c * alpha ** (t + s) - alpha**s * c * alpha**t) == 0
    # t + s <= 0: first = alpha**s, power = alpha**(-t - s), so alpha**(1 - t) = alpha * power * first.
    assert never_negative((1 - c * alpha * power) - first * (1 - c * alpha * power * first))
    # t <= 0 < t + s: first = alpha**(t + s), power = alpha**-t, so alpha**s = first * power.
    assert never_negative(c * first - first * power * (1 - c * alpha * power))


@pytest.mark.requirement("NMX-G1")
def test_two_sided_noise_is_a_difference_of_two_draws() -> None:
    """Proves: NMX-G1.

    Given: two independent draws with P(j) = (1 - alpha) alpha**j.
    Then: their difference is k >= 0 with probability (1 - alpha) / (1 + alpha) * alpha**k, and the closed
    tail of `at_least` is the sum of these; by symmetry the same for k < 0.
    """
    k, j = sympy.symbols("k j", integer=True, nonnegative=True)
    ratio = sympy.Rational(2, 3)
    law = (1 - alpha) / (1 + alpha) * alpha**k
    # sum over j of P(j + k) P(j): a geometric series with ratio alpha**2.
    assert sympy.simplify((1 - alpha) ** 2 * alpha**k / (1 - alpha**2) - law) == 0
    numeric = sympy.summation((1 - ratio) ** 2 * ratio ** (2 * j + 1), (j, 0, sympy.oo))
    assert numeric == law.subs({alpha: ratio, k: 1})
    noise = TwoSidedGeometric(TWO_THIRDS)
    for value in range(-9, 10):
        mass = at_least(noise, value) - at_least(noise, value + 1)
        assert mass == Fraction(1, 5) * TWO_THIRDS ** abs(value)


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation (True) or finds a counterexample (False)."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    verdict = solver.check()
    assert verdict in (z3.sat, z3.unsat), "undecided"
    return bool(verdict == z3.unsat)


@pytest.mark.requirement("NMX-G1")
def test_the_threshold_moves_by_at_most_the_range_distance() -> None:
    """Proves: NMX-G1.

    Given: `before` and `after` are the largest noisy scores of the candidates before and after i; the score
    change adds between 0 and R to every candidate, hence to both of them.
    Then: i wins exactly from the threshold t = max(before + 1, after) - score on, and |t' - t| <= R.
    """
    before, after, score, up, upper, own, bound, noise = z3.Ints(
        "before after score up upper own bound noise"
    )
    larger = z3.If(before + 1 >= after, before + 1, after)
    moved = z3.If(before + up + 1 >= after + upper, before + up + 1, after + upper)
    changes = z3.And(*(z3.And(change >= 0, change <= bound) for change in (up, upper, own)))
    wins = z3.And(score + noise > before, score + noise >= after)
    shift = (moved - score - own) - (larger - score)
    assert is_theorem(wins == (noise >= larger - score))
    assert is_theorem(z3.Implies(changes, z3.And(shift <= bound, -shift <= bound)))


@dataclass(frozen=True, slots=True)
class Draw:
    """One of the two draws that make the noise of a candidate, by number."""

    document: z3.ArithRef
    candidate: z3.ArithRef
    half: z3.ArithRef
    token: z3.ArithRef

    def inside(self) -> z3.BoolRef:
        """Return whether the sampler does not refuse these numbers."""
        limits = (constants.DOCUMENT_LIMIT, constants.CANDIDATE_LIMIT, 2, constants.ELEMENT_LIMIT)
        numbers = (self.document, self.candidate, self.half, self.token)
        return z3.And(*(z3.And(n >= 0, n < limit) for n, limit in zip(numbers, limits, strict=True)))


def draws_apart(document_bits: int) -> bool:
    """Return whether distinct draws read disjoint words when documents are 2**document_bits streams apart."""
    a, b = (Draw(*z3.Ints(f"document{n} candidate{n} half{n} token{n}")) for n in "ab")
    stream_a, stream_b = (d.document * 2**document_bits + 2 * d.candidate + d.half for d in (a, b))
    retry_a, retry_b = (
        s + (d.token + 1) * 2**constants.RETRY_SHIFT for s, d in ((stream_a, a), (stream_b, b))
    )
    equal = z3.And(a.document == b.document, a.candidate == b.candidate, a.half == b.half, a.token == b.token)
    apart = z3.And(
        z3.Implies(z3.And(stream_a == stream_b, a.token == b.token), equal),
        z3.Implies(retry_a == retry_b, equal),
        retry_a != stream_b,
        retry_a < 2**constants.STREAM_BITS,
    )
    return is_theorem(z3.Implies(z3.And(a.inside(), b.inside()), apart))


class RecordingTape:
    """A tape that leaves each draw undecided by its first word, and writes down what is read."""

    def __init__(self) -> None:
        self.read: list[Address] = []

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return 0 for a first word and 2**63 for a retry."""
        self.read.append((domain, stream, index))
        return 0 if stream < 2**64 else 2**63


@pytest.mark.requirement("NMX-G1")
def test_distinct_draws_read_disjoint_words() -> None:
    """Proves: NMX-G1.

    Given: any document, candidate and token number that the sampler accepts, and either draw of its noise.
    Then: first words and retry words of distinct draws have distinct addresses on the tape, which z3 finds
    for all integers; the sampler reads exactly these, which is checked at the corners. Functions of disjoint
    independent words are independent (argued: the definition of independence).
    Assuming: NMX-A3.
    Pins: veil_reference.noise.sample cb478b32.
    """
    assert draws_apart(21)
    last = (constants.ELEMENT_LIMIT - 1, constants.CANDIDATE_LIMIT - 1, constants.DOCUMENT_LIMIT - 1)
    for token, candidate, document in product(*((0, 1, high) for high in last)):
        tape = RecordingTape()
        sample(NOISES[1], tape, token, candidate, document)
        stream, retry = document * 2**21 + 2 * candidate, (token + 1) * 2**64
        streams = ((stream, token), (stream + retry, 0), (stream + 1, token), (stream + 1 + retry, 0))
        assert tape.read == [(Domain.NOISE, *address) for address in streams]


@pytest.mark.requirement("NMX-G1")
@pytest.mark.parametrize("ratio", [TWO_THIRDS, Fraction(1, 2), Fraction(64881, 65536)])
def test_the_sampler_cuts_at_the_powers_of_alpha(ratio: Fraction) -> None:
    """Proves: NMX-G1.

    Given: a tape whose words are independent and uniform.
    Then: P(draw >= j) = alpha**j. A larger word never gives a larger draw. The draw is at least j up to the
    last word that ends below alpha**j, and below j from the first one that starts at or above it; the word
    between them is cut at alpha**j by the next word, and so on.
    Assuming: TAP-A1.
    Pins: veil_reference.noise.geometric 91ca7f02.
    """

    def draw(first: int, *retries: int) -> int:
        words: dict[Address, int] = {(Domain.NOISE, 5, 2): first}
        words |= {(Domain.NOISE, 5 + 3 * 2**64, i): word for i, word in enumerate(retries)}
        return geometric(ratio, ListedTape(words), 5, 2)

    for j in range(1, 30):
        cut, rest = divmod(ratio.numerator**j << 64, ratio.denominator**j)
        second, further = divmod(rest << 64, ratio.denominator**j)
        assert draw(cut - 1, 0) >= j > draw(cut + 1, 0)
        if rest:
            assert draw(cut, second - 1, 0) >= j > draw(cut, second + 1, 0)
        else:
            assert draw(cut) < j and further == 0


def enumerated(scores: Sequence[int], noise: Noise, reach: int) -> tuple[list[Fraction], Fraction]:
    """Return lower bounds of the law from all noises within +-reach, and the mass left out."""
    ratio = noise.alpha
    lowest = 0 if isinstance(noise, Geometric) else -reach
    weights = {
        k: ratio.numerator ** abs(k) * ratio.denominator ** (reach - abs(k)) for k in range(lowest, reach + 1)
    }
    wins = [0] * len(scores)
    for drawn in product(weights.items(), repeat=len(scores)):
        noisy = [score + k for score, (k, _) in zip(scores, drawn, strict=True)]
        mass = 1
        for _, weight in drawn:
            mass *= weight
        wins[noisy.index(max(noisy))] += mass
    scale = (1 - ratio) if isinstance(noise, Geometric) else (1 - ratio) / (1 + ratio)
    law = [win * (scale / ratio.denominator**reach) ** len(scores) for win in wins]
    return law, 1 - sum(law)


@pytest.mark.requirement("NMX-G1")
@pytest.mark.parametrize("kind", [Geometric, TwoSidedGeometric])
def test_exact_pmf_lies_between_the_bounds_of_an_enumeration(
    kind: type[Geometric] | type[TwoSidedGeometric],
) -> None:
    """Proves: NMX-G1.

    Given: every combination of noises within a reach, added, compared and counted; the rest has a known mass.
    Then: each exact probability lies between the count and the count plus the rest.
    """
    quarter = Fraction(1, 4)
    cases = (
        ([0, 2, 1], quarter, 14),
        ([3, 3, 0], quarter, 14),
        ([0, 2], TWO_THIRDS, 60),
        ([5], TWO_THIRDS, 90),
    )
    for scores, ratio, reach in cases:
        lower, rest = enumerated(scores, kind(ratio), reach)
        assert rest < Fraction(1, 10**6)
        exact = exact_pmf(scores, kind(ratio))
        assert sum(exact) == 1
        assert all(low <= value <= low + rest for low, value in zip(lower, exact, strict=True))


@cache
def law(scores: tuple[int, ...], noise: Noise) -> tuple[Fraction, ...]:
    """Return the exact law, computed once for all shifts of the scores."""
    smallest = min(scores)
    return (
        exact_pmf(scores, noise) if smallest == 0 else law(tuple(score - smallest for score in scores), noise)
    )


def grid(candidates: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Yield all scores 0 to 3, these with every change of -1, 0 and 1, and its range distance."""
    for scores in product(range(4), repeat=candidates):
        for change in product((-1, 0, 1), repeat=candidates):
            changed = tuple(score + step for score, step in zip(scores, change, strict=True))
            yield scores, changed, max(change) - min(change)


def worst_ratio(noise: Noise, loss_per_distance: Fraction) -> tuple[Fraction, bool]:
    """Return the largest probability ratio on the grid, and whether none exceeds loss_per_distance**D_R."""
    worst, holds = Fraction(1), True
    for candidates in (1, 2, 3, 4):
        for scores, changed, distance in grid(candidates):
            ratio = max(x / y for x, y in zip(law(scores, noise), law(changed, noise), strict=True))
            worst, holds = max(worst, ratio), holds and ratio <= loss_per_distance**distance
    return worst, holds


@pytest.mark.requirement("NMX-G1")
@pytest.mark.parametrize("noise", NOISES, ids=["one-sided", "two-sided"])
def test_exhaustive_grid_keeps_the_bound(noise: Noise) -> None:
    """Proves: NMX-G1.

    Given: alpha = 2/3, one to four candidates, scores 0 to 3, every change of -1, 0 and 1.
    Then: no ratio exceeds alpha**-D_R; the one-sided noise reaches alpha**-2 = 9/4 exactly.
    Assuming: TAP-A1, NMX-A1, NMX-A2, NMX-A3.
    """
    assert worst_ratio(noise, 1 / TWO_THIRDS) == (WORST[noise], True)


def test_negative_control_half_the_epsilon() -> None:
    """Controls: NMX-G1.

    Half the epsilon claims ratios of at most (3/2)**(D_R / 2). The same grid refutes the weaker (5/4)**D_R.
    """
    assert Fraction(5, 4) ** 2 > 1 / TWO_THIRDS
    for noise in NOISES:
        assert worst_ratio(noise, Fraction(5, 4)) == (WORST[noise], False)


def test_negative_control_gaussian_tails() -> None:
    """Controls: NMX-G1.

    The same check accepts geometric tails and refutes weights 2**(-k * k), |k| <= 20, at |t| <= 12.
    """

    def gaussian(value: int) -> Fraction:
        return Fraction(sum(2 ** (400 - k * k) for k in range(value, 21)))

    for noise in NOISES:
        assert tail_condition_holds(partial(at_least, noise), TWO_THIRDS, 12)
    for ratio in (TWO_THIRDS, Fraction(1, 100), Fraction(1, 1000)):
        assert not tail_condition_holds(gaussian, ratio, 12)


def test_negative_control_threshold_without_tie_order() -> None:
    """Controls: NMX-G1. The same check refutes a threshold that gives ties to the later candidate."""
    before, after, score, noise = z3.Ints("before after score noise")
    wins = z3.And(score + noise > before, score + noise >= after)
    assert not is_theorem(wins == (noise >= z3.If(before >= after, before, after) - score))


def test_negative_control_documents_whose_streams_overlap() -> None:
    """Controls: NMX-G1. The same check refutes documents that are one stream for each candidate apart."""
    assert not draws_apart(20)
