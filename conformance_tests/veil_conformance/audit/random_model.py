"""Integer models of normal weights, made in memory and never stored: any width is to be had."""

import os
from fractions import Fraction
from typing import Final

import torch

from veil_optimized import quantise
from veil_optimized.model import Model, assemble, tensor_shapes
from veil_spec.architecture import DecoderShape, Precision, Rotation

SPREAD: Final = 0.05
"""Standard deviation of a weight: near that of a trained layer."""
WIDE: Final = DecoderShape(
    vocabulary=4096,
    width=2048,
    inner=256,
    layers=2,
    heads=16,
    kv_heads=2,
    head_width=128,
    context=64,
    rotation=Rotation(Fraction(10_000)),
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""Wide enough for profile `lwe` at the inputs of q, k and v, of gate and up, and of the head."""
SMALL: Final = DecoderShape(
    vocabulary=48,
    width=32,
    inner=16,
    layers=4,
    heads=2,
    kv_heads=1,
    head_width=16,
    context=64,
    rotation=Rotation(Fraction(10_000)),
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""Small enough to try every token of the vocabulary at every position of many prompts."""


def random_model(name: str, shape: DecoderShape, seed: int | None = None) -> Model:
    """Return a model of this shape; without a seed the operating system gives one. It has no file."""
    drawn = int.from_bytes(os.urandom(7)) if seed is None else seed
    generator = torch.Generator().manual_seed(drawn)
    tensors: dict[str, torch.Tensor] = {}
    for entry, (_, size) in tensor_shapes(shape, Precision.W16A16).items():
        base, _, part = entry.rpartition(".")
        if part == "weights":
            rows = quantise.quantise_weights(torch.randn(size, generator=generator) * SPREAD)
            tensors[entry] = rows.values
            tensors[f"{base}.mantissa"] = rows.mantissa.to(torch.int64)
            tensors[f"{base}.exponent"] = rows.exponent.to(torch.int64)
        elif part == "gains":
            gains, exponent = quantise.quantise_gains(torch.ones(size))
            tensors[entry] = gains.to(torch.int64)
            tensors[f"{base}.exponent"] = torch.tensor([exponent])
    return assemble(name, shape, Precision.W16A16, bytes(32), tensors)
