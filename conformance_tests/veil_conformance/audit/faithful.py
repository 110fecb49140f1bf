"""Whether the integer model says what the float32 model says: both are fed the same tokens."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from veil_spec import constants

GAP_LIMIT: Final = 0.01
"""A greedy token may differ only where the float32 model's two largest logits are closer than this."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A position where the greedy tokens differ, with the float32 model's gap between its two best."""

    prompt: int
    position: int
    integer_token: int
    float_token: int
    gap: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Integer logits against float32 logits over many positions; errors in units of a logit."""

    positions: int
    greedy_equal: int
    max_logit_error: float
    rms_logit_error: float
    flips: tuple[Flip, ...]

    @property
    def holds(self) -> bool:
        """Return whether every flip is a near tie of the float32 model."""
        return self.positions > 0 and all(flip.gap < GAP_LIMIT for flip in self.flips)


class FloatModel:
    """The checkpoint in float32, as transformers runs it: a Hugging Face directory or a GGUF file."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoModelForCausalLM, GgufConfig  # slow to import
        from transformers.utils import logging

        logging.disable_progress_bar()
        where = {"pretrained_model_name_or_path": checkpoint, "dtype": torch.float32}
        if checkpoint.is_file():
            where["pretrained_model_name_or_path"] = checkpoint.parent
            where |= {"gguf_file": checkpoint.name, "quantization_config": GgufConfig(dequantize=True)}
        self._model = AutoModelForCausalLM.from_pretrained(**where, local_files_only=True).eval()

    @torch.no_grad()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the logits after each token, float32 [n, vocabulary]."""
        result: torch.Tensor = self._model(torch.tensor([list(tokens)])).logits[0]
        return result

    @torch.no_grad()
    def decoding_seconds(self, prompt: Sequence[int], tokens: Sequence[int]) -> float:
        """Return the seconds to take in tokens one at a time, after a prompt that is not timed."""
        state = self._model(torch.tensor([list(prompt)]), use_cache=True).past_key_values
        start = time.perf_counter()
        for token in tokens:
            state = self._model(
                torch.tensor([[token]]), past_key_values=state, use_cache=True
            ).past_key_values
        return time.perf_counter() - start


def as_real(logits: torch.Tensor) -> torch.Tensor:
    """Return integer logits as numbers, float64."""
    return logits.to(torch.float64) / 2**constants.HIDDEN_FRACTION


def _flips(prompt: int, integer: torch.Tensor, real: torch.Tensor) -> Iterator[Flip]:
    ours, theirs = integer.argmax(-1), real.argmax(-1)
    best = real.topk(2).values
    for position in (ours != theirs).nonzero()[:, 0].tolist():
        gap = float(best[position, 0] - best[position, 1])
        yield Flip(prompt, position, int(ours[position]), int(theirs[position]), gap)


def compare(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Comparison:
    """Return the comparison of (integer logits, float32 logits) [n, vocabulary], one pair for each prompt."""
    flips: list[Flip] = []
    positions, largest, squares, words = 0, 0.0, 0.0, 0
    for prompt, (integer, real) in enumerate(pairs):
        error = as_real(integer) - real.to(torch.float64)
        flips.extend(_flips(prompt, integer, real))
        positions += len(error)
        largest = max(largest, float(error.abs().max()))
        squares += float(error.square().sum())
        words += error.numel()
    return Comparison(positions, positions - len(flips), largest, (squares / words) ** 0.5, tuple(flips))
