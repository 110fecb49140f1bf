"""One selection by noisy max, against the argmax of the same scores."""

from fractions import Fraction
from typing import Final

import numpy as np
import pytest
from benchmarks.conftest import Measure
from benchmarks.ratios import Work

from veil_optimized.noisy_max import select
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.types import Geometric, Noise, TwoSidedGeometric

CANDIDATES: Final = 4096
ALPHA: Final = Fraction(4000, 4096)
TAPE: Final = SeededTape(bytes(constants.SEED_BYTES))
SCORES: Final = np.random.default_rng(3).integers(-1000, 1001, CANDIDATES)


@pytest.mark.parametrize("noise", [Geometric(ALPHA), TwoSidedGeometric(ALPHA)], ids=["one", "two"])
def bench_select(measure: Measure, noise: Noise) -> None:
    """Seconds are for one candidate."""
    listed = SCORES.tolist()
    sides = "one-sided" if isinstance(noise, Geometric) else "two-sided"
    measure(
        f"noisy max, {sides}, per candidate of {CANDIDATES} / argmax",
        Work(lambda: select(listed, noise, TAPE), CANDIDATES),
        Work(lambda: np.argmax(SCORES), CANDIDATES),
    )
