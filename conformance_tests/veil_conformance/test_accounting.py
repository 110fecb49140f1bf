"""Accounting: the exact law, certificates, calibration."""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from itertools import product
from math import ceil, factorial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import DIGITS, examples, ln, refusal
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import (
    Certificate,
    Geometric,
    Noise,
    PaperCertificate,
    Part,
    Rows,
    Table,
    TabulatedPart,
    TabulatedTable,
    TwoSidedGeometric,
    WorstPair,
)

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


def limit(epsilon: str) -> Fraction:
    """Return e(E) for a decimal."""
    return sum((Fraction(epsilon) ** k / factorial(k) for k in range(256)), Fraction(0))


def bisected(epsilon: str, weights: Callable[[Fraction], Rows]) -> int:
    """Return the numerator that the bisection of ACC-R10 ends at."""
    low, high, most = 0, LIMIT, limit(epsilon)
    while high - low > 1:
        middle = (low + high) // 2
        columns = list(zip(*weights(Fraction(middle, LIMIT)), strict=True))
        if all(Fraction(max(column), min(column)) <= most for column in columns):
            high = middle
        else:
            low = middle
    return high


def calibrated(impl: Implementation, epsilon: str, scores: Rows, two_sided: bool) -> int | Refusal:
    """Return the numerator that calibration finds, or why it refuses."""
    found: list[Fraction] = []
    refused = refusal(lambda: found.append(impl.calibrate_part(epsilon, scores, two_sided)))
    return refused or int(found[0] * LIMIT)


def expected(numerator: int) -> int | Refusal:
    """Return what calibration answers where the bisection ends at a numerator."""
    return numerator if numerator < LIMIT else Refusal.EPSILON_OUT_OF_RANGE


claims = st.sampled_from(["1", "0.5", "3", "0.00001", "44.3", "44.4", "64"])


@pytest.mark.requirement("ACC-R10")
@given(data=st.data(), size=st.integers(1, 3), two_sided=st.booleans(), epsilon=claims)
@examples(10)
def test_calibration_of_a_part_bisects_its_weights(
    impl: Implementation, data: st.DataObject, size: int, two_sided: bool, epsilon: str
) -> None:
    scores = data.draw(strategies.matrices(st.integers(0, 4), size, size))
    make: Callable[[Fraction], Noise] = TwoSidedGeometric if two_sided else Geometric
    numerator = bisected(epsilon, lambda alpha: [impl.tabulate(row, make(alpha)) for row in scores])
    assert calibrated(impl, epsilon, scores, two_sided) == expected(numerator)


def pair(alpha: Fraction, gap: int) -> Rows:
    """Return the weights of two tokens whose own score is ahead by a gap, with one-sided noise."""
    second, first = alpha ** (gap + 1) / (1 + alpha), alpha**gap / (1 + alpha)
    low, high = max(1, int(2**64 * second)), max(1, int(2**64 * first))
    return (2**64 - low, low), (high, 2**64 - high)


@pytest.mark.requirement("ACC-R10")
@given(gap=st.integers(1, 5), epsilon=claims | st.integers(1, 50).map(lambda n: f"{n // 10}.{n % 10}"))
@example(gap=1, epsilon="1")
@examples(40)
def test_calibration_of_two_tokens_by_hand(impl: Implementation, gap: int, epsilon: str) -> None:
    numerator = bisected(epsilon, lambda alpha: pair(alpha, gap))
    assert calibrated(impl, epsilon, [[gap, 0], [0, gap]], False) == expected(numerator)


@pytest.mark.requirement("ACC-R10")
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("scores", [[[3]], [[0, 0], [0, 0]], [[2, 0, 1]] * 3], ids=str)
def test_a_part_whose_rows_are_equal_needs_no_noise(
    impl: Implementation, scores: Rows, two_sided: bool
) -> None:
    assert impl.calibrate_part("0.001", scores, two_sided) == Fraction(1, LIMIT)


