"""Which shard of a group's weights each rank of a worker holds, and how the products of the ranks join.

The numbers are integers, so any number of ranks gives the same words as one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import reduce
from typing import Final

import torch

from veil_optimized import kernels, wide
from veil_optimized.lwe import halves
from veil_spec import constants


class Split(StrEnum):
    """Along which dimension weights [outputs, inner] are cut, as transformers' plans call it."""

    COLWISE = "colwise"
    """A rank has some of the outputs."""
    ROWWISE = "rowwise"
    """A rank has all outputs, and of the inner dimension a part."""


PLAN: Final[Mapping[str, Split]] = {
    "qkv": Split.COLWISE,
    "o": Split.ROWWISE,
    "gate_up": Split.COLWISE,
    "up": Split.COLWISE,
    "down": Split.ROWWISE,
    "head": Split.COLWISE,
    "embedding": Split.COLWISE,
    "pooler": Split.COLWISE,
    "classifier": Split.COLWISE,
}
"""The last part of a group's name to its split: the `base_model_tp_plan` that decoders' configurations carry.

A tied head is called `embedding`. BERT carries no plan: its maps are cut like those of a decoder in the same
place, pooler and classifier like a head.
"""


class Kind(IntEnum):
    """What is to be multiplied."""

    FIELD = 1
    """Elements of the group's field by the weights."""
    HALVES = 2
    """Elements of q by the halves of the weights (RMO-R15)."""
    EXACT = 3
    """Integers of 16 bits by the weights."""

    @property
    def bands(self) -> int:
        """Return how many matrices of the weights' shape are multiplied by, stacked."""
        return 2 if self is Kind.HALVES else 1


def multiplied(kind: Kind, rows: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return rows times weights, int64 [n, bands * outputs]; a sum of nothing is 0."""
    if not weights.numel():
        return torch.zeros(len(rows), kind.bands * len(weights), dtype=torch.int64, device=rows.device)
    if kind is Kind.EXACT:
        return kernels.exact(rows, weights)
    if kind is Kind.HALVES:
        return kernels.multiply(rows, halves(weights), constants.LWE_MODULUS)
    return kernels.multiply(rows, weights, modulus)


def _sum(kind: Kind, modulus: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what adds two products of a kind."""
    if kind is Kind.HALVES:
        return wide.add
    if kind is Kind.EXACT:
        return torch.add
    return lambda left, right: (left + right).remainder(modulus)


@dataclass(frozen=True, slots=True)
class Cut:
    """How weights [outputs, inner] are shared among ranks: in order, as evenly as possible.

    There may be more ranks than there is to share; some have nothing then.
    """

    split: Split
    outputs: int
    inner: int
    ranks: int

    def part(self, rank: int) -> slice:
        """Return the places of a rank in the dimension that is cut."""
        size = self.outputs if self.split is Split.COLWISE else self.inner
        return slice(size * rank // self.ranks, size * (rank + 1) // self.ranks)

    def shard(self, weights: torch.Tensor, rank: int) -> torch.Tensor:
        """Return a rank's weights, contiguous: rows of these, or a copy."""
        if self.split is Split.COLWISE:
            return weights[self.part(rank)]
        return weights[:, self.part(rank)].contiguous()

    def operand(self, rows: torch.Tensor, rank: int) -> torch.Tensor:
        """Return what a rank multiplies of rows [n, inner]."""
        return rows if self.split is Split.COLWISE else rows[:, self.part(rank)].contiguous()

    def width(self, rank: int) -> int:
        """Return the outputs of a rank."""
        part = self.part(rank)
        return part.stop - part.start if self.split is Split.COLWISE else self.outputs

    def joined(self, kind: Kind, parts: Sequence[torch.Tensor], modulus: int) -> torch.Tensor:
        """Return the product [n, bands * outputs] of the ranks' products, in the order of their numbers.

        Implements: WIR-P14.
        """
        if self.split is Split.ROWWISE:
            return reduce(_sum(kind, modulus), parts)
        banded = [part.reshape(len(part), kind.bands, self.width(rank)) for rank, part in enumerate(parts)]
        return torch.cat(banded, dim=2).flatten(1)
