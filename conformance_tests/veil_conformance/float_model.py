"""The same models in floating point, from real weights: what the integers approximate."""

from collections.abc import Sequence
from math import cos, erf, exp, pi, sin, sqrt, tanh

from veil_conformance.tiny_model import Tensors
from veil_spec.architecture import DecoderShape, EncoderShape, Rotation

Vector = list[float]
Past = list[list[list[tuple[Vector, Vector]]]]
"""Keys and values by layer, key head and position."""


def integers(tensors: Tensors, name: str, exponent: str) -> Vector:
    """Return gains or biases as reals."""
    unit = 2.0 ** -tensors[exponent].values[0]
    return [value * unit for value in tensors[name].values]


def matrix(tensors: Tensors, name: str) -> list[Vector]:
    """Return a linear map's real weights [outputs, inner]."""
    mantissas, exponents = tensors[f"{name}.mantissa"].values, tensors[f"{name}.exponent"].values
    rows = zip(tensors[f"{name}.weights"].rows(), mantissas, exponents, strict=True)
    return [[w * m * 2.0**-e for w in row] for row, m, e in rows]


def plus(row: Vector, other: Vector) -> Vector:
    """Return the sum of two vectors."""
    return [a + b for a, b in zip(row, other, strict=True)]


def apply(tensors: Tensors, name: str, row: Vector) -> Vector:
    """Return a linear map's weights times row, plus its biases where it has any."""
    made = [sum(w * x for w, x in zip(channel, row, strict=True)) for channel in matrix(tensors, name)]
    biased = f"{name}.bias" in tensors
    return plus(made, integers(tensors, f"{name}.bias", f"{name}.bias_exponent")) if biased else made


def norm(tensors: Tensors, epsilon: float, name: str, row: Vector) -> Vector:
    """Return the row divided by its root mean square, times the gains."""
    scale = 1 / sqrt(sum(x * x for x in row) / len(row) + epsilon)
    gains = integers(tensors, f"{name}.gains", f"{name}.exponent")
    return [x * scale * g for x, g in zip(row, gains, strict=True)]


def layer_norm(tensors: Tensors, epsilon: float, name: str, row: Vector) -> Vector:
    """Return the row without its mean, divided by its deviation, times the gains, plus the biases."""
    mean = sum(row) / len(row)
    made = norm(tensors, epsilon, name, [x - mean for x in row])
    return plus(made, integers(tensors, f"{name}.bias", f"{name}.bias_exponent"))


def frequency(rotation: Rotation, pair: int, width: int) -> float:
    """Return the angle of a pair for one position, in radians."""
    plain: float = float(rotation.theta) ** (-2 * pair / width)
    factor = float(rotation.factor)
    if rotation.low is None or rotation.high is None or rotation.context is None:
        return plain / factor
    low, high, turns = float(rotation.low), float(rotation.high), rotation.context * plain / (2 * pi)
    share = min(1.0, max(0.0, (turns - low) / (high - low)))
    return plain * ((1 - share) / factor + share)


def turn(head: Vector, position: int, rotation: Rotation) -> Vector:
    """Return a head with its halves rotated against each other."""
    half = len(head) // 2
    angles = [position * frequency(rotation, i, len(head)) for i in range(half)]
    first = [a * cos(t) - b * sin(t) for a, b, t in zip(head[:half], head[half:], angles, strict=True)]
    return first + [b * cos(t) + a * sin(t) for a, b, t in zip(head[:half], head[half:], angles, strict=True)]


def average(query: Vector, past: Sequence[tuple[Vector, Vector]]) -> Vector:
    """Return the softmax average of the values under the keys."""
    scores = [sum(a * b for a, b in zip(query, key, strict=True)) / sqrt(len(query)) for key, _ in past]
    weights = [exp(score - max(scores)) for score in scores]
    columns = zip(*(value for _, value in past), strict=True)
    return [sum(w * v for w, v in zip(weights, column, strict=True)) / sum(weights) for column in columns]


