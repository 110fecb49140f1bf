"""What documents cost, and how a document's budget is divided by a public rule."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from veil_optimized.accounting import logarithm
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Rows

__all__ = ["cost_of", "divide", "document_cost"]


@lru_cache(maxsize=2**16)
def cost_of(exact: Fraction) -> int:
    """Return ln(exact) in millionths, rounded up."""
    whole, _, millionths = logarithm(exact).partition(".")
    return int(whole) * 10**6 + int(millionths)


def document_cost(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Return (largest, sum) of ln(exact) over the tokens of a document, in millionths rounded up.

    Source: spec/accounting.md, Composition.
    Implements: ACC-R16.
    """
    costs = [cost_of(exact) for exact in exacts]
    return max([0, *costs]), sum(costs)


def _is_amount(number: object) -> bool:
    return type(number) is int and 0 <= number <= 2**63 - 1


def divide(budget: int, weights: Sequence[int], costs: Rows) -> list[int]:
    """Return the level of each token: 0 for a uniform replacement, else 1 + its place in the token's costs.

    Source: spec/accounting.md, Budgets.
    Implements: ACC-R17, ACC-R18.
    Refuses: BUDGET_MALFORMED.
    """
    if not (_is_amount(budget) and all(map(_is_amount, weights))):
        raise Refused(Refusal.BUDGET_MALFORMED, "a budget and a weight are integers from 0 to 2^63 - 1")
    if len(weights) != len(costs):
        raise Refused(Refusal.BUDGET_MALFORMED, "one weight and one list of costs for each token")
    for row in costs:
        if not all(map(_is_amount, row)) or any(high < low for low, high in pairwise(row)):
            raise Refused(Refusal.BUDGET_MALFORMED, "costs are never falling integers from 0 to 2^63 - 1")
    total = sum(weights)
    return [
        bisect_right(row, budget * weight // total) if weight else 0
        for row, weight in zip(costs, weights, strict=True)
    ]
