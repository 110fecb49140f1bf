"""What documents cost, and how a document's budget is divided by a public rule."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from veil_reference.accounting import logarithm
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Rows

__all__ = ["divide", "document_cost"]


def document_cost(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Return (largest, sum) of ln(exact) over the tokens of a document, in millionths rounded up.

    Source: spec/accounting.md, Composition.
    Implements: ACC-R16.
    """
    costs = [int(logarithm(exact).replace(".", "")) for exact in exacts]
    return max(costs, default=0), sum(costs)


def divide(budget: int, weights: Sequence[int], costs: Rows) -> list[int]:
    """Return the level of each token: 0 for a uniform replacement, else 1 + its place in the token's costs.

    Source: spec/accounting.md, Budgets.
    Implements: ACC-R17.
    Refuses: BUDGET_MALFORMED.
    """
    _check(budget, weights, costs)
    total = max(sum(weights), 1)
    shares = [budget * weight // total for weight in weights]
    return [
        sum(cost <= share for cost in rising) if weight else 0
        for rising, share, weight in zip(costs, shares, weights, strict=True)
    ]


def _check(budget: int, weights: Sequence[int], costs: Rows) -> None:
    """Refuse what is not a budget, a weight for each token and a never falling list of costs for each token.

    Implements: ACC-R18.
    """
    numbers = [budget, *weights, *(cost for rising in costs for cost in rising)]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise Refused(Refusal.BUDGET_MALFORMED, "budgets, weights and costs are integers from 0 to 2^63 - 1")
    rising = all(a <= b for row in costs for a, b in pairwise(row))
    if len(weights) != len(costs) or not rising:
        raise Refused(Refusal.BUDGET_MALFORMED, "a weight and a never falling list of costs for each token")