@pytest.mark.requirement("ACC-R10")
@pytest.mark.parametrize("epsilon", ["0.00001", "0", "65", "abc", 0, -1, Fraction(65)], ids=repr)
def test_a_part_is_not_calibrated_to_an_epsilon_out_of_range(
    impl: Implementation, epsilon: Fraction | int | str
) -> None:
    calibrate = impl.calibrate_part
    assert refusal(calibrate, epsilon, [[1, 0], [0, 1]], False) == Refusal.EPSILON_OUT_OF_RANGE


def worst(table: TabulatedTable) -> tuple[Fraction, WorstPair]:
    """Return the first largest ratio of two weights of a column, from all of them."""
    found = [
        (Fraction(part.weights[x][y], part.weights[other][y]), WorstPair(*(part.tokens[n] for n in triple)))
        for part in table.parts
        for triple in product(range(len(part.tokens)), repeat=3)
        for x, other, y in [triple]
    ]
    largest = max(ratio for ratio, _ in found)
    return next((ratio, named) for ratio, named in found if ratio == largest)


@pytest.mark.requirement("ACC-R11")
@given(table=strategies.tabulated_tables())
@examples(40)
def test_the_exact_figure_of_weights_is_their_first_largest_ratio(
    impl: Implementation, table: TabulatedTable
) -> None:
    certificate = impl.tabulated_certificate(table)
    assert (certificate.exact, certificate.worst) == worst(table)


HALF, WHOLE = 2**63, 2**64


def tabulated(epsilon: str, *weights: Rows) -> TabulatedTable:
    """Return a tabulated table with these weights and scores of 0."""
    parts = []
    for number, rows in enumerate(weights):
        tokens = tuple(f"{number}{'abcdef'[n]}" for n in range(len(rows)))
        parts.append(TabulatedPart(tokens, ((0,) * len(rows),) * len(rows), tuple(map(tuple, rows))))
    return TabulatedTable("suite", epsilon, tuple(parts))


