"""The shipped sanitizers: each broken one with the mode that must reject it, and the correct ones."""

import inspect
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from veil_conformance.sanitizers import accounting, blackbox, broken, correct, exact

COIN: Final = Path(__file__).parent / "coin.py"


@dataclass(frozen=True, slots=True)
class Case:
    """A sanitizer by its name for --impl; `mode` must reject it, or none may where mode is empty.

    The rejection counts if it comes from one of the named checks: a wrong reason is none.
    """

    impl: str
    origin: str
    mode: str = ""
    checks: Sequence[str] = ()

    @property
    def key(self) -> str:
        """Return a short name."""
        return self.impl.rpartition(":")[2].rpartition("/")[2].removesuffix(".py")


def _case(made: type, mode: str = "", *checks: str) -> Case:
    origin = " ".join((inspect.getdoc(made) or "").split())
    return Case(f"{made.__module__}:{made.__name__}", origin, mode, checks)


BROKEN: Final[Sequence[Case]] = (
    _case(broken.HalfScale, blackbox.MODE, *blackbox.KINDS),
    _case(broken.NearestCandidates, blackbox.MODE, "own word", "support"),
    _case(broken.SecretRemoved, blackbox.MODE, "own word left out"),
    _case(broken.NeverSensitive, blackbox.MODE, "own word"),
    _case(broken.VerbatimUnknown, blackbox.MODE, "own word"),
    _case(broken.MaximumReleased, blackbox.MODE, "one symbol"),
    _case(broken.InverseScale, blackbox.MODE, *blackbox.KINDS),
    _case(broken.FixedSeed, blackbox.MODE, "independence, two processes"),
    _case(broken.CumulativeFloat, exact.MODE, "support"),
    _case(broken.TruncatedNoise, exact.MODE, "support"),
    _case(broken.Float32Softmax, exact.MODE, "support"),
    _case(broken.TieToInput, blackbox.MODE, *blackbox.KINDS),
    _case(broken.CountIgnored, accounting.MODE, "composition of 100, delta 0.000001"),
    _case(broken.MonotoneHalved, accounting.MODE, "monotone scores"),
    _case(broken.BiasedBernoulli, exact.MODE, "sampler follows law"),
    _case(broken.GaussianNoise, blackbox.MODE, *blackbox.KINDS),
    _case(broken.ZeroWeight, exact.MODE, "support"),
    _case(broken.RowSumOff, exact.MODE, "law"),
    _case(broken.SharedState, blackbox.MODE, "independence, two documents"),
)
CORRECT: Final[Sequence[Case]] = (
    _case(correct.OptimizedOneSided),
    _case(correct.OptimizedTwoSided),
    _case(correct.ReferenceTwoSided),
    _case(correct.Batched),
    _case(correct.BatchedOneSided),
    _case(correct.BatchedTwoSided),
    _case(correct.Tabulated),
    _case(correct.ExponentialMechanism),
    _case(correct.OpenDp),
    _case(correct.OneSidedExponential),
    _case(correct.Laplace),
    Case(
        f"exec:{shlex.quote(sys.executable)} {shlex.quote(str(COIN))}",
        "A program of its own: two words, each kept with probability 3/4.",
    ),
)
