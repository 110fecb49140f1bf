"""One call of a model: from padded tensors to lists of tokens, and from integers to floats for display."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
)

from veil.engines import Opened
from veil.generation import shown_logits
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

Lists = list[list[int]]


def refuse_others(arguments: Mapping[str, object]) -> None:
    """Refuse an argument that means something and that nobody here acts on. Refuses: MODE_UNAVAILABLE."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"{name} is not supported: leave it out")


def rows_of(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Lists:
    """Return each sequence's tokens, without padding. Refuses: SHAPE_MISMATCH."""
    if input_ids.ndim != 2:
        raise Refused(Refusal.SHAPE_MISMATCH, "input_ids must be [batch, length]")
    if attention_mask is None:
        return [[int(token) for token in row] for row in input_ids.tolist()]
    if attention_mask.ndim != 2 or attention_mask.shape[0] != input_ids.shape[0]:
        raise Refused(Refusal.SHAPE_MISMATCH, "attention_mask must be [batch, length], as input_ids is")
    present = attention_mask[:, -input_ids.shape[1] :].cpu() != 0
    if present.shape != input_ids.shape:
        raise Refused(Refusal.SHAPE_MISMATCH, "attention_mask is shorter than input_ids")
    return [row[kept].tolist() for row, kept in zip(input_ids.cpu(), present, strict=True)]


def _placed(
    values: Sequence[torch.Tensor], input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Return values of each sequence's tokens at their places [batch, length, ...], zero at padding."""
    placed = torch.zeros(*input_ids.shape, *values[0].shape[1:], dtype=values[0].dtype)
    if attention_mask is None:
        return torch.stack(list(values))
    present = attention_mask[:, -input_ids.shape[1] :].cpu() != 0
    for row, kept, value in zip(placed, present, values, strict=True):
        row[kept] = value
    return placed


class IntegerCache(DynamicCache):  # type: ignore[misc]
    """The integer keys and values of a batch, in the place where transformers passes a cache along."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__()
        self.rows, self.seen = rows, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the padded length so far."""
        return self.seen

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Take each sequence's place from another, as beam search does."""
        self.rows = [copy.deepcopy(self.rows[int(place)]) for place in beam_idx]

    def crop(self, max_length: int) -> None:
        """Refuse: tokens cannot be taken back. Refuses: MODE_UNAVAILABLE."""
        raise Refused(Refusal.MODE_UNAVAILABLE, "assisted generation is not supported: leave it out")


def decoder_forward(
    engine: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    past: Any = None,
    kept: int = 0,
) -> CausalLMOutputWithPast:
    """Return float32 logits [batch, length, vocabulary] of integer ones; zero at padding.

    With `kept`, only those of the last positions. A past is one that this returned before.

    Refuses: MODE_UNAVAILABLE, SHAPE_MISMATCH, and as `Decoder.advance` does.
    """
    if past is None or (not isinstance(past, IntegerCache) and past.get_seq_length() == 0):
        past = IntegerCache([engine.new_cache() for _ in input_ids])
    elif not isinstance(past, IntegerCache):
        raise Refused(Refusal.MODE_UNAVAILABLE, "past_key_values come from a float model: leave them out")
    rows = rows_of(input_ids, attention_mask)
    if kept == 1 and (attention_mask is None or bool((attention_mask[:, -1] != 0).all())):
        logits = shown_logits(engine.advance(past.rows, rows)).unsqueeze(1)
    else:
        if not hasattr(engine, "through"):
            remedy = "mode split gives the logits of last positions: use generate, or pass logits_to_keep=1"
            raise Refused(Refusal.MODE_UNAVAILABLE, remedy)
        every = shown_logits(engine.advance(past.rows, rows, every_position=True))
        parts = torch.split(every, [len(row) for row in rows])
        logits = _placed(parts, input_ids, attention_mask)[:, -kept:]
    past.seen += input_ids.shape[1]
    return CausalLMOutputWithPast(logits=logits, past_key_values=past)


def encoder_streams(
    opened: Opened,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Return the last stream of each sequence, int64 [n_i, width], 24 fractional bits."""
    types = None if token_type_ids is None else rows_of(token_type_ids, attention_mask)
    return opened.encoder().streams(rows_of(input_ids, attention_mask), types)


def shown_streams(
    streams: Sequence[torch.Tensor], input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> BaseModelOutputWithPooling:
    """Return last streams as float32 [batch, length, width], zero at padding, for display."""
    shown = [(stream.to(torch.float64) / 2**constants.RESIDUAL_FRACTION).float() for stream in streams]
    return BaseModelOutputWithPooling(last_hidden_state=_placed(shown, input_ids, attention_mask))


def encoder_labels(
    opened: Opened,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
) -> SequenceClassifierOutput:
    """Return the labels' logits as float32 [batch, labels], for display."""
    types = None if token_type_ids is None else rows_of(token_type_ids, attention_mask)
    words = opened.labels(rows_of(input_ids, attention_mask), types)
    return SequenceClassifierOutput(logits=shown_logits(words))
