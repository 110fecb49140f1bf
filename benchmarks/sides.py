"""A model run in several ways, whose prefills and steps are timed in turns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from benchmarks.models import FloatDecoder, Small
from benchmarks.ratios import Work

from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.generate import Engine

Prompts = Sequence[Sequence[int]]
Advance = Callable[[Prompts], torch.Tensor]
"""Takes the next tokens of every sequence and returns the logits after the last of each."""
Sides = Mapping[str, Callable[[], Advance]]
"""What begins sequences, by the name of the way in which they are computed."""
ORDER: Final = ("float32", "plain", "mint", "masked")
"""In a round, pads are minted just before they are used."""


def integers(begin: Callable[[], Engine[Any]]) -> Advance:
    """Return sequences of a decoder on integers."""
    decoder, caches = begin(), list[Any]()

    def advance(tokens: Prompts) -> torch.Tensor:
        caches.extend(decoder.new_cache() for _ in tokens[len(caches) :])
        return decoder.advance(caches, tokens)

    return advance


def transformers(model: Any) -> Advance:
    """Return sequences of a model in float32 transformers, which get logits for the last token only."""
    past: Any = None

    def advance(tokens: Prompts) -> torch.Tensor:
        nonlocal past
        with torch.inference_mode():
            made = model(torch.tensor(tokens), past_key_values=past, use_cache=True, logits_to_keep=1)
        past = made.past_key_values
        logits: torch.Tensor = made.logits[:, -1]
        return logits

    return advance


def seeded(model: Small, enclave: Enclave) -> Sides:
    """Return the ways to run a seeded model, masked by an open enclave."""
    return {
        "float32": lambda: FloatDecoder(model.floats, model.shape).advance,
        "plain": lambda: integers(lambda: Decoder(model.integer)),
        "masked": lambda: integers(lambda: Decoder(model.integer, enclave.products)),
    }


def prefills(sides: Sides, enclave: Enclave, prompts: Prompts) -> dict[str, Work]:
    """Return a prefill by each side, and the minting of its pads."""

    def prefill(begin: Callable[[], Advance]) -> Work:
        begun: list[Advance] = []
        return Work(lambda: begun.pop()(prompts), single=True, before=lambda: begun.append(begin()))

    rows = sum(map(len, prompts))
    mint = Work(lambda: enclave.mint_ahead(enclave.next_step, 1, rows), single=True)
    works = {name: prefill(begin) for name, begin in sides.items()} | {"mint": mint}
    return {name: works[name] for name in ORDER}


def steps_after(
    prompts: Prompts, begin: Callable[[], Advance], count: int, before: Callable[[], object] = list
) -> Work:
    """Return so many steps after prompts, with what comes before them in the same time."""
    tokens, advance = [[place] for place, _ in enumerate(prompts)], begin()
    advance(prompts)

    def run() -> None:
        before()
        for _ in range(count):
            advance(tokens)

    return Work(run, count, single=True)


def decodes(sides: Sides, enclave: Enclave, prompts: Prompts, count: int) -> dict[str, Work]:
    """Return so many steps after prompts by each side, and the minting of their pads at once."""
    mint = Work(lambda: enclave.mint_ahead(enclave.next_step, count, len(prompts)), count, single=True)
    works = {name: steps_after(prompts, begin, count) for name, begin in sides.items()} | {"mint": mint}
    return {name: works[name] for name in ORDER}


def minted(seconds: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """Return the seconds of masked work with the minting of its pads, round by round."""
    return tuple(map(sum, zip(seconds["mint"], seconds["masked"], strict=True)))
