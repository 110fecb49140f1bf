"""Why the costs of documents add up (ACC-G1), and why a divided budget is kept (ACC-G2).

ACC-G1. A cost is ln(exact) in millionths, rounded up, so e**(cost / 10**6) is at least the factor by which a
document's law changes (`test_costs_*`, `test_the_logarithm_*`). An adversary that has seen some outputs names
a pair of documents, and gets the output of the first or the second one. Fresh words make the chance of a
transcript the product of the chances of its outputs, so its factor is at most the product of the factors of
the pairs named on the way (`test_no_adversary_*`, `test_factors_multiply_*`). An adversary that tosses coins
is a mixture of others, and a mixture keeps the factor.

ACC-G2. Shares are rounded down, so they sum to at most the budget (`test_shares_*`). The rule sees classes
and parts, which adjacent documents share, so both get the same levels (`test_the_rule_*`), and the factors of
the tables of these levels multiply (`test_a_divided_budget_*`).

The complete enumerations replace 2**64 by a small number of words; the code runs as it is otherwise.
"""

import ast
import builtins
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, pairwise, product
from math import ceil, floor

import pytest
import sympy
import z3

from veil_reference import budget, tabulated
from veil_reference.accounting import logarithm
from veil_spec.types import Domain, ListedTape, Rows

Document = tuple[int, ...]
"""Tokens by number."""
Pair = tuple[Document, Document]
"""What an adversary names: the document of the first world and that of the second."""
Output = tuple[int, ...]
"""The index of each token's replacement in its part."""
Numbering = Callable[[Sequence[Document], Document], int]
"""The document number of a document, after earlier ones."""
Costing = Callable[[Sequence[Fraction]], tuple[int, int]]
"""As `document_cost`: exact figures to (largest, sum) in millionths."""
MILLION = 10**6


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation (True) or finds a counterexample (False)."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    verdict = solver.check()
    assert verdict in (z3.sat, z3.unsat), "undecided"
    return bool(verdict == z3.unsat)


# Costs are never too small


@cache
def exponential(millionths: int) -> tuple[Fraction, Fraction]:
    """Return rational bounds of e**(millionths / 10**6), for exponents from 0 to 63.

    The series is cut off before x**127 / 127!. From there on each term is less than half the one before it,
    so the rest is less than twice the first. Both bounds are rounded away from each other.
    """
    x, term, low = Fraction(millionths, MILLION), Fraction(1), Fraction(0)
    assert 0 <= x < 64
    for k in range(1, 128):
        low, term = low + term, term * x / k
    scale = 2**128
    return Fraction(floor(low * scale), scale), Fraction(ceil((low + 2 * term) * scale), scale)


def covers(cost: int, ratio: Fraction) -> bool:
    """Return whether e**(cost / 10**6) >= ratio, decided by a rational below it."""
    return exponential(cost)[0] >= ratio


def is_exceeded(cost: int, ratio: Fraction) -> bool:
    """Return whether e**(cost / 10**6) < ratio, decided by a rational above it."""
    return exponential(cost)[1] < ratio


RATIOS = sorted({Fraction(p, q) for q in range(1, 21) for p in range(q, 21)} | {Fraction(2**64 - 1)})


def costs_cover(costing: Costing) -> bool:
    """Return whether a document's costs cover the ratio of its worst token, and of all its tokens."""
    return all(
        covers(costing([ratio])[0], ratio) and covers(costing([ratio, ratio])[1], ratio**2)
        for ratio in RATIOS[:-1]
    )


