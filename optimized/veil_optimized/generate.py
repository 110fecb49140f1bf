"""Greedy generation with the integer decoder, whatever computes its products."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from veil_optimized.model import Decoder, greedy


@dataclass(frozen=True, slots=True)
class Step:
    """A new token, and the logits that chose it, int64 [vocabulary] with 18 fractional bits."""

    token: int
    logits: torch.Tensor


@dataclass(frozen=True, slots=True)
class Generation:
    """New tokens, and the logits that chose each, int64 [new tokens, vocabulary] with 18 fractional bits."""

    tokens: list[int]
    logits: torch.Tensor


def steps(
    decoder: Decoder, prompt: Sequence[int], new_tokens: int, stop: Collection[int] = ()
) -> Iterator[Step]:
    """Yield up to `new_tokens` greedy tokens after a prompt, ending with a token of `stop`.

    Refuses: PROMPT_EMPTY, TOKEN_OUT_OF_RANGE, CONTEXT_EXCEEDED, and what the decoder's products refuse.
    """
    decoder.check_room(len(prompt) + new_tokens - 1)
    pending = list(prompt)
    for _ in range(new_tokens):
        logits = decoder.step(pending)[-1]
        pending = [greedy(logits)]
        yield Step(pending[0], logits)
        if pending[0] in stop:
            return


def generate(
    decoder: Decoder, prompt: Sequence[int], new_tokens: int, stop: Collection[int] = ()
) -> Generation:
    """Return all of `steps` at once; refuses as it does."""
    made = list(steps(decoder, prompt, new_tokens, stop))
    return Generation([step.token for step in made], torch.stack([step.logits for step in made]))
