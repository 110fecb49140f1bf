"""Generation with a decoder, whatever computes its products: one sequence or a batch, greedy or sampled."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import torch

from veil_optimized.sampling import greedy, sample_token, sampling_weights
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Sampling

Held = TypeVar("Held")
PIECE: Final = 512
"""Most rows of a step that takes in prompts: a longer prompt takes several, and memory stays bounded."""


class Shape(Protocol):
    """What generation asks of a model's shape."""

    @property
    def context(self) -> int:
        """Return the most tokens of a sequence."""
        ...


class Engine(Protocol[Held]):
    """A decoder here or elsewhere, which keeps something for each sequence."""

    @property
    def shape(self) -> Shape:
        """Return the model's shape."""
        ...

    def new_cache(self) -> Held:
        """Return what it keeps of a sequence that has not begun."""
        ...

    def advance(self, caches: Sequence[Held], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits after new tokens of each sequence, int64 [sequences, vocabulary]."""
        ...


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


@dataclass(frozen=True, slots=True)
class Drawn:
    """Chooses tokens by integer weights and the words of one sample's stream."""

    sampling: Sampling
    tape: Tape
    sample: int = 0

    def __call__(self, number: int, logits: torch.Tensor) -> int:
        """Return new token `number`, chosen from a row of logits."""
        return sample_token(sampling_weights(logits, self.sampling), self.tape, self.sample, number)


Choose = Callable[[int, torch.Tensor], int]
"""Returns a new token from its number, counted from 0, and a row of logits."""


def most_likely(number: int, logits: torch.Tensor) -> int:
    """Return the greedy token, whatever its number."""
    return greedy(logits)


@dataclass(slots=True)
class _Live(Generic[Held]):
    """A sequence that has not ended: what is kept of it, and the tokens that are to be taken in next."""

    index: int
    cache: Held
    pending: Sequence[int]
    choose: Choose


def batch_steps(
    engine: Engine[Held],
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    ends: Callable[[int, int], bool],
    choices: Sequence[Choose] | None = None,
) -> Iterator[Mapping[int, Step]]:
    """Yield the next step of every sequence that has not ended, by its place in the batch.

    A sequence ends after `new_tokens` tokens or where `ends(place, token)` says so, and then leaves the
    batch. Each is given the tokens that it would be given alone.

    Implements: MDL-P3.
    Refuses: PROMPT_EMPTY, TOKEN_OUT_OF_RANGE, CONTEXT_EXCEEDED, and what the engine refuses.
    """
    chosen = choices or [most_likely] * len(prompts)
    for prompt in prompts:
        check_room(engine.shape.context, len(prompt) + new_tokens - 1)
    live = [
        _Live(index, engine.new_cache(), prompt, choose)
        for index, (prompt, choose) in enumerate(zip(prompts, chosen, strict=True))
    ]
    _take_in(engine, live)
    for number in range(new_tokens):
        if not live:
            return
        rows = engine.advance([each.cache for each in live], [each.pending for each in live])
        made = {each.index: Step(each.choose(number, row), row) for each, row in zip(live, rows, strict=True)}
        yield made
        live = [each for each in live if not ends(each.index, made[each.index].token)]
        for each in live:
            each.pending = [made[each.index].token]


def _take_in(engine: Engine[Held], live: Sequence[_Live[Held]]) -> None:
    """Take in prompts until each has at most a piece left."""
    size = _piece(len(live))
    while longer := [each for each in live if len(each.pending) > size]:
        engine.advance([each.cache for each in longer], [each.pending[:size] for each in longer])
        for each in longer:
            each.pending = each.pending[size:]


def _piece(sequences: int) -> int:
    """Return how many tokens of each of so many prompts one step takes in."""
    return max(1, PIECE // max(1, sequences))


def steps_of(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of steps that take in a batch of prompts."""
    size = _piece(len(prompts))
    return max(-(-len(prompt) // size) for prompt in prompts)


def check_room(context: int, tokens: int) -> None:
    """Refuse more tokens than a context holds. Refuses: CONTEXT_EXCEEDED."""
    if tokens > context:
        remedy = f"{tokens} tokens exceed the model's context of {context}: shorten the prompt"
        raise Refused(Refusal.CONTEXT_EXCEEDED, remedy)


def steps(
    engine: Engine[Held],
    prompt: Sequence[int],
    new_tokens: int,
    stop: Collection[int] = (),
    choose: Choose = most_likely,
) -> Iterator[Step]:
    """Yield up to `new_tokens` tokens after a prompt, ending with one of `stop`; refuses as `batch_steps`."""
    for made in batch_steps(engine, [prompt], new_tokens, lambda _, token: token in stop, [choose]):
        yield made[0]


def generate(
    engine: Engine[Held],
    prompt: Sequence[int],
    new_tokens: int,
    stop: Collection[int] = (),
    choose: Choose = most_likely,
) -> Generation:
    """Return all of `steps` at once; refuses as it does."""
    made = list(steps(engine, prompt, new_tokens, stop, choose))
    return Generation([step.token for step in made], torch.stack([step.logits for step in made]))