@pytest.mark.requirement("ACC-G1")
def test_costs_are_never_too_small_and_less_than_a_millionth_too_large() -> None:
    """e**(cost / 10**6) is at least the exact figure.

    Given: all fractions from 1 to 20 with terms up to 20, and the largest ratio of two weights (by machine:
    complete, with rational bounds of the exponential).
    Then: the cost covers the ratio, and the cost less 1 does not; costs of two tokens cover the square. A
    part of which nothing can be told apart costs 0.
    Assuming: nothing.
    Proves: ACC-G1.
    Pins: veil_reference.budget.document_cost 095251f9.
    """
    assert costs_cover(budget.document_cost)
    assert budget.document_cost([Fraction(1)] * 3) == (0, 0) == budget.document_cost([])
    for ratio in RATIOS:
        cost, _ = budget.document_cost([ratio])
        assert covers(cost, ratio)
        assert ratio == 1 or is_exceeded(cost - 1, ratio)


@pytest.mark.requirement("ACC-G1")
def test_the_logarithm_never_falls_short() -> None:
    """The bound that `logarithm` rounds up is at least ln(ratio), for every ratio >= 1 and number n of terms.

    Given: ln(v) = 2 artanh(t) with t = (v - 1) / (v + 1) <= 1/3, cut off after n terms; a mantissa v >= 1
    that is less than 16**-n too small.
    Then: the rest of the series is at most that of a geometric one, 2 t**(2n+1) / ((2n+1) (1 - t**2)), which
    is less than 9**-n / 4 (by machine: sympy). The mantissa costs less than 16**-n, as ln has a slope of at
    most 1 there (argued). For n >= 1 all of it is below the (halvings + 2) 9**-n that is added (by machine:
    z3).
    Assuming: nothing.
    Proves: ACC-G1.
    Pins: veil_reference.accounting.logarithm 9274a564.
    Pins: veil_reference.accounting._series 389e9abc.
    """
    n = sympy.Symbol("n", integer=True, positive=True)
    t = sympy.Symbol("t", positive=True)
    rest = 2 * t ** (2 * n + 1) / ((2 * n + 1) * (1 - t**2))
    # The geometric series: adding its next term to the rest after it gives the rest.
    step = 2 * t ** (2 * n + 1) / (2 * n + 1) + t**2 * rest - rest
    assert sympy.simplify(step) == 0
    at_a_third = sympy.simplify(rest.subs(t, sympy.Rational(1, 3)) * 9**n)
    assert sympy.simplify(at_a_third - sympy.Rational(3, 4) / (2 * n + 1)) == 0
    halvings, ninth, sixteenth = z3.Reals("halvings ninth sixteenth")
    given = z3.And(halvings >= 0, sixteenth > 0, sixteenth <= ninth)
    missing = halvings * ninth / 4 + ninth / 4 + sixteenth
    assert is_theorem(z3.Implies(given, missing <= (halvings + 2) * ninth))
    assert logarithm(Fraction(1)) == "0.000000"


# ACC-G1: the game

WORDS = 8
"""The small tape's words have 3 bits."""
ROWS = {0: (5, 3), 1: (3, 5), 2: (6, 2), 3: (1, 7)}
"""Tokens 0 and 1 are a part, tokens 2 and 3 are another."""
EXACT = {0: Fraction(5, 3), 1: Fraction(5, 3), 2: Fraction(6), 3: Fraction(6)}
"""What each token's part guarantees: the largest ratio of two weights in a column."""


