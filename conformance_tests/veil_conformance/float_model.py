"""The same decoder in floating point, from real weights: what the integers approximate."""

from collections.abc import Sequence
from math import cos, exp, sin, sqrt

from veil_conformance.tiny_model import Tensors
from veil_spec.types import ModelShape

Vector = list[float]


def matrix(tensors: Tensors, name: str) -> list[Vector]:
    """Return a linear map's real weights [outputs, inner]."""
    mantissas, exponents = tensors[f"{name}.mantissa"].values, tensors[f"{name}.exponent"].values
    rows = zip(tensors[f"{name}.weights"].rows(), mantissas, exponents, strict=True)
    return [[w * m * 2.0**-e for w in row] for row, m, e in rows]


def apply(weights: list[Vector], row: Vector) -> Vector:
    """Return weights times row."""
    return [sum(w * x for w, x in zip(channel, row, strict=True)) for channel in weights]


def norm(tensors: Tensors, shape: ModelShape, name: str, row: Vector) -> Vector:
    """Return the row divided by its root mean square, times the gains."""
    scale = 1 / sqrt(sum(x * x for x in row) / len(row) + shape.norm_epsilon)
    unit = 2.0 ** -tensors[f"{name}.exponent"].values[0]
    return [x * scale * g * unit for x, g in zip(row, tensors[f"{name}.gains"].values, strict=True)]


def turn(head: Vector, position: int, theta: float) -> Vector:
    """Return a head with its halves rotated against each other."""
    half = len(head) // 2
    angles = [position * theta ** (-2 * i / len(head)) for i in range(half)]
    first = [a * cos(t) - b * sin(t) for a, b, t in zip(head[:half], head[half:], angles, strict=True)]
    return first + [b * cos(t) + a * sin(t) for a, b, t in zip(head[:half], head[half:], angles, strict=True)]


def average(query: Vector, past: list[tuple[Vector, Vector]]) -> Vector:
    """Return the softmax average of the values under the keys."""
    scores = [sum(a * b for a, b in zip(query, key, strict=True)) / sqrt(len(query)) for key, _ in past]
    weights = [exp(score - max(scores)) for score in scores]
    columns = zip(*(value for _, value in past), strict=True)
    return [sum(w * v for w, v in zip(weights, column, strict=True)) / sum(weights) for column in columns]


def logits(shape: ModelShape, tensors: Tensors, tokens: Sequence[int]) -> list[Vector]:
    """Return the real logits after each token."""
    past: list[list[list[tuple[Vector, Vector]]]] = [
        [[] for _ in range(shape.kv_heads)] for _ in range(shape.layers)
    ]
    return [_step(shape, tensors, past, token, position) for position, token in enumerate(tokens)]


def _step(
    shape: ModelShape,
    tensors: Tensors,
    past: list[list[list[tuple[Vector, Vector]]]],
    token: int,
    position: int,
) -> Vector:
    width, theta = shape.head_width, float(shape.rope_theta)
    stream = matrix(tensors, "embedding")[token]
    for n in range(shape.layers):
        name = f"layers.{n}"
        mixed = apply(matrix(tensors, f"{name}.qkv"), norm(tensors, shape, f"{name}.attention_norm", stream))
        heads = [mixed[i : i + width] for i in range(0, len(mixed), width)]
        for shared in range(shape.kv_heads):
            key, value = heads[shape.heads + shared], heads[shape.heads + shape.kv_heads + shared]
            past[n][shared].append((turn(key, position, theta), value))
        averages = [
            average(turn(heads[head], position, theta), past[n][head * shape.kv_heads // shape.heads])
            for head in range(shape.heads)
        ]
        attended = apply(matrix(tensors, f"{name}.o"), [word for head in averages for word in head])
        stream = [a + b for a, b in zip(stream, attended, strict=True)]
        both = apply(matrix(tensors, f"{name}.gate_up"), norm(tensors, shape, f"{name}.mlp_norm", stream))
        gated = [g / (1 + exp(-g)) * u for g, u in zip(both[: shape.inner], both[shape.inner :], strict=True)]
        fed = apply(matrix(tensors, f"{name}.down"), gated)
        stream = [a + b for a, b in zip(stream, fed, strict=True)]
    return apply(
        matrix(tensors, "embedding" if shape.tied else "head"), norm(tensors, shape, "final_norm", stream)
    )
