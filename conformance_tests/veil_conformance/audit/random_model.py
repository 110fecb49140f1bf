"""Integer models of normal weights, made in memory and never stored: any width is to be had."""

import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import torch

from veil_optimized import quantise, remo
from veil_optimized.model import Group, Model, group_names, tensor_shapes
from veil_spec.types import ModelShape

SPREAD: Final = 0.05
"""Standard deviation of a weight: near that of a trained layer."""
WIDE: Final = ModelShape(
    vocabulary=4096,
    width=2048,
    inner=256,
    layers=2,
    heads=16,
    kv_heads=2,
    head_width=128,
    context=64,
    rope_theta=Fraction(10_000),
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""Wide enough for profile `lwe` at the inputs of q, k and v, of gate and up, and of the head."""
SMALL: Final = ModelShape(
    vocabulary=48,
    width=32,
    inner=16,
    layers=4,
    heads=2,
    kv_heads=1,
    head_width=16,
    context=64,
    rope_theta=Fraction(10_000),
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""Small enough to try every token of the vocabulary at every position of many prompts."""


def random_model(name: str, shape: ModelShape, seed: int | None = None) -> Model:
    """Return a model of this shape; without a seed the operating system gives one. It has no file."""
    drawn = int.from_bytes(os.urandom(7)) if seed is None else seed
    generator = torch.Generator().manual_seed(drawn)
    tensors: dict[str, torch.Tensor] = {}
    for entry, (_, size) in tensor_shapes(shape).items():
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
    groups = [_group(number, group, tensors) for number, group in enumerate(group_names(shape))]
    return Model(name, shape, bytes(32), groups, tensors)


def _group(number: int, name: str, tensors: Mapping[str, torch.Tensor]) -> Group:
    weights = tensors[f"{name}.weights"].to(torch.float64)
    scales = tensors[f"{name}.mantissa"], tensors[f"{name}.exponent"]
    return Group(number, name, weights, *scales, remo.choose_modulus(weights))