def share_parts(one: Document, other: Document) -> bool:
    """Return whether two documents have the same parts."""
    return [x // 2 for x in one] == [x // 2 for x in other]


@cache
def cost_of(document: Document) -> int:
    """Return what all tokens of a document cost; adjacent documents cost the same."""
    _, every_token = budget.document_cost([EXACT[x] for x in document])
    return every_token


def emit(document: Document, tape: ListedTape, number: int) -> Output:
    """Return the outputs of one document, by the reference's draw."""
    return tuple(int(tabulated.draw(ROWS[x], tape, t, number).index) for t, x in enumerate(document))


SINGLE: tuple[Pair, ...] = tuple(((x,), (y,)) for x, y in product(ROWS, repeat=2) if x // 2 == y // 2)
"""Every pair of adjacent documents of one token, equal ones included, in both orders."""


def adversaries() -> Iterator[tuple[Pair, Mapping[Output, Pair]]]:
    """Yield every adversary of two rounds: its first pair, and the second one for each output it may see."""
    for first, *second in product(SINGLE, repeat=3):
        yield first, {(0,): second[0], (1,): second[1]}


@cache
def transcripts(documents: tuple[Document, ...], output: Output, numbers: tuple[int, ...]) -> int:
    """Return on how many tapes these documents, so numbered, give these outputs."""
    found = 0
    for words in product(range(WORDS), repeat=len(documents)):
        tape = ListedTape({(Domain.DRAW, n, 0): word for n, word in enumerate(words)})
        given = [emit(document, tape, n)[0] for document, n in zip(documents, numbers, strict=True)]
        found += given == list(output)
    return found


def chance(world: int, pairs: Sequence[Pair], output: Output, numbering: Numbering) -> int:
    """Return on how many of 64 tapes the transcript of two pairs and two outputs occurs in a world."""
    documents = tuple(pair[world] for pair in pairs)
    numbers = tuple(numbering(documents[:n], document) for n, document in enumerate(documents))
    return transcripts(documents, output, numbers)


def each_charged(pairs: Sequence[Pair]) -> int:
    """Return the cost of all documents that were named, repeated ones included."""
    return sum(cost_of(one) for one, _ in pairs)


def never(pairs: Sequence[Pair]) -> bool:
    """Return False."""
    return False


def costs_add_up(
    numbering: Numbering,
    charged: Callable[[Sequence[Pair]], int] = each_charged,
    forbidden: Callable[[Sequence[Pair]], bool] = never,
) -> bool:
    """Return whether the charges cover the factor of every transcript that no forbidden pairs lead to."""
    for first, second in adversaries():
        for output in product((0, 1), repeat=2):
            pairs = (first, second[output[:1]])
            one, other = (chance(world, pairs, output, numbering) for world in (0, 1))
            if one > exponential(charged(pairs))[0] * other and not forbidden(pairs):
                return False
    return True


def fresh(earlier: Sequence[Document], document: Document) -> int:
    """Return the next document number."""
    return len(earlier)


@pytest.mark.requirement("ACC-G1")
def test_no_adversary_tells_two_worlds_apart_by_more_than_the_sum_of_costs() -> None:
    """Every transcript's chance changes by at most e**(sum of the costs of the documents named on the way).

    Given: two parts of two tokens, two rounds, all 512 adversaries that choose their second pair, out of all
    adjacent pairs, repeated documents included, by the first output; the reference's draws on all 64 tapes
    (by machine: complete).
    Then: costs add up, whatever the adversary does. Without a cost for the second round they do not.
    Assuming: TAP-A1, NMX-A3.
    Proves: ACC-G1.
    Pins: veil_reference.tabulated.draw 13a21a86.
    """
    assert len(list(adversaries())) == len(SINGLE) ** 3 == 512
    assert costs_add_up(fresh)
    assert not costs_add_up(fresh, charged=lambda pairs: cost_of(pairs[0][0]))


@pytest.mark.requirement("ACC-G1")
def test_factors_multiply_over_any_number_of_rounds_and_over_coins() -> None:
    """If a round and all before it change by at most r and s, both together change by at most r s.

    Given: chances p <= r p' of the transcript so far and q <= s q' of the next output after it (by machine:
    z3 over all reals). Fresh words are independent of all earlier ones, whatever was chosen by them, as
    document and token numbers are their addresses, so chances multiply (argued: NMX-A3).
    Then: by induction every transcript keeps the product of its factors. Mixing adversaries by coins keeps
    the largest factor.
    Assuming: TAP-A1, NMX-A3.
    Proves: ACC-G1.
    """
    p, p_, q, q_, r, s, coin = z3.Reals("p p_ q q_ r s coin")
    positive = z3.And(*(x >= 0 for x in (p, p_, q, q_, r, s)))
    # p q <= r p' q, and r p' q <= r p' s q'.
    assert is_theorem(z3.Implies(z3.And(positive, p <= r * p_), p * q <= r * p_ * q))
    assert is_theorem(z3.Implies(z3.And(positive, q <= s * q_), r * p_ * q <= r * p_ * s * q_))
    mixed = coin * p + (1 - coin) * q <= r * (coin * p_ + (1 - coin) * q_)
    given = z3.And(positive, coin >= 0, coin <= 1, p <= r * p_, q <= r * q_)
    assert is_theorem(z3.Implies(given, mixed))


Mechanism = Callable[[Document, ListedTape], Output]
"""How a document becomes an output."""


def law_of(mechanism: Mechanism, document: Document, words: int = WORDS) -> Counter[Output]:
    """Return on how many tapes a document gets each outputs."""
    tapes = product(range(words), repeat=len(document))
    places = [(Domain.DRAW, 0, token) for token in range(len(document))]
    return Counter(mechanism(document, ListedTape(dict(zip(places, tape, strict=True)))) for tape in tapes)


def within(one: Counter[Output], other: Counter[Output], cost: int) -> bool:
    """Return whether no output is more than e**(cost / 10**6) times as likely in one law as in the other."""
    return all(one[output] <= exponential(cost)[0] * other[output] for output in one | other)


def token_by_token(document: Document, tape: ListedTape) -> Output:
    """Return the outputs of document number 0."""
    return emit(document, tape, 0)


def every_change_is_paid(mechanism: Mechanism) -> bool:
    """Return whether each set of replaced tokens changes the law by at most the sum of their own costs.

    One token alone is covered by the first cost of `document_cost`, and all together by the second one.
    """
    documents = list(product(ROWS, repeat=2))
    laws = {document: law_of(mechanism, document) for document in documents}
    for one, other in product(documents, repeat=2):
        if share_parts(one, other):
            changed = [EXACT[x] for x, y in zip(one, other, strict=True) if x != y]
            every = [EXACT[x] for x in one]
            largest, total = budget.document_cost(every)
            costs = {budget.document_cost(changed)[1], total} | ({largest} if len(changed) < 2 else set())
            if not all(within(laws[one], laws[other], cost) for cost in costs):
                return False
    return True


@pytest.mark.requirement("ACC-G1")
def test_one_replaced_token_pays_the_largest_cost_and_all_tokens_pay_the_sum() -> None:
    """Both costs of a document say what they claim, and any set of tokens pays the sum of its own.

    Given: all documents of two tokens of two parts, all pairs with equal parts, all 64 tapes (by machine:
    complete).
    Then: one replaced token changes the law by at most the first cost, all tokens by at most the second one,
    and k tokens by at most the sum of their costs.
    Assuming: TAP-A1, NMX-A1, NMX-A2, NMX-A3.
    Proves: ACC-G1.
    """
    assert every_change_is_paid(token_by_token)


# ACC-G2: the divided budget

Divide = Callable[[int, Sequence[int], Rows], Sequence[int]]
"""As `divide`: (budget, weights, costs) to levels."""


def small_divisions() -> Iterator[tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]]:
    """Yield every budget below 8 with two tokens of weights below 4, and every one below 6 with three."""
    lists = [costs for size in range(3) for costs in combinations(range(4), size)]
    yield from product(range(8), product(range(4), repeat=2), product(lists, repeat=2))
    few = [(), (0,), (1,), (2,), (1, 2)]
    yield from product(range(6), product(range(3), repeat=3), product(few, repeat=3))


def keeps_the_budget(dividing: Divide) -> bool:
    """Return whether the levels of every small division cost at most its budget."""
    return all(
        sum(
            rising[level - 1]
            for rising, level in zip(costs, dividing(given, weights, costs), strict=True)
            if level
        )
        <= given
        for given, weights, costs in small_divisions()
    )


@pytest.mark.requirement("ACC-G2")
def test_shares_rounded_down_sum_to_at_most_the_budget() -> None:
    """The costs of the chosen levels sum to at most B.

    Given: shares f with f S <= B s, as rounding B s / S down gives; S is the sum of all s (by machine: z3
    over all integers). The step adds one token to any number: (F + f) S <= B (T + s) if F S <= B T.
    Then: F S <= B S in the end, so F <= B where S > 0; where S is 0 every level is 0 and costs nothing. The
    cost at a level is at most the share (by machine: z3, one to three rising costs). The reference keeps
    this for all small budgets, weights and costs (by machine: complete).
    Assuming: nothing.
    Proves: ACC-G2.
    Pins: veil_reference.budget.divide db62242d.
    """
    total, part, whole, share, weight, given = z3.Ints("F T S f s B")
    rounded = z3.And(whole > 0, given >= 0, weight >= 0, share == given * weight / whole)
    assert is_theorem(z3.Implies(rounded, share * whole <= given * weight))
    so_far = z3.And(total * whole <= given * part, share * whole <= given * weight)
    assert is_theorem(z3.Implies(so_far, (total + share) * whole <= given * (part + weight)))
    assert is_theorem(z3.Implies(z3.And(whole > 0, total * whole <= given * whole), total <= given))
    assert all(the_level_costs_at_most_the_share(size) for size in (1, 2, 3))
    assert keeps_the_budget(budget.divide)


def the_level_costs_at_most_the_share(size: int) -> bool:
    """Return whether as many rising costs as are at most the share are the first ones, and no more."""
    costs, share = z3.IntVector("cost", size), z3.Int("share")
    rising = z3.And(*(a <= b for a, b in pairwise(costs)))
    level = z3.Sum([z3.If(cost <= share, 1, 0) for cost in costs])
    claims = [z3.Implies(level >= n + 1, cost <= share) for n, cost in enumerate(costs)]
    claims += [z3.Implies(level <= n, cost > share) for n, cost in enumerate(costs)]
    return is_theorem(z3.Implies(rising, z3.And(*claims)))


def names_read(source: str, function: str) -> set[str]:
    """Return the names that a function reads and neither gets as arguments nor sets, built-ins excluded."""
    nodes = ast.walk(ast.parse(source))
    found = next(n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == function)
    annotations = [a.annotation for a in found.args.args if a.annotation] + [found.returns]
    skipped = {id(n) for a in annotations if a for n in ast.walk(a)}
    names = [n for n in ast.walk(found) if isinstance(n, ast.Name) and id(n) not in skipped]
    own = {a.arg for a in found.args.args} | {n.id for n in names if isinstance(n.ctx, ast.Store)}
    return {n.id for n in names} - own - set(dir(builtins))


@pytest.mark.requirement("ACC-G2")
def test_the_rule_sees_a_budget_weights_and_costs_and_nothing_else() -> None:
    """The levels are a function of the budget and of what classes and parts determine.

    Given: the parameters of `divide`, and the names that it and its check of the input read (by machine:
    signature and syntax tree).
    Then: neither token nor tape nor state reaches it. Weights are those of classes and costs those of parts
    (ACC-R17), and adjacent documents have equal parts, so they get equal levels (argued).
    Assuming: NMX-A1.
    Proves: ACC-G2.
    """
    assert list(inspect.signature(budget.divide).parameters) == ["budget", "weights", "costs"]
    source = inspect.getsource(budget)
    assert names_read(source, "divide") == {"_check"}
    assert names_read(source, "_check") == {"pairwise", "Refused", "Refusal"}


LEVEL_WORDS = 32
"""The words of the tables below; their rows sum to this."""
LEVELS: Mapping[int, tuple[Rows, Rows]] = {
    0: (((20, 12), (12, 20)), ((24, 8), (8, 24))),
    1: (((2, 15, 15), (5, 22, 5), (5, 5, 22)), ((28, 2, 2), (2, 28, 2), (2, 2, 28))),
}
"""For each part the tables of levels 1 and 2."""
TOKENS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
"""(part, place) of each token number."""
WEIGHTS = (1, 3)
"""The public weight of each part's class."""
Rule = Callable[[Document, int], Sequence[int]]
"""How the levels of a document are chosen for a budget."""


@cache
def part_cost(table: Rows) -> int:
    """Return the cost of a part's table in millionths."""
    ratios = [Fraction(max(column), min(column)) for column in zip(*table, strict=True)]
    return budget.document_cost([max(ratios)])[0]


def public_rule(document: Document, given: int) -> Sequence[int]:
    """Return the levels by the weights and costs of the parts."""
    parts = [TOKENS[x][0] for x in document]
    costs = [[part_cost(table) for table in LEVELS[part]] for part in parts]
    return budget.divide(given, [WEIGHTS[part] for part in parts], costs)


@cache
def own_cost(token: int, table: Rows) -> int:
    """Return the cost of one token alone: its largest ratio with any other token of its part."""
    row = table[TOKENS[token][1]]
    ratios = [Fraction(max(a, b), min(a, b)) for other in table for a, b in zip(row, other, strict=True)]
    return budget.document_cost([max(ratios)])[0]


def private_rule(document: Document, given: int) -> Sequence[int]:
    """Return the levels by the cost of each token itself, which tells which token it is."""
    costs = [[own_cost(x, table) for table in LEVELS[TOKENS[x][0]]] for x in document]
    return budget.divide(given, [WEIGHTS[TOKENS[x][0]] for x in document], costs)


@cache
def divided_law(document: Document, levels: tuple[int, ...]) -> Counter[Output]:
    """Return on how many tapes a document gets each outputs, with a level for each token."""

    def select(token: int, level: int, tape: ListedTape, n: int) -> int:
        part, place = TOKENS[token]
        if level == 0:
            return tabulated.draw_uniformly(len(LEVELS[part][0]), tape, n).index
        return tabulated.draw(LEVELS[part][level - 1][place], tape, n).index

    def mechanism(tokens: Document, tape: ListedTape) -> Output:
        chosen = enumerate(zip(tokens, levels, strict=True))
        return tuple(select(token, level, tape, n) for n, (token, level) in chosen)

    return law_of(mechanism, document, LEVEL_WORDS)


def budgets() -> list[int]:
    """Return the budgets at which some division of one or two tokens changes, and those just below them."""
    costs = [part_cost(table) for tables in LEVELS.values() for table in tables]
    edges = {cost * total for cost in costs for total in (1, 2, 4)} | {-(-cost * 4 // 3) for cost in costs}
    return sorted({0} | edges | {edge - 1 for edge in edges})


def budget_is_kept(rule: Rule) -> bool:
    """Return whether no budget is exceeded by any two documents of equal parts, of one or two tokens."""
    documents = [document for size in (1, 2) for document in product(range(len(TOKENS)), repeat=size)]
    parts = {document: tuple(TOKENS[x][0] for x in document) for document in documents}
    for given in budgets():
        laws = {document: divided_law(document, tuple(rule(document, given))) for document in documents}
        pairs = ((one, other) for one, other in product(documents, repeat=2) if parts[one] == parts[other])
        if not all(within(laws[one], laws[other], given) for one, other in pairs):
            return False
    return True


@pytest.mark.requirement("ACC-G2")
def test_a_divided_budget_covers_any_number_of_replaced_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of equal parts get equal levels, and their laws differ by a factor of at most e**(B / 10**6).

    Given: a part of two and a part of three tokens with two levels, class weights 1 and 3, all documents of
    one and two tokens, all pairs with equal parts, every budget at which a level changes and the one below
    it, all words below 32 (by machine: complete). In general: the sum of the costs, and ACC-G1.
    Then: the budget covers every pair.
    Assuming: TAP-A1, NMX-A1, NMX-A2, NMX-A3.
    Proves: ACC-G2.
    Pins: veil_reference.tabulated.draw_uniformly 6355288b.
    """
    monkeypatch.setattr(tabulated, "WHOLE", LEVEL_WORDS)
    for given, x, y in product(budgets(), range(2), range(2, len(TOKENS))):
        assert public_rule((x, y), given) == public_rule((0, 2), given)
    assert {level for given in budgets() for level in public_rule((0, 2), given)} == {0, 1, 2}
    assert budget_is_kept(public_rule)


# Negative controls


def always_0(earlier: Sequence[Document], document: Document) -> int:
    """Return one document number for all: the same noise again."""
    return 0


def memoised(earlier: Sequence[Document], document: Document) -> int:
    """Return the number of the first equal document: an equal output for an equal document."""
    return earlier.index(document) if document in earlier else len(earlier)


def equal_in_one_world(pairs: Sequence[Pair]) -> bool:
    """Return whether the two documents are equal in one world and not in the other one."""
    (one, other), (one_, other_) = pairs
    return (one == one_) != (other == other_)


def once_charged(pairs: Sequence[Pair]) -> int:
    """Return the cost of the documents that differ, in the first world."""
    return sum(cost_of(document) for document in {one for one, _ in pairs})


def rounding_down(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Return costs that are a millionth smaller, as rounding down gives, and 0 where they are 0."""
    costs = [max(0, budget.document_cost([exact])[0] - 1) for exact in exacts]
    return max(costs, default=0), sum(costs)


def in_context(document: Document, tape: ListedTape) -> Output:
    """Return outputs of which each depends on both tokens: the row of a token moves with its neighbour."""
    moved = tuple(2 * (x // 2) + (x + document[n - 1]) % 2 for n, x in enumerate(document))
    return emit(moved, tape, 0)


def rounding_up(given: int, weights: Sequence[int], costs: Rows) -> list[int]:
    """Return levels by shares that are rounded up."""
    total = max(sum(weights), 1)
    return [
        sum(cost <= -(-given * weight // total) for cost in rising) if weight else 0
        for rising, weight in zip(costs, weights, strict=True)
    ]


def test_negative_control_reused_noise() -> None:
    """The same check finds an adversary where two documents have one number.

    Controls: ACC-G1.
    """
    assert not costs_add_up(always_0)


def test_negative_control_equal_outputs_for_equal_documents() -> None:
    """The same check rejects answers from memory: equal outputs reveal equal inputs.

    Where the same documents are equal in both worlds, it accepts even that a repeated one is charged once.

    Controls: ACC-G1.
    """
    assert not costs_add_up(memoised)
    assert costs_add_up(memoised, once_charged, equal_in_one_world)


def test_negative_control_costs_rounded_down() -> None:
    """The same check rejects costs that are a millionth too small.

    Controls: ACC-G1.
    """
    assert not costs_cover(rounding_down)


def test_negative_control_a_mechanism_that_looks_at_the_context() -> None:
    """The same check rejects a mechanism in which one replaced token changes two outputs.

    Controls: ACC-G1.
    """
    assert not every_change_is_paid(in_context)


def test_negative_control_shares_rounded_up() -> None:
    """The same check finds a division that costs more than the budget.

    Controls: ACC-G2.
    """
    assert not keeps_the_budget(rounding_up)


def test_negative_control_a_rule_that_looks_at_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels by each token's own exact figure exceed the budget: the level itself tells the token.

    Controls: ACC-G2.
    """
    monkeypatch.setattr(tabulated, "WHOLE", LEVEL_WORDS)
    assert not budget_is_kept(private_rule)


def test_negative_control_a_rule_that_reads_more_than_its_arguments() -> None:
    """The same look at the source notices a rule that reads the document from elsewhere.

    Controls: ACC-G2.
    """
    source = "def divide(budget, weights, costs):\n    return [document[0] for _ in weights]\n"
    assert names_read(source, "divide") == {"document"}