def logits(shape: DecoderShape, tensors: Tensors, tokens: Sequence[int]) -> list[Vector]:
    """Return the real logits after each token."""
    past: Past = [[[] for _ in range(shape.kv_heads)] for _ in range(shape.layers)]
    return [_step(shape, tensors, past, token, position) for position, token in enumerate(tokens)]


def _step(shape: DecoderShape, tensors: Tensors, past: Past, token: int, position: int) -> Vector:
    epsilon, stream = float(shape.norm_epsilon), matrix(tensors, "embedding")[token]
    for n in range(shape.layers):
        name = f"layers.{n}"
        row = norm(tensors, epsilon, f"{name}.attention_norm", stream)
        averages = _attention(shape, tensors, past[n], name, row, position)
        stream = plus(stream, apply(tensors, f"{name}.o", averages))
        both = apply(tensors, f"{name}.gate_up", norm(tensors, epsilon, f"{name}.mlp_norm", stream))
        gated = [g / (1 + exp(-g)) * u for g, u in zip(both[: shape.inner], both[shape.inner :], strict=True)]
        stream = plus(stream, apply(tensors, f"{name}.down", gated))
    last = norm(tensors, epsilon, "final_norm", stream)
    return apply(tensors, "embedding" if shape.tied else "head", last)


def _attention(
    shape: DecoderShape,
    tensors: Tensors,
    past: list[list[tuple[Vector, Vector]]],
    name: str,
    row: Vector,
    position: int,
) -> Vector:
    def placed(head: Vector, norm_name: str) -> Vector:
        if shape.head_norms:
            head = norm(tensors, float(shape.norm_epsilon), f"{name}.{norm_name}", head)
        return turn(head, position, shape.rotation)

    width, mixed = shape.head_width, apply(tensors, f"{name}.qkv", row)
    heads = [mixed[i : i + width] for i in range(0, len(mixed), width)]
    for shared, seen in enumerate(past):
        seen.append(
            (placed(heads[shape.heads + shared], "k_norm"), heads[shape.heads + shape.kv_heads + shared])
        )
    averages: Vector = []
    for head in range(shape.heads):
        seen = past[head * shape.kv_heads // shape.heads]
        averages += average(placed(heads[head], "q_norm"), seen[-shape.window :] if shape.window else seen)
    return averages


def stream(
    shape: EncoderShape, tensors: Tensors, tokens: Sequence[int], types: Sequence[int]
) -> list[Vector]:
    """Return an encoder's real last stream."""
    epsilon, tables = (
        float(shape.norm_epsilon),
        [matrix(tensors, n) for n in ("embedding", "positions", "types")],
    )
    rows = []
    for place in zip(tokens, range(len(tokens)), types, strict=True):
        first, second, third = (table[index] for table, index in zip(tables, place, strict=True))
        rows.append(layer_norm(tensors, epsilon, "embedding_norm", plus(plus(first, second), third)))
    for n in range(shape.layers):
        name, width = f"layers.{n}", shape.width // shape.heads
        mixed = [apply(tensors, f"{name}.qkv", row) for row in rows]
        heads = [[row[i : i + width] for i in range(0, len(row), width)] for row in mixed]
        for place_, row in enumerate(rows):
            averages: Vector = []
            for h in range(shape.heads):
                past = [(other[shape.heads + h], other[2 * shape.heads + h]) for other in heads]
                averages += average(heads[place_][h], past)
            summed = plus(row, apply(tensors, f"{name}.o", averages))
            row = layer_norm(tensors, epsilon, f"{name}.attention_norm", summed)
            raised = [x * (1 + erf(x / sqrt(2))) / 2 for x in apply(tensors, f"{name}.up", row)]
            summed = plus(row, apply(tensors, f"{name}.down", raised))
            rows[place_] = layer_norm(tensors, epsilon, f"{name}.mlp_norm", summed)
    return rows


def labels(shape: EncoderShape, tensors: Tensors, last: Sequence[Vector]) -> Vector:
    """Return the labels' real logits of a last stream."""
    return apply(tensors, "classifier", [tanh(x) for x in apply(tensors, "pooler", last[0])])
