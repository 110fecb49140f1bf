"""The arguments of `generate`, as transformers takes them: understood, or refused by name."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import torch
from transformers import GenerationConfig, PreTrainedConfig, StopStringCriteria

from veil_optimized.generate import Choose, Drawn, most_likely
from veil_optimized.sampling import sampling_weights
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Sampling

DEFAULT_NEW_TOKENS: Final = 20
"""What transformers generates where nobody says how much."""
UNDERSTOOD: Final = frozenset(
    {
        "max_length",
        "max_new_tokens",
        "eos_token_id",
        "pad_token_id",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "num_return_sequences",
        "stop_strings",
        "return_dict_in_generate",
        "output_scores",
        "output_logits",
    }
)
WITHOUT_EFFECT: Final = frozenset(
    {
        "bos_token_id",
        "decoder_start_token_id",
        "transformers_version",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "compile_config",
        "disable_compile",
        "prefill_chunk_size",
        "early_stopping",
        "length_penalty",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "target_lookbehind",
        "is_assistant",
        "low_memory",
    }
)
"""What greedy choice and sampling do not look at in transformers either."""
NUMBER: Final = re.compile(r"-?[0-9.]{1,40}(e[+-]?[0-9]{1,3})?|[0-9]{1,40}/[0-9]{1,40}")
"""A number whose digits are worth reading: an exponent of nine digits would fill the memory."""
SWITCHES: Final = ("do_sample", "return_dict_in_generate", "output_scores", "output_logits")
ONLY_SAMPLED: Final = frozenset(["min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"])
"""What transformers does not look at without do_sample."""
NEUTRAL: Final[Mapping[str, object]] = {
    "typical_p": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
}
"""Values that change nothing, where they are not None, False, 0 or empty."""


def _refuse(detail: str) -> Refused:
    return Refused(Refusal.MODE_UNAVAILABLE, detail)


def merged(
    own: GenerationConfig, given: GenerationConfig | None, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Return every value that is set: by an argument, else by a given configuration, else by the model's."""
    settings: dict[str, Any] = {}
    for layer in (own.to_dict(), {} if given is None else given.to_dict()):
        settings |= {name: value for name, value in layer.items() if value is not None and name[0] != "_"}
    return settings | dict(arguments)


def check(settings: Mapping[str, Any]) -> None:
    """Refuse a setting that would change the text and is not acted on. Refuses: MODE_UNAVAILABLE."""
    for name in SWITCHES:
        if not isinstance(settings.get(name), int | None):
            raise _refuse(f"{name} must be True or False")
    for name, value in settings.items():
        if name in UNDERSTOOD or name in WITHOUT_EFFECT:
            continue
        if name in ONLY_SAMPLED and not settings.get("do_sample"):
            continue
        if not _changes_nothing(name, value):
            neutral = NEUTRAL.get(name)
            raise _refuse(f"{name} is not supported: pass {name}={neutral!r} to generate without it")


def _changes_nothing(name: str, value: Any) -> bool:
    """Return whether a value is empty or neutral; of tensors and other objects that is not asked."""
    if not isinstance(value, int | float | str | list | tuple | dict | None):
        return False
    return not value or bool(value == NEUTRAL.get(name))


def _whole(settings: Mapping[str, Any], name: str) -> int | None:
    value = settings.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise _refuse(f"{name} must be a whole number of at least 1")
    return value


def _new_tokens(settings: Mapping[str, Any], width: int, config: PreTrainedConfig) -> int:
    """Return how many tokens may follow prompts of a padded width, as transformers counts them."""
    new_tokens, most = _whole(settings, "max_new_tokens"), _whole(settings, "max_length")
    if new_tokens is not None:
        return new_tokens
    if most is None:
        most = width + DEFAULT_NEW_TOKENS
        most = min(most, getattr(config, "max_position_embeddings", None) or most)
    if width >= most:
        raise _refuse("max_length leaves no new token after the prompt: pass max_new_tokens")
    return most - width


def _rational(settings: Mapping[str, Any], name: str) -> Fraction:
    value = settings.get(name)
    if value is None:
        return Fraction(1)
    try:
        if not NUMBER.fullmatch(str(value)):
            raise ValueError(name)
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise Refused(Refusal.SAMPLING_OUT_OF_RANGE, f"{name} must be a finite number") from None


def _sampling(settings: Mapping[str, Any]) -> Sampling | None:
    """Return how tokens are drawn, None for greedy choice. Refuses: SAMPLING_OUT_OF_RANGE."""
    if not settings.get("do_sample"):
        return None
    count = settings.get("top_k", 50)
    if type(count) is int and count == 0:
        count = None
    return Sampling(_rational(settings, "temperature"), count, _rational(settings, "top_p"))


