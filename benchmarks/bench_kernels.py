"""The worker's product by every kernel that is right here, over the field that the loader picks.

For one row, weights are gone through in turn, more of them than the caches hold, as in a model: so a product
costs at least what it takes to read its weights from memory. Reading W once is torch's sum of the same bytes
as 64-bit words, the fastest of a dozen ways to read that were tried. The copy is of those bytes, too.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle
from typing import Final

import pytest
import torch
from benchmarks.conftest import Compare
from benchmarks.ratios import Baseline, Work

from veil_optimized import kernels, remo
from veil_optimized.kernels.probes import is_right
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.architecture import Precision

BEYOND_CACHES: Final = 2**27
"""Bytes of integer weights that are gone through in turn: 128 MiB."""
PREFILL: Final = 512
TAPE: Final = SeededTape(bytes(constants.SEED_BYTES))
SHAPES: Final = ((1, 2048, 2048), (1, 4096, 4096), (PREFILL, 2048, 2048), (PREFILL, 576, 1536))
"""(rows, inner, outputs)."""
TO_FLOAT32: Final = {
    ("int8", 1, "w8a16"): 0.6,
    ("int8", 1, "w16a16"): 2.5,
    ("int8", PREFILL, "w8a16"): 1.0,
    ("compiled", PREFILL, "w8a16"): 0.3,
}
"""Issue 6: (kernel, rows, precision) to the most times a float32 product."""
TO_READING: Final = {("compiled", 1, "w8a16"): 1.2, ("compiled", 1, "w16a16"): 1.5}
"""Issue 6: the same to the most times reading the weights once."""


@cache
def available() -> dict[str, kernels.Kernel]:
    """Return the kernels that are here and right, the fastest first."""
    made = {name: kernels.MAKERS[name][1]() for name in kernels.names("cpu")}
    return {name: kernel for name, kernel in made.items() if kernel is not None and is_right(kernel, "cpu")}


@cache
def weights(precision: Precision, outputs: int, inner: int) -> torch.Tensor:
    """Return random weights [outputs, inner], normal in each row, whose largest takes the whole range."""
    drawn = torch.randn(outputs, inner, generator=torch.Generator().manual_seed(2))
    limit = precision.weight_limit
    scaled = drawn * (limit / drawn.abs().amax(-1, keepdim=True))
    return scaled.round().to(torch.int8 if limit < 2**7 else torch.int16)


def passing(matrix: torch.Tensor, copies: int, run: Callable[[torch.Tensor], object]) -> Work:
    """Return work on one of so many copies of a matrix, the next one each time; each was met before."""
    made = [matrix.clone() for _ in range(copies)]
    for each in made:
        run(each)
    every: Iterator[torch.Tensor] = cycle(made)
    return Work(lambda: run(next(every)))


def read(matrix: torch.Tensor) -> torch.Tensor:
    """Read every byte of a matrix once."""
    return matrix.view(torch.int64).sum()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("name", available())
def bench_product(compare: Compare, name: str, precision: Precision, shape: tuple[int, int, int]) -> None:
    """One exact product against the products of other types, and against touching the weights."""
    (rows, inner, outputs), kernel = shape, available()[name]
    matrix = weights(precision, outputs, inner)
    modulus = remo.choose_modulus(matrix)
    masked = remo.pad(TAPE, 0, 0, rows, inner, modulus)
    floats, bytes_ = masked.to(torch.float32), (masked % 127).to(torch.int8)
    halves, touched = floats.to(torch.bfloat16), torch.empty_like(matrix)
    copies = math.ceil(BEYOND_CACHES / (matrix.numel() * matrix.element_size())) if rows == 1 else 1
    judged = (name, rows, precision.value)
    sides: dict[str, tuple[torch.Tensor, Callable[[torch.Tensor], object], float | None]] = {
        "float32": (matrix.to(torch.float32), lambda w: floats @ w.T, TO_FLOAT32.get(judged)),
        "bfloat16": (matrix.to(torch.bfloat16), lambda w: halves @ w.T, None),
        "int8": (matrix.to(torch.int8), lambda w: torch._int_mm(bytes_, w.T), None),
    }
    if rows == 1:
        sides["reading W once"] = (matrix, read, TO_READING.get(judged))
        sides["copy of W"] = (matrix, touched.copy_, None)
    bits = modulus.bit_length()
    about = f"{name}, {precision}, n = {rows}, {inner}x{outputs}, p = 2^{bits} - {2**bits - modulus}"
    compare(
        passing(matrix, copies, lambda w: kernel.multiply(masked, w, modulus)),
        [
            Baseline(f"{about} / {side}", passing(held, copies, run), target)
            for side, (held, run, target) in sides.items()
        ],
    )
