"""What only a CUDA device can show: the bytes are those of the CPU, and how long they take.

`make gpu` runs this. A device that is not there is a failure.
"""

from collections.abc import Callable
from statistics import median
from typing import Final

import pytest
import torch

from veil_optimized import kernels
from veil_optimized.kernels import probes
from veil_optimized.kernels.portable import Portable
from veil_spec import constants

FIELDS: Final = (*constants.PRIMES, constants.LWE_MODULUS)
SHAPES: Final = ((1, 4096, 4096), (17, 2085, 333), (48, 4097, 130), (300, 576, 1025))
"""(rows, inner, outputs): whole tiles, and odd tails on every side."""
INNER: Final = 4096
OUTPUTS: Final = 28_672
"""Gate and up of an eight-billion model: bytes or bfloat16, its weights exceed the second-level cache."""
TARGETS: Final = {1: 0.6, 16: 0.6, 48: 0.6, 512: 2.3, 2048: 2.3}
"""Rows to the ratio aimed at, of four limbs of 8-bit weights to a bfloat16 product of the same shape."""
ROUNDS: Final = 5
"""Rounds of a ratio; each times both sides."""


@pytest.fixture(autouse=True)
def device() -> str:
    """Return the device, and fail where there is none."""
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device: make gpu needs one", pytrace=False)
    return "cuda"


def drawn(rows: int, inner: int, outputs: int, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return words [rows, inner] and weights [outputs, inner]."""
    generator = torch.Generator().manual_seed(rows + inner + outputs)
    limit = probes.LIMITS[kind]
    words = torch.randint(-(2**63), 2**63 - 1, (rows, inner), generator=generator)
    return words, torch.randint(-limit, limit + 1, (outputs, inner), generator=generator).to(kind)


def test_the_kernel_of_the_device_is_used(device: str) -> None:
    """Every probe is right on the device; a slower kernel would be, too."""
    assert kernels.chosen(device).name == "triton"


@pytest.mark.parametrize("kind", probes.LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_its_bytes_are_those_of_the_cpu(device: str, shape: tuple[int, int, int], kind: torch.dtype) -> None:
    """Products in every field, and of plain rows."""
    words, weights = drawn(*shape, kind)
    probe, there = probes.scattered(weights, words), weights.to(device)
    found = kernels.exact(probe.rows.to(device), there)
    assert torch.equal(found.cpu(), Portable().exact(probe.rows, weights))
    for modulus in FIELDS:
        masked = torch.from_numpy(probe.elements(modulus))
        found = kernels.multiply(masked.to(device), there, modulus)
        assert torch.equal(found.cpu(), Portable().multiply(masked, weights, modulus))


def milliseconds(run: Callable[[], object]) -> float:
    """Return what one call takes on the device, replayed from a graph: the host's part is left out."""
    from triton.testing import do_bench_cudagraph

    run()
    taken: float = do_bench_cudagraph(run, return_mode="median")
    return taken


@pytest.mark.parametrize("rows", TARGETS)
def test_ratio_to_bfloat16_is_printed(device: str, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that is missed is printed with its ratio; no check fails on time."""
    words, weights = (tensor.to(device) for tensor in drawn(rows, INNER, OUTPUTS, torch.int8))
    masked = words.remainder(constants.PRIMES[0])
    floats, wide = words.to(torch.bfloat16), weights.to(torch.bfloat16)
    ratios = [
        milliseconds(lambda: kernels.multiply(masked, weights, constants.PRIMES[0]))
        / milliseconds(lambda: floats @ wide.T)
        for _ in range(ROUNDS)
    ]
    ratio, target = median(ratios), TARGETS[rows]
    verdict = f"target <= {target} {'met' if ratio <= target else 'missed'}"
    span = f"{ratio:.2f} of bfloat16 ({min(ratios):.2f} to {max(ratios):.2f})"
    with capsys.disabled():
        print(f"\n{rows:5} rows: {span}, {verdict}, {torch.cuda.get_device_name()}")
    assert ratio > 0