def _tokens(settings: Mapping[str, Any], name: str) -> list[int]:
    """Return a setting's tokens: one, several or none. Refuses: MODE_UNAVAILABLE."""
    value = settings.get(name)
    if isinstance(value, torch.Tensor):
        value = value.flatten().tolist()
    listed = list(value) if isinstance(value, list | tuple | set) else [] if value is None else [value]
    if any(type(token) is not int for token in listed):
        raise _refuse(f"{name} must be a whole number, or several")
    return listed


def tape_of(seed: bytes | int | None) -> SeededTape:
    """Return the tape of a sampling seed, by default one from the operating system. Refuses: SEED_LENGTH."""
    if seed is None:
        return SeededTape(os.urandom(constants.SEED_BYTES))
    if isinstance(seed, int):
        if not 0 <= seed < 2 ** (8 * constants.SEED_BYTES):
            raise Refused(Refusal.SEED_LENGTH, "seed must be from 0 to 2**256 - 1")
        return SeededTape(seed.to_bytes(constants.SEED_BYTES, "big"))
    if not isinstance(seed, bytes | bytearray):
        raise Refused(Refusal.SEED_LENGTH, "seed must be a whole number or 32 bytes")
    return SeededTape(seed)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `generate` is to do; `sampling` is None for greedy choice."""

    new_tokens: int
    eos: Collection[int]
    pad: int | None
    sampling: Sampling | None
    copies: int
    as_dict: bool
    scores: bool
    logits: bool
    stop: StopStringCriteria | None

    @property
    def keeps_logits(self) -> bool:
        """Return whether logits are asked for."""
        return self.scores or self.logits

    def mask(self, prompts: torch.Tensor) -> torch.Tensor:
        """Return which tokens of prompts are none of padding, as transformers guesses it [batch, length]."""
        if self.pad is None or self.pad in self.eos:
            return torch.ones_like(prompts)
        return prompts.ne(self.pad).long()

    def choices(self, sequences: int, seed: bytes | int | None) -> list[Choose]:
        """Return how each sequence's tokens are chosen; the number of a copy is that of its sample.

        Without a seed, each prompt has a tape of its own: on one tape, equal prompts would get equal texts.
        """
        if self.sampling is None:
            return [most_likely] * sequences
        tapes = [tape_of(seed) for _ in range(sequences // self.copies)]
        return [Drawn(self.sampling, tape, copy) for tape in tapes for copy in range(self.copies)]

    def ends(self, ids: Sequence[int]) -> bool:
        """Return whether a sequence, prompt and all, ends with its last token."""
        if ids[-1] in self.eos:
            return True
        return self.stop is not None and bool(self.stop(torch.tensor([list(ids)]), None)[0])

    def scored(self, row: torch.Tensor) -> torch.Tensor:
        """Return what transformers calls scores, float32 [vocabulary], of integer logits, for display."""
        shown = shown_logits(row)
        if self.sampling is None:
            return shown
        kept = sampling_weights(row, self.sampling) > 0
        return (shown / float(self.sampling.temperature)).masked_fill(~kept, -torch.inf)


def plan(
    own: GenerationConfig,
    given: GenerationConfig | None,
    arguments: Mapping[str, object],
    shape: tuple[int, int],
    config: PreTrainedConfig,
    tokenizer: Any = None,
) -> Plan:
    """Return what the arguments mean for prompts [batch, width].

    Refuses: MODE_UNAVAILABLE, SAMPLING_OUT_OF_RANGE.
    """
    settings = merged(own, given, arguments)
    check(settings)
    sampling, copies = _sampling(settings), _whole(settings, "num_return_sequences") or 1
    if copies > 1 and sampling is None:
        raise _refuse("num_return_sequences needs do_sample=True: greedy choice gives one text")
    eos = _tokens(settings, "eos_token_id")
    pad = next(iter(_tokens(settings, "pad_token_id") + eos), None)
    stop = _stop(settings.get("stop_strings"), tokenizer)
    if stop is not None and pad is None and shape[0] * copies > 1:
        raise _refuse("stop_strings with a batch need pad_token_id: sequences end at different lengths")
    as_dict = bool(settings.get("return_dict_in_generate"))
    scores, logits = (as_dict and bool(settings.get(name)) for name in ("output_scores", "output_logits"))
    new_tokens = _new_tokens(settings, shape[1], config)
    return Plan(new_tokens, frozenset(eos), pad, sampling, copies, as_dict, scores, logits, stop)


def _stop(strings: str | Sequence[str] | None, tokenizer: Any) -> StopStringCriteria | None:
    if not strings:
        return None
    if tokenizer is None:
        raise _refuse("stop_strings need the tokenizer: pass tokenizer=...")
    try:
        return StopStringCriteria(tokenizer, [strings] if isinstance(strings, str) else list(strings))
    except (ValueError, TypeError, AttributeError):
        raise _refuse("stop_strings cannot be matched with this tokenizer: leave them out") from None


def shown_logits(words: torch.Tensor) -> torch.Tensor:
    """Return integer logits as float32 for display: exact below 64, rounded beyond."""
    return (words.to(torch.float64) / 2**constants.HIDDEN_FRACTION).to(torch.float32)
