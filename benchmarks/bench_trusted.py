"""The enclave's steps as this process has chosen them, against torch's and against float32 torch.

Rows are those of SmolLM2-135M: width 576, inner 1,536, nine heads that share three of keys and values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from types import SimpleNamespace
from typing import Final

import pytest
import torch
from benchmarks.conftest import Compare, Measure
from benchmarks.models import SHAPE
from benchmarks.ratios import Baseline, Work
from torch.nn import functional

from veil_optimized import integrity, remo, steps, tables, wire
from veil_optimized.fixed_point import Rows
from veil_optimized.steps import Steps
from veil_optimized.tape import SeededTape
from veil_spec import constants

MODULUS: Final = constants.PRIMES[1]
TAPE: Final = SeededTape(bytes(constants.SEED_BYTES))
STREAMED: Final = (512, 4096)
"""Rows that take 16 MiB as words: more than stays in a cache of one core."""
FUSED: Final = 1.5
"""Issue 6: masking and cutting into bytes, with the compiled kernel, to a copy of the same bytes."""
EPSILON: Final = Fraction(1, 100_000)


@dataclass(frozen=True, slots=True)
class Step:
    """One step by either set of steps, and the float32 operation that does the same, if there is one."""

    run: Callable[[Steps], object]
    floats: Callable[[], object] | None = None


def _words(limit: int, *shape: int) -> torch.Tensor:
    return torch.randint(-limit, limit + 1, shape, generator=torch.Generator().manual_seed(3))


def _rows(limit: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random words, and float32 numbers of the same shape."""
    words = _words(limit, *shape)
    return words, words.to(torch.float32) / limit


@cache
def made(rows: int) -> dict[str, Step]:
    """Return every step on so many rows, by name."""
    return _row_steps(rows) | _attention_steps(rows) | _crossing_steps(rows)


def _row_steps(rows: int) -> dict[str, Step]:
    stream, floats = _rows(2**26, rows, SHAPE.width)
    gains, float_gains = _rows(2**20, SHAPE.width)
    products, float_products = _rows(2**38, rows, SHAPE.width)
    hidden, float_hidden = _rows(2**20, rows, 2 * SHAPE.inner)
    scale = torch.full((SHAPE.width,), 2**15), torch.full((SHAPE.width,), 30)
    group = SimpleNamespace(mantissa=scale[0], exponent=scale[1], bias=None, bias_exponent=0)
    exponents, limit = torch.full((rows,), 12), constants.RESIDUAL_LIMIT
    fraction = constants.RESIDUAL_FRACTION
    gate, up = float_hidden.chunk(2, -1)
    return {
        "rms_norm": Step(
            lambda own: own.rms_norm(stream, gains, 20, EPSILON),
            lambda: functional.rms_norm(floats, (SHAPE.width,), float_gains, float(EPSILON)),
        ),
        "settle": Step(
            lambda own: own.settle(products, group, exponents, fraction, limit, stream),
            lambda: torch.addcmul(floats, float_products, float_gains),
        ),
        "gate": Step(lambda own: own.gate(hidden), lambda: functional.silu(gate) * up),
        "quantise": Step(lambda own: own.quantise(stream, constants.HIDDEN_FRACTION)),
    }


def _attention_steps(rows: int) -> dict[str, Step]:
    count, width, positions = (
        SHAPE.heads + 2 * SHAPE.kv_heads,
        SHAPE.head_width,
        max(rows, SHAPE.context // 2),
    )
    first = positions - rows
    heads, float_heads = _rows(2**20, rows, count, width)
    cos, sin = (table[first:] for table in tables.rope(positions, width, SHAPE.rotation))
    float_cos, float_sin = (table.to(torch.float32).repeat(1, 2).unsqueeze(1) for table in (cos, sin))
    queries, float_queries = _rows(2**15 - 1, SHAPE.heads, rows, width)
    keys, float_keys = _rows(2**15 - 1, SHAPE.kv_heads, positions, width)
    values, float_values = _rows(2**20, SHAPE.kv_heads, positions, width)
    asked = Rows(queries, torch.full(queries.shape[:-1], 14))
    held = Rows(keys.to(torch.int16), torch.full(keys.shape[:-1], 14, dtype=torch.int32))
    seen = torch.ones(rows, positions, dtype=torch.bool).tril(first)
    narrow = values.to(torch.int32)
    return {
        "place": Step(
            lambda own: own.place(heads, cos, sin),
            lambda: float_heads * float_cos + float_heads.roll(width // 2, -1) * float_sin,
        ),
        "attend": Step(
            lambda own: own.attend(asked, held, narrow, first, 0),
            lambda: functional.scaled_dot_product_attention(
                float_queries[None], float_keys[None], float_values[None], attn_mask=seen, enable_gqa=True
            ),
        ),
    }


def _crossing_steps(rows: int) -> dict[str, Step]:
    weights = _words(constants.WEIGHT_LIMIT, SHAPE.inner, SHAPE.width).to(torch.int16)
    activations = _words(constants.ACTIVATION_LIMIT, rows, SHAPE.width)
    pads = remo.pad(TAPE, 0, 0, rows, SHAPE.width, MODULUS)
    masked = remo.mask(activations, pads, MODULUS)
    product = remo.multiply(masked, weights, MODULUS)
    correction = remo.multiply(pads, weights, MODULUS)
    check = integrity.prepare(TAPE, 0, weights, MODULUS)
    data = steps.TORCH.pack(product, MODULUS)
    return {
        "mask": Step(lambda own: own.mask(activations, pads, MODULUS)),
        "pack": Step(lambda own: own.pack(masked, MODULUS)),
        "unpack": Step(lambda own: own.unpack(data, rows, SHAPE.inner, MODULUS)),
        "verifies": Step(lambda own: own.verifies(check, masked, product)),
        "unmask": Step(lambda own: own.unmask(product, correction, MODULUS)),
    }


@pytest.mark.parametrize("rows", [1, 192])
@pytest.mark.parametrize("name", made(1))
def bench_step(compare: Compare, name: str, rows: int) -> None:
    """One step, against the same in torch and in float32."""
    step, own = made(rows)[name], steps.chosen()
    baselines = []
    if own is not steps.TORCH:
        title = f"{name}, {rows} rows, {own.name} / torch steps"
        baselines.append(Baseline(title, Work(lambda: step.run(steps.TORCH))))
    if step.floats is not None:
        baselines.append(Baseline(f"{name}, {rows} rows, {own.name} / float32 torch", Work(step.floats)))
    if not baselines:
        pytest.skip("torch's steps are those that are chosen, and there is no operation to hold them against")
    compare(Work(lambda: step.run(own)), baselines)


def bench_mask_and_pack(measure: Measure) -> None:
    """Masking and cutting into bytes, against copying half of the bytes that are read or written.

    A copy reads and writes each of its bytes. Rows and pads are read; masked rows, their bytes and zeros over
    the pads are written.
    """
    rows, columns = STREAMED
    activations = _words(constants.ACTIVATION_LIMIT, rows, columns)
    pads, own = remo.pad(TAPE, 0, 0, rows, columns, MODULUS), steps.chosen()
    source = torch.zeros(rows * columns * (4 * 8 + wire.element_bytes(MODULUS)) // 2, dtype=torch.uint8)
    target = torch.ones_like(source)
    measure(
        f"mask and pack, {rows}x{columns}, {own.name} / copy of the same bytes",
        Work(lambda: own.mask(activations, pads, MODULUS)),
        Work(lambda: target.copy_(source)),
        FUSED if own is not steps.TORCH else None,
    )