@pytest.mark.requirement("ACC-R11")
@pytest.mark.parametrize(
    ("weights", "exact", "named"),
    [
        ([[[WHOLE]]], Fraction(1), ("0a", "0a", "0a")),
        ([[[WHOLE]], [[HALF, HALF], [HALF, HALF]]], Fraction(1), ("0a", "0a", "0a")),
        ([[[HALF, HALF], [HALF // 2, 3 * HALF // 2]]], Fraction(2), ("0a", "0b", "0a")),
        ([[[1, WHOLE - 1], [HALF, HALF]]], Fraction(HALF), ("0b", "0a", "0a")),
        ([[[HALF, HALF]] * 2, [[1, WHOLE - 1], [WHOLE - 1, 1]]], Fraction(WHOLE - 1), ("1a", "1b", "1b")),
    ],
)
def test_known_exact_figures_of_weights(
    impl: Implementation, weights: list[Rows], exact: Fraction, named: tuple[str, str, str]
) -> None:
    certificate = impl.tabulated_certificate(tabulated("64", *weights))
    assert (certificate.exact, certificate.worst) == (exact, WorstPair(*named))


CLAIMS = ("1", "0.1", "2.718", "01.50", "0.0000001", "43")


@pytest.mark.requirement("ACC-R12")
@pytest.mark.parametrize("epsilon", ["1", "0.001", "8", "64", "0.12345678901234567890"])
def test_the_bound_of_weights_is_the_claims_series(impl: Implementation, epsilon: str) -> None:
    certificate = impl.tabulated_certificate(tabulated(epsilon, [[HALF, HALF]] * 2))
    assert certificate.bound == limit(epsilon)


@pytest.mark.requirement("ACC-R12")
@pytest.mark.parametrize("epsilon", CLAIMS)
def test_a_claim_is_met_to_the_last_weight(impl: Implementation, epsilon: str) -> None:
    low = 2**62 if limit(epsilon) < 2 else WHOLE // (2 * ceil(limit(epsilon)))
    high = int(low * limit(epsilon))
    met, missed = ([[low, WHOLE - low], [top, WHOLE - top]] for top in (high, high + 1))
    even = [[HALF, HALF]] * 2
    certificate = impl.tabulated_certificate(tabulated(epsilon, even, met))
    assert certificate.exact == Fraction(high, low) <= certificate.bound
    assert refusal(impl.tabulated_certificate, tabulated(epsilon, even, missed)) == Refusal.CLAIM_NOT_MET


@pytest.mark.requirement("ACC-R12")
def test_a_malformed_table_is_refused_before_its_claim(impl: Implementation) -> None:
    table = tabulated("1", [[1, WHOLE - 1], [HALF, HALF - 1]])
    assert refusal(impl.tabulated_certificate, table) == Refusal.TABLE_MALFORMED


@pytest.mark.requirement("ACC-R12")
@given(table=strategies.tables(), epsilon=st.sampled_from(["0.5", "1", "3"]), two_sided=st.booleans())
@examples(10)
def test_a_calibrated_table_meets_its_claim(
    impl: Implementation, table: Table, epsilon: str, two_sided: bool
) -> None:
    parts = []
    for part in table.parts:
        noise = impl.noise(impl.calibrate_part(epsilon, part.scores, two_sided), two_sided)
        weights = tuple(tuple(impl.tabulate(row, noise)) for row in part.scores)
        parts.append(TabulatedPart(part.tokens, part.scores, weights))
    certificate = impl.tabulated_certificate(TabulatedTable(table.name, epsilon, tuple(parts)))
    assert certificate.exact <= certificate.bound == limit(epsilon)


@pytest.mark.requirement("ACC-R12")
@given(
    table=strategies.tabulated_tables(), epsilon=st.sampled_from(["64", "44.4", "45.123456", "50.0000001"])
)
@examples(20)
def test_the_other_fields_are_those_of_any_certificate(
    impl: Implementation, table: TabulatedTable, epsilon: str
) -> None:
    made = impl.tabulated_certificate(TabulatedTable(table.name, epsilon, table.parts))
    scored = Table(table.name, tuple(Part(part.tokens, part.scores) for part in table.parts))
    noisy = impl.certificate(scored, Geometric(Fraction(1, 2)))
    same = ("range_distance", "adjacency", "part_bits")
    assert [getattr(made, name) for name in same] == [getattr(noisy, name) for name in same]
    millionths = ceil(Fraction(epsilon) * 10**6)
    assert made.epsilon_bound == f"{millionths // 10**6}.{millionths % 10**6:06d}"
    assert made.epsilon_exact == decimals(worst(table)[0])
    columns = [column for part in table.parts for column in zip(*part.weights, strict=True)]
    assert made.bayes_recovery == Fraction(sum(map(max, columns)), WHOLE * len(columns))


@pytest.mark.requirement("ACC-R13")
@given(data=st.data(), table=strategies.tabulated_tables())
@examples(40)
def test_weighted_recovery_is_the_chance_of_the_best_guess(
    impl: Implementation, data: st.DataObject, table: TabulatedTable
) -> None:
    size = sum(len(part.tokens) for part in table.parts)
    each = st.integers(0, 9) | st.integers(0, 2**52)
    counts = data.draw(st.lists(each, min_size=size, max_size=size).filter(any))
    first, guessed = 0, Fraction(0)
    for part in table.parts:
        own = counts[first : first + len(part.tokens)]
        for y in range(len(part.tokens)):
            guessed += max(count * Fraction(part.weights[x][y], WHOLE) for x, count in enumerate(own))
        first += len(part.tokens)
    assert impl.weighted_recovery(table, counts) == guessed / sum(counts)


PAIR = tabulated("64", [[3 * HALF // 2, HALF // 2], [HALF // 2, 3 * HALF // 2]], [[WHOLE]])


@pytest.mark.requirement("ACC-R13")
@pytest.mark.parametrize(
    ("counts", "recovered"),
    [
        ([1, 1, 0], Fraction(3, 4)),
        ([2**70, 2**70, 0], Fraction(3, 4)),
        ([3, 1, 0], Fraction(3, 4)),
        ([9, 1, 0], Fraction(9, 10)),
        ([0, 0, 5], Fraction(1)),
        ([1, 1, 2], Fraction(7, 8)),
    ],
)
def test_known_recoveries(impl: Implementation, counts: list[int], recovered: Fraction) -> None:
    assert impl.weighted_recovery(PAIR, counts) == recovered


@pytest.mark.requirement("ACC-R13")
@pytest.mark.parametrize(
    "counts", [[], [1, 1], [1, 1, 1, 1], [0, 0, 0], [1, -1, 1], [2, -1, 0], [1, 0.5, 1], [1, "1", 1]], ids=str
)
def test_counts_that_are_none_are_refused(impl: Implementation, counts: list[object]) -> None:
    recovery: Callable[..., object] = impl.weighted_recovery
    assert refusal(recovery, PAIR, counts) == Refusal.TABLE_MALFORMED


def names(certificate: Certificate, alone: list[str]) -> bool:
    """Return whether a certificate names these tokens as verbatim and says what is not covered."""
    stated = ("length", "positions", "timing", "context", "case and white space")
    more = ("verbatim tokens",) if alone else ()
    return (certificate.verbatim, certificate.not_covered) == (tuple(alone), stated + more)


@pytest.mark.requirement("ACC-R14")
@given(table=strategies.tables(), noise=noises)
@examples(40)
def test_tokens_that_are_a_part_of_their_own_are_named_verbatim(
    impl: Implementation, table: Table, noise: Noise
) -> None:
    alone = [part.tokens[0] for part in table.parts if len(part.tokens) == 1]
    assert names(impl.certificate(table, noise), alone)


@pytest.mark.requirement("ACC-R14")
@given(table=strategies.tabulated_tables())
@examples(40)
def test_a_tabulated_certificate_names_them_too(impl: Implementation, table: TabulatedTable) -> None:
    alone = [part.tokens[0] for part in table.parts if len(part.tokens) == 1]
    assert names(impl.tabulated_certificate(table), alone)


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[list[int]]:
    """Return equally many candidates of each entry, never itself."""
    entries = draw(st.integers(2, 5))
    count = draw(st.integers(1, entries - 1))
    others = [[other for other in range(entries) if other != entry] for entry in range(entries)]
    return [draw(st.permutations(row))[:count] for row in others]


@pytest.mark.requirement("ACC-R15")
@given(candidates=candidate_lists())
@example(candidates=[[1], [0]])
@example(candidates=[[1, 2], [2, 0], [1, 0]])
@example(candidates=[[2], [2], [0]])
def test_the_papers_profile_has_no_epsilon(impl: Implementation, candidates: list[list[int]]) -> None:
    tokens = [f"t{n}" for n in range(len(candidates))][::-1]
    every = product(range(len(candidates)), range(len(candidates)), range(len(candidates[0])))
    triples = [(x, other, candidates[x][place]) for x, other, place in every]
    first = next((x, other, y) for x, other, y in triples if y not in candidates[other])
    assert impl.paper_certificate(tokens, candidates) == PaperCertificate(
        "one token replaced by any other token", "infinite", WorstPair(*(tokens[n] for n in first))
    )


def millionths(ratio: Fraction) -> int:
    """Return ln(ratio) in millionths, rounded up."""
    return int(decimals(ratio).replace(".", ""))


ratios = st.builds(Fraction, st.integers(2**64, 2**80), st.integers(1, 2**64)) | st.sampled_from(
    [Fraction(1), 1 + Fraction(1, 2**64), Fraction(2**64 - 1), Fraction(3, 2)]
)


@pytest.mark.requirement("ACC-R16")
@given(exacts=st.lists(ratios, max_size=6))
@example(exacts=[])
@example(exacts=[Fraction(1)])
@example(exacts=[1 + Fraction(1, 2**64)] * 3)
@example(exacts=[Fraction(3), Fraction(2), Fraction(2)])
def test_a_document_costs_the_largest_and_the_sum_of_its_tokens(
    impl: Implementation, exacts: list[Fraction]
) -> None:
    costs = [millionths(exact) for exact in exacts]
    assert tuple(impl.document_cost(exacts)) == (max(costs, default=0), sum(costs))


@pytest.mark.requirement("ACC-R16")
@pytest.mark.parametrize(
    ("exacts", "cost"),
    [
        ([], (0, 0)),
        ([Fraction(2)], (693148, 693148)),
        ([Fraction(2), Fraction(10), Fraction(1)], (2302586, 2995734)),
        ([1 + Fraction(1, 10**7)] * 4, (1, 4)),
    ],
)
def test_known_costs(impl: Implementation, exacts: list[Fraction], cost: tuple[int, int]) -> None:
    assert tuple(impl.document_cost(exacts)) == cost


MOST = 2**63 - 1
sizes = st.integers(0, 30) | st.integers(0, MOST) | st.sampled_from([2**53, 2**53 + 1, MOST])


@st.composite
def documents(draw: st.DrawFn) -> list[tuple[int, list[int]]]:
    """Return (weight, costs of the levels) of each token, often the same for several."""
    rising = st.lists(sizes, max_size=4).map(sorted)
    parts = draw(st.lists(st.tuples(sizes, rising), min_size=1, max_size=4))
    return draw(st.lists(st.sampled_from(parts), max_size=6))


@pytest.mark.requirement("ACC-R17")
@given(budget=sizes, document=documents())
@example(budget=10, document=[(1, [3, 4]), (1, [3, 4]), (1, [3, 4])])
@example(budget=11, document=[(1, [3, 4]), (1, [3, 4]), (1, [3, 4])])
@example(budget=12, document=[(1, [3, 4]), (1, [3, 4]), (1, [3, 4])])
@example(budget=7, document=[(0, [0, 1]), (2, [0, 7, 8])])
@example(budget=5, document=[(0, [0]), (0, [])])
@example(budget=9, document=[(1, [0, 0, 0]), (2, [6, 6, 7])])
@example(budget=0, document=[(1, [0, 1])])
@example(budget=MOST, document=[(MOST, [MOST // 3, MOST // 3 + 1])] * 3)
def test_division_gives_the_highest_level_that_a_share_pays(
    impl: Implementation, budget: int, document: list[tuple[int, list[int]]]
) -> None:
    total = sum(weight for weight, _ in document)
    levels = impl.divide(budget, [weight for weight, _ in document], [costs for _, costs in document])
    assert len(levels) == len(document)
    spent = 0
    for level, (weight, costs) in zip(levels, document, strict=True):
        share = Fraction(budget * weight, total) if total else Fraction(0)
        payable = [number for number, cost in enumerate(costs, 1) if cost <= share and weight]
        assert level == max(payable, default=0)
        spent += costs[level - 1] if level else 0
    assert spent <= budget


@pytest.mark.requirement("ACC-R18")
@pytest.mark.parametrize(
    ("budget", "weights", "costs"),
    [
        (-1, [1], [[1]]),
        (2**63, [1], [[1]]),
        (1.0, [1], [[1]]),
        ("1", [1], [[1]]),
        (None, [], []),
        (1, [-1], [[1]]),
        (1, [2, -1], [[1], [1]]),
        (1, [2**63], [[1]]),
        (1, [0.5], [[1]]),
        (1, [1], [[-1]]),
        (1, [1], [[2**63]]),
        (1, [1], [[0.5]]),
        (1, [1], [[2, 1]]),
        (1, [1], [[1, 3, 2]]),
        (1, [0], [[2, 1]]),
        (1, [1, 1], [[1]]),
        (1, [1], [[1], [1]]),
        (1, [], [[1]]),
    ],
    ids=str,
)
def test_what_is_no_budget_is_refused(
    impl: Implementation, budget: object, weights: list[object], costs: list[list[object]]
) -> None:
    divide: Callable[..., object] = impl.divide
    assert refusal(divide, budget, weights, costs) == Refusal.BUDGET_MALFORMED


@pytest.mark.requirement("ACC-R18")
def test_budgets_at_their_limits_are_taken(impl: Implementation) -> None:
    assert list(impl.divide(MOST, [MOST], [[0, MOST]])) == [2]
    assert list(impl.divide(0, [], [])) == []
    assert list(impl.divide(0, [1], [[]])) == [0]
    assert list(impl.divide(1, [1], [[1, 1]])) == [2]
    assert list(impl.divide(1, [1], [[1, 1]])) == [2]
