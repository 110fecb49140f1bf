"""One linear group of 576 inputs and 1,536 outputs over p = 2**40 - 87."""

from typing import Final

import pytest
import torch
from benchmarks.conftest import Measure
from benchmarks.ratios import Work

from veil_optimized import integrity, remo
from veil_optimized.tape import SeededTape
from veil_spec import constants

INNER: Final = 576
OUTPUTS: Final = 1536
MODULUS: Final = constants.PRIMES[1]
TAPE: Final = SeededTape(bytes(constants.SEED_BYTES))
WEIGHTS: Final = torch.randint(
    -constants.WEIGHT_LIMIT,
    constants.WEIGHT_LIMIT + 1,
    (OUTPUTS, INNER),
    generator=torch.Generator().manual_seed(2),
).to(torch.int16)
ROWS: Final = pytest.mark.parametrize("rows", [1, 128])


@ROWS
def bench_worker_product(measure: Measure, rows: int) -> None:
    """The worker's exact product against a float32 product of the same shape."""
    masked = remo.pad(TAPE, 0, 0, rows, INNER, MODULUS)
    floats, weights = masked.to(torch.float32), WEIGHTS.to(torch.float32)
    measure(
        f"worker product, {rows} rows / float32 product",
        Work(lambda: remo.multiply(masked, WEIGHTS, MODULUS)),
        Work(lambda: floats @ weights.T),
    )


@ROWS
def bench_mask(measure: Measure, rows: int) -> None:
    """Masking with a pad at hand against copying the rows."""
    pads = remo.pad(TAPE, 0, 0, rows, INNER, MODULUS)
    activations = pads % constants.ACTIVATION_LIMIT
    target = torch.empty_like(activations)
    measure(
        f"mask, {rows} rows / copy of the rows",
        Work(lambda: remo.mask(activations, pads, MODULUS)),
        Work(lambda: target.copy_(activations)),
    )


@ROWS
def bench_check(measure: Measure, rows: int) -> None:
    """Freivalds' check in the enclave against the worker's product that it checks."""
    masked = remo.pad(TAPE, 0, 0, rows, INNER, MODULUS)
    returned = remo.multiply(masked, WEIGHTS, MODULUS)
    check = integrity.prepare(TAPE, 0, WEIGHTS, MODULUS)
    measure(
        f"Freivalds check, {rows} rows / the product checked",
        Work(lambda: check.verify(masked, returned)),
        Work(lambda: remo.multiply(masked, WEIGHTS, MODULUS)),
    )
