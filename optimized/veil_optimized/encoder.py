"""The encoder of BERT on tensors: sequences of any lengths at once."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from veil_optimized import fixed_point, steps
from veil_optimized.fixed_point import Rows
from veil_optimized.model import (
    PART,
    PARTS,
    Asking,
    Layers,
    Model,
    Products,
    Together,
    answered,
    plain_products,
)
from veil_spec import constants
from veil_spec.architecture import EncoderShape
from veil_spec.refusals import Refusal, Refused


class Encoder:
    """An encoder; `products` computes every linear group.

    With `together`, parts of many sequences take turns, with the same words in the end.

    Refuses: MODEL_UNSUPPORTED.
    """

    def __init__(
        self, model: Model, products: Products = plain_products, together: Together | None = None
    ) -> None:
        if not isinstance(model.shape, EncoderShape):
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model is a decoder: it does not classify text")
        self.model = model
        self.shape = model.shape
        self.layers = Layers(model)
        self._products = products
        self._together = together

    def embed(self, tokens: Sequence[int], types: Sequence[int] | None = None) -> torch.Tensor:
        """Return a sequence's stream before the first layer, int64 [n, width], 24 fractional bits.

        Implements: MDL-R14, MDL-R19.
        Refuses: PROMPT_EMPTY, CONTEXT_EXCEEDED, TOKEN_OUT_OF_RANGE, SHAPE_MISMATCH.
        """
        count, context = len(tokens), self.shape.context
        if not count:
            raise Refused(Refusal.PROMPT_EMPTY, "the sequence has no tokens: give some text")
        if count > context:
            remedy = f"{count} tokens exceed the model's context of {context}: shorten the text"
            raise Refused(Refusal.CONTEXT_EXCEEDED, remedy)
        kinds = [0] * count if types is None else types
        if len(kinds) != count:
            raise Refused(Refusal.SHAPE_MISMATCH, f"{count} tokens have {len(kinds)} types")
        places = {"embedding": tokens, "positions": range(count), "types": kinds}
        rows = torch.stack([self.model.look_up(table, list(each)) for table, each in places.items()])
        limit = constants.RESIDUAL_LIMIT
        return self.model.layer_norm("embedding_norm", rows.sum(0).clamp(-limit, limit))

    def _attention(self, layer: int, rows: Rows, counts: Sequence[int]) -> Asking[Rows]:
        """Return the attention heads' averages of every position, quantised [n, width].

        Implements: MDL-R15.
        """
        width = self.shape.width // self.shape.heads
        mixed = yield from self.layers.hidden(4 * layer, rows)
        heads = mixed.reshape(len(rows.values), 3 * self.shape.heads, width)
        averages = [self._sequence(part.transpose(0, 1)) for part in torch.split(heads, list(counts))]
        return steps.chosen().quantise(torch.cat(averages), constants.HIDDEN_FRACTION)

    def _sequence(self, heads: torch.Tensor) -> torch.Tensor:
        queries, keys, values = heads.chunk(3)
        query, key = (steps.chosen().quantise(part, constants.HIDDEN_FRACTION) for part in (queries, keys))
        return steps.chosen().attend(query, key, values, None, 0)

    def through(self, streams: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the last stream of each sequence, int64 [n_i, width], from that before the first layer.

        Implements: MDL-R16, MDL-P3.
        """
        counts = [len(part) for part in streams]
        rows = sum(counts)
        many = min(PARTS, rows // PART, len(counts))
        if self._together is None or many < 2:
            last = answered(self._through_layers(streams), self._products)
        else:
            ends = [len(counts) * part // many for part in range(many + 1)]
            parts = [self._through_layers(streams[a:b]) for a, b in pairwise(ends)]
            last = torch.cat(self._together(parts, rows))
        return list(torch.split(last, counts))

    def _through_layers(self, streams: Sequence[torch.Tensor]) -> Asking[torch.Tensor]:
        """Return the last stream of every sequence, one after the other [n, width]."""
        counts = [len(part) for part in streams]
        stream, fraction = torch.cat(list(streams)), constants.RESIDUAL_FRACTION
        for layer in range(self.shape.layers):
            quantised = steps.chosen().quantise(stream, fraction)
            attended = yield from self._attention(layer, quantised, counts)
            stream = yield from self.layers.residual(4 * layer + 1, attended, stream)
            stream = self.model.layer_norm(f"layers.{layer}.attention_norm", stream)
            quantised = steps.chosen().quantise(stream, fraction)
            raised = yield from self.layers.hidden(4 * layer + 2, quantised)
            gated = steps.chosen().quantise(fixed_point.gelu(raised), constants.HIDDEN_FRACTION)
            stream = yield from self.layers.residual(4 * layer + 3, gated, stream)
            stream = self.model.layer_norm(f"layers.{layer}.mlp_norm", stream)
        return stream

    def streams(
        self, tokens: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> list[torch.Tensor]:
        """Return the last stream of each sequence, int64 [n_i, width], 24 fractional bits.

        Refuses as `embed` does.
        """
        if types is None:
            return self.through([self.embed(part) for part in tokens])
        return self.through([self.embed(*pair) for pair in zip(tokens, types, strict=True)])

    def labels(self, streams: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the labels' logits of last streams, int64 [sequences, labels], 18 fractional bits.

        Implements: MDL-R17.
        Refuses: MODEL_UNSUPPORTED.
        """
        if not self.shape.labels:
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model has no classifier: give one with labels")
        first = torch.stack([stream[0] for stream in streams])
        return answered(self._labels(first), self._products)

    def _labels(self, first: torch.Tensor) -> Asking[torch.Tensor]:
        number, row = 4 * self.shape.layers, steps.chosen().quantise(first, constants.RESIDUAL_FRACTION)
        pooled = yield from self.layers.hidden(number, row)
        row = steps.chosen().quantise(fixed_point.tanh(pooled), constants.TANH_FRACTION)
        return (yield from self.layers.hidden(number + 1, row))


def sentence(stream: torch.Tensor) -> torch.Tensor:
    """Return the mean of a last stream [n, width] over its positions, int64 [width], 24 fractional bits.

    Implements: MDL-R18.
    """
    count = len(stream)
    return (stream.sum(0) + count // 2) // count


def stream(
    model: Model,
    tokens: Sequence[int],
    types: Sequence[int] | None = None,
    products: Products = plain_products,
) -> torch.Tensor:
    """Return the last stream of one sequence, int64 [n, width], 24 fractional bits; refuses as `embed`."""
    encoder = Encoder(model, products)
    return encoder.through([encoder.embed(tokens, types)])[0]


def labels(model: Model, tokens: Sequence[int], types: Sequence[int] | None = None) -> torch.Tensor:
    """Return the labels' logits of one sequence, int64 [labels], 18 fractional bits; refuses as `embed`."""
    encoder = Encoder(model)
    return encoder.labels(encoder.through([encoder.embed(tokens, types)]))[0]
