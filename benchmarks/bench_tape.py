"""Field elements from 32 MiB of tape words, against copying 32 MiB."""

from typing import Final

import numpy as np
from benchmarks.conftest import Measure
from benchmarks.ratios import Work

from veil_optimized.tape import SeededTape, draw_into, field_elements
from veil_spec import constants
from veil_spec.types import Domain

COUNT: Final = 2**22
"""64-bit words in 32 MiB."""
MODULUS: Final = constants.PRIMES[1]
TARGET: Final = 8.0
"""Issue 2: at most 8 times the time of copying those bytes."""
TAPE: Final = SeededTape(bytes(constants.SEED_BYTES))
SOURCE: Final = np.arange(COUNT, dtype=np.int64)
TOUCHED: Final = np.ones(COUNT, dtype=np.int64)


def copy() -> None:
    """Copy 32 MiB between two arrays whose pages exist."""
    np.copyto(TOUCHED, SOURCE)


def draw() -> None:
    """Draw into a new array, whose pages the kernel has to provide."""
    field_elements(TAPE, Domain.TEST, 0, 0, COUNT, MODULUS)


def bench_new_array(measure: Measure) -> None:
    """A new result each time: the pages of the result are part of what is measured."""
    measure("tape: draw 32 MiB, new array / copy to touched array", Work(draw), Work(copy), TARGET)


def bench_touched_array(measure: Measure) -> None:
    """The same result array each time: the drawing alone."""

    def draw_again() -> None:
        draw_into(TOUCHED, TAPE, Domain.TEST, 0, 0, MODULUS)

    measure("tape: draw 32 MiB, touched array / copy to touched array", Work(draw_again), Work(copy), TARGET)


def bench_both_new(measure: Measure) -> None:
    """New arrays on both sides: the pages are paid for twice."""
    measure("tape: draw 32 MiB, new array / copy to new array", Work(draw), Work(SOURCE.copy))
