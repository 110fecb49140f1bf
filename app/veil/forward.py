"""One call of a model: from padded tensors to lists of tokens, and from integers to floats for display."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from transformers import Cache, DynamicCache
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
Clean = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns what may go on of tokens [batch, length], of which some are present."""
WHOLE: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""The types of tokens."""


def refuse_others(arguments: Mapping[str, object]) -> None:
    """Refuse an argument that means something and that nobody here acts on. Refuses: MODE_UNAVAILABLE."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"{name} is not supported: leave it out")


def batch_of(values: Any, name: str) -> torch.Tensor:
    """Return an argument's whole numbers [batch, length] as int64 on the CPU. Refuses: SHAPE_MISMATCH."""
    if not isinstance(values, torch.Tensor) or values.ndim != 2 or values.dtype not in WHOLE:
        raise Refused(Refusal.SHAPE_MISMATCH, f"{name} must be a tensor [batch, length] of whole numbers")
    return values.cpu().long()


def present_of(input_ids: torch.Tensor, attention_mask: Any, side: str, seen: int = 0) -> torch.Tensor:
    """Return which tokens are none of padding, bool [batch, length]; `side` is that of the padding.

    With a past, a mask also tells of the `seen` places before. Refuses: SHAPE_MISMATCH.
    """
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    expected = (input_ids.shape[0], seen + input_ids.shape[1])
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != expected:
        detail = "attention_mask must be a tensor [batch, length], as input_ids is, after those of a past"
        raise Refused(Refusal.SHAPE_MISMATCH, detail)
    mask = attention_mask.cpu()
    present = mask == 1
    earlier, later = present[:, :-1].int(), present[:, 1:].int()
    gap = (earlier > later) if side == "left" else (earlier < later)
    if bool(gap.any()) or not bool((present | (mask == 0)).all()):
        order = "zeros and then ones" if side == "left" else "ones and then zeros"
        detail = f"attention_mask must have {order} in each row: pad on the {side}"
        raise Refused(Refusal.SHAPE_MISMATCH, detail)
    return present[:, seen:]


def rows_of(values: torch.Tensor, present: torch.Tensor) -> Lists:
    """Return each sequence's values, without padding."""
    return [row[kept].tolist() for row, kept in zip(values, present, strict=True)]


def unchanged(input_ids: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return tokens as they are."""
    return input_ids


def _placed(values: Sequence[torch.Tensor], present: torch.Tensor) -> torch.Tensor:
    """Return values of each sequence's tokens at their places [batch, length, ...], zero at padding."""
    placed = torch.zeros(*present.shape, *values[0].shape[1:], dtype=values[0].dtype)
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


def _continued(engine: Any, past: Any, batch: int) -> IntegerCache:
    """Return a past that this module made, or a new one. Refuses: MODE_UNAVAILABLE, SHAPE_MISMATCH."""
    if isinstance(past, Cache) and not isinstance(past, IntegerCache) and past.get_seq_length() == 0:
        past = None
    if past is None:
        return IntegerCache([engine.new_cache() for _ in range(batch)])
    if not isinstance(past, IntegerCache):
        raise Refused(Refusal.MODE_UNAVAILABLE, "past_key_values are not of this model: leave them out")
    if len(past.rows) != batch:
        raise Refused(Refusal.SHAPE_MISMATCH, "past_key_values are of another batch than input_ids")
    return past


def decoder_forward(
    engine: Any,
    input_ids: Any,
    attention_mask: Any = None,
    past: Any = None,
    kept: Any = 0,
    clean: Clean = unchanged,
) -> CausalLMOutputWithPast:
    """Return float32 logits [batch, length, vocabulary] of integer ones; zero at padding on the left.

    With `kept`, only those of the last positions. A past is one that this returned before.

    Refuses: MODE_UNAVAILABLE, SHAPE_MISMATCH, and as `Decoder.advance` does.
    """
    if type(kept) is not int or kept < 0:
        raise Refused(Refusal.MODE_UNAVAILABLE, "logits_to_keep must be a whole number, of last positions")
    with torch.inference_mode(False):
        ids = batch_of(input_ids, "input_ids")
        past = _continued(engine, past, len(ids))
        present = present_of(ids, attention_mask, "left", past.seen)
        rows = rows_of(clean(ids, present), present)
        logits = _logits(engine, past.rows, rows, present, kept)
        past.seen += ids.shape[1]
    return CausalLMOutputWithPast(logits=logits, past_key_values=past)


def _logits(engine: Any, caches: list[Any], rows: Lists, present: torch.Tensor, kept: int) -> torch.Tensor:
    """Return float32 logits after new tokens of all or the last `kept` places; see `decoder_forward`."""
    if kept == 1:
        return shown_logits(engine.advance(caches, rows)).unsqueeze(1)
    if not hasattr(engine, "through"):
        remedy = "mode split gives the logits of last positions: use generate, or pass logits_to_keep=1"
        raise Refused(Refusal.MODE_UNAVAILABLE, remedy)
    every = shown_logits(engine.advance(caches, rows, every_position=True))
    return _placed(torch.split(every, [len(row) for row in rows]), present)[:, -kept:]


def _encoded(input_ids: Any, mask: Any, token_type_ids: Any, clean: Clean) -> tuple[Lists, Lists | None]:
    """Return the tokens and types of right-padded sequences. Refuses: SHAPE_MISMATCH."""
    ids = batch_of(input_ids, "input_ids")
    present = present_of(ids, mask, "right")
    rows = rows_of(clean(ids, present), present)
    if token_type_ids is None:
        return rows, None
    types = batch_of(token_type_ids, "token_type_ids")
    if types.shape != ids.shape:
        raise Refused(Refusal.SHAPE_MISMATCH, "token_type_ids must be [batch, length], as input_ids is")
    return rows, rows_of(types, present)


def encoder_streams(
    opened: Opened, input_ids: Any, attention_mask: Any, token_type_ids: Any, clean: Clean = unchanged
) -> list[torch.Tensor]:
    """Return the last stream of each sequence, int64 [n_i, width], 24 fractional bits."""
    return opened.encoder().streams(*_encoded(input_ids, attention_mask, token_type_ids, clean))


def shown_streams(
    streams: Sequence[torch.Tensor], input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> BaseModelOutputWithPooling:
    """Return last streams as float32 [batch, length, width], zero at padding, for display."""
    shown = [(stream.to(torch.float64) / 2**constants.RESIDUAL_FRACTION).float() for stream in streams]
    present = present_of(input_ids, attention_mask, "right")
    return BaseModelOutputWithPooling(last_hidden_state=_placed(shown, present))


def encoder_labels(
    opened: Opened, input_ids: Any, attention_mask: Any, token_type_ids: Any, clean: Clean = unchanged
) -> SequenceClassifierOutput:
    """Return the labels' logits as float32 [batch, labels], for display."""
    words = opened.labels(*_encoded(input_ids, attention_mask, token_type_ids, clean))
    return SequenceClassifierOutput(logits=shown_logits(words))
