"""What of token ids may reach a worker that sees tokens: only what a table of tokens has drawn."""

from typing import Final

import torch

from veil.engines import Sanitizer
from veil_spec.refusals import Refusal, Refused

TABLE_REMEDY: Final = (
    "this table sanitizes words, so token ids cannot be sanitized: use model.chat, model.generate_text, "
    "model.embed or model.classify_text, or a table of the model's tokens"
)


def sanitized(sanitizer: Sanitizer, input_ids: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return tokens int64 [batch, length] with each that is present drawn anew, by a table of tokens.

    Only what the table itself keeps verbatim stays, and padding, which is not sent. Nothing tells whether
    ids were made of sanitized text, so a table of words refuses them.

    Implements: MDL-P4.
    Refuses: MODE_UNAVAILABLE, TOKEN_OUT_OF_RANGE.
    """
    if not sanitizer.of_tokens:
        raise Refused(Refusal.MODE_UNAVAILABLE, TABLE_REMEDY)
    drawn = input_ids.clone()
    for row, kept in zip(drawn, present, strict=True):
        row[kept] = torch.from_numpy(sanitizer.ids(row[kept].numpy()))
    return drawn
