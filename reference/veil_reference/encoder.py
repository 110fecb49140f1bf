"""The encoder of BERT: a whole sequence at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from veil_reference import fixed_point
from veil_reference.masked import Masked
from veil_reference.model import Model, load
from veil_spec import constants
from veil_spec.architecture import EncoderShape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Quantised, Rows


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder. Refuses: MODEL_UNSUPPORTED."""

    model: Model
    shape: EncoderShape

    @staticmethod
    def of(model: Model) -> "Encoder":
        """Return the encoder of a model. Refuses: MODEL_UNSUPPORTED."""
        if not isinstance(model.shape, EncoderShape):
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model is no encoder")
        return Encoder(model, model.shape)

    def embed(self, position: int, token: int, kind: int) -> Sequence[int]:
        """Return the stream of one position before the first layer, with 24 fractional bits [width].

        Implements: MDL-R14.
        """
        places = {"embedding": token, "positions": position, "types": kind}
        rows = [self.model.look_up(table, index) for table, index in places.items()]
        summed = [
            fixed_point.clamp(sum(column), constants.RESIDUAL_LIMIT) for column in zip(*rows, strict=True)
        ]
        return self.model.layer_norm("embedding_norm", summed)

    def attention(self, layer: int, rows: Sequence[Quantised]) -> list[Quantised]:
        """Return the attention heads' averages of every position, quantised [positions][width].

        Implements: MDL-R15.
        """
        mixed = [self.model.hidden(4 * layer, row) for row in rows]
        width, head_width = self.shape.width, self.shape.width // self.shape.heads
        averages = []
        for start in range(0, width, head_width):
            queries, keys, values = (
                [row[part + start : part + start + head_width] for row in mixed]
                for part in (0, width, 2 * width)
            )
            averages.append(_averages(queries, keys, values))
        joined = ([word for head in heads for word in head] for heads in zip(*averages, strict=True))
        return [fixed_point.quantise(row, constants.HIDDEN_FRACTION) for row in joined]

    def layer(self, number: int, stream: Rows) -> list[Sequence[int]]:
        """Return the stream after one more layer [positions, width].

        Implements: MDL-R16.
        """
        attended = self.attention(number, _quantised(stream))
        summed = [
            self.model.residual(4 * number + 1, row, x) for row, x in zip(attended, stream, strict=True)
        ]
        stream = [self.model.layer_norm(f"layers.{number}.attention_norm", row) for row in summed]
        raised = [
            [fixed_point.gelu(word) for word in self.model.hidden(4 * number + 2, row)]
            for row in _quantised(stream)
        ]
        gated = [fixed_point.quantise(row, constants.HIDDEN_FRACTION) for row in raised]
        summed = [self.model.residual(4 * number + 3, row, x) for row, x in zip(gated, stream, strict=True)]
        return [self.model.layer_norm(f"layers.{number}.mlp_norm", row) for row in summed]

    def stream(self, tokens: Sequence[int], types: Sequence[int] | None = None) -> Rows:
        """Return the last stream [positions, width], with 24 fractional bits.

        Implements: MDL-R19.
        Refuses: PROMPT_EMPTY, CONTEXT_EXCEEDED, SHAPE_MISMATCH, TOKEN_OUT_OF_RANGE.
        """
        if not tokens:
            raise Refused(Refusal.PROMPT_EMPTY)
        if len(tokens) > self.shape.context:
            raise Refused(Refusal.CONTEXT_EXCEEDED)
        kinds = [0] * len(tokens) if types is None else types
        if len(kinds) != len(tokens):
            raise Refused(Refusal.SHAPE_MISMATCH)
        stream: Rows = [
            self.embed(position, token, kind)
            for position, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        ]
        for number in range(self.shape.layers):
            stream = self.layer(number, stream)
        return stream

    def labels(self, stream: Rows) -> list[int]:
        """Return the labels' logits of a last stream, with 18 fractional bits [labels].

        Implements: MDL-R17.
        Refuses: MODEL_UNSUPPORTED.
        """
        if not self.shape.labels:
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model has no classifier")
        first = fixed_point.quantise(stream[0], constants.RESIDUAL_FRACTION)
        pooled = [fixed_point.tanh(word) for word in self.model.hidden(4 * self.shape.layers, first)]
        row = fixed_point.quantise(pooled, constants.TANH_FRACTION)
        return self.model.hidden(4 * self.shape.layers + 1, row)


def _averages(queries: Rows, keys: Rows, values: Rows) -> list[Sequence[int]]:
    """Return a head's average for every position [positions, head width]."""
    placed = [fixed_point.quantise(row, constants.HIDDEN_FRACTION) for row in keys]
    averages = []
    for row in queries:
        query = fixed_point.quantise(row, constants.HIDDEN_FRACTION)
        scores = [fixed_point.attention_score(query, key) for key in placed]
        averages.append(fixed_point.softmax_average(scores, values))
    return averages


def _quantised(stream: Rows) -> list[Quantised]:
    return [fixed_point.quantise(row, constants.RESIDUAL_FRACTION) for row in stream]


def stream(model: Path, tokens: Sequence[int], types: Sequence[int] | None = None) -> Rows:
    """Return an encoder's last stream [positions, width], with 24 fractional bits."""
    return Encoder.of(load(model)).stream(tokens, types)


def masked_stream(model: Path, tokens: Sequence[int], seed: bytes) -> Rows:
    """Return the same stream through masks of profile `pad`."""
    return Encoder.of(replace(load(model), products=Masked(seed))).stream(tokens)


def labels(model: Path, tokens: Sequence[int], types: Sequence[int] | None = None) -> list[int]:
    """Return the labels' logits of a sequence, with 18 fractional bits [labels]."""
    encoder = Encoder.of(load(model))
    return encoder.labels(encoder.stream(tokens, types))


def sentence(stream: Rows) -> list[int]:
    """Return the mean of a last stream over its positions, with 24 fractional bits [width].

    Implements: MDL-R18.
    """
    count = len(stream)
    return [(sum(column) + count // 2) // count for column in zip(*stream, strict=True)]
