"""Masked, plain and float32 decoding of the same tokens: their logits and what they cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from veil_conformance.audit.faithful import FloatModel
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave, epoch
from veil_optimized.generate import steps
from veil_optimized.model import Model

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """One prompt with the tokens that the masked model made of it, and the logits that chose them."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor

    @property
    def fed(self) -> list[int]:
        """Return every token that the model took in: all but the last."""
        return self.prompt + self.tokens[:-1]


@dataclass
class Cost:
    """Totals over all decoding steps, prompts not counted; one step makes one token.

    Preparing the check comes once an epoch, and each prompt is one.
    """

    decoding_steps: int = 0
    plain_float32_s: float = 0.0
    plain_integer_s: float = 0.0
    masked_s: float = 0.0
    mint_s: float = 0.0
    prepare_s: float = 0.0
    macs_online: int = 0
    macs_offline: int = 0
    bytes: int = 0
    round_trips: int = 0


@dataclass
class Checking:
    """What the epochs that ran did with the worker's products; all of their steps count, prompts included."""

    received: int = 0
    checked: int = 0
    vectors: tuple[int, ...] = ()
    """Secret vectors of each group, in the epoch that had the fewest."""

    def add(self, enclave: Enclave) -> None:
        """Count an epoch: products as its channel received them, checks as its enclave made them."""
        self.received += enclave.channel.round_trips
        self.checked += enclave.checked
        vectors = enclave.secret_vectors
        self.vectors = tuple(map(min, self.vectors or vectors, vectors))


@dataclass
class Tally:
    """Words compared between two ways to compute the same logits."""

    positions: int = 0
    mismatches: int = 0

    def add(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """Count a pair of logit rows [n, vocabulary]; rows that are missing count as wrong."""
        shared = min(len(first), len(second))
        self.positions += shared
        self.mismatches += int((first[:shared] != second[:shared]).sum())
        self.mismatches += abs(len(first) - len(second)) * first.shape[-1]


@dataclass
class Decoded:
    """All prompts, masked, with the plain logits of the same positions and what each way cost."""

    told: list[Told] = field(default_factory=list)
    plain: list[torch.Tensor] = field(default_factory=list)
    """Plain logits after each token fed, int64 [n, vocabulary]."""
    real: list[torch.Tensor] = field(default_factory=list)
    """Float32 logits of the same positions."""
    stepwise: Tally = field(default_factory=Tally)
    """Masked logits against plain ones, token by token."""
    whole: Tally = field(default_factory=Tally)
    """The same masked logits against plain ones of a whole sequence at once."""
    cost: Cost = field(default_factory=Cost)
    checking: Checking = field(default_factory=Checking)

    @property
    def identity(self) -> Tally:
        """Return the positions of masked logits, and the words that differ in either comparison."""
        return Tally(self.stepwise.positions, self.stepwise.mismatches + self.whole.mismatches)


def _moved(enclave: Enclave) -> tuple[int, int]:
    channel = enclave.channel
    return channel.bytes_sent + channel.bytes_received, channel.round_trips


def masked(
    model: Model, address: str, prompt: list[int], new_tokens: int, cost: Cost, checking: Checking
) -> Told:
    """Return what a fresh epoch makes of a prompt; adds to cost and checking. Refuses: as Enclave does."""
    with epoch(model, address) as enclave:
        enclave.mint_ahead(1, new_tokens - 1)
        cost.mint_s += enclave.cost.mint_seconds
        cost.prepare_s += enclave.cost.prepare_seconds
        cost.macs_offline += enclave.cost.macs_offline
        made = steps(Decoder(model, enclave.products), prompt, new_tokens)
        rows = [next(made)]
        start, moved, macs = time.perf_counter(), _moved(enclave), enclave.cost.macs_online
        rows.extend(made)
        cost.masked_s += time.perf_counter() - start
        cost.macs_online += enclave.cost.macs_online - macs
        total = _moved(enclave)
        checking.add(enclave)
    cost.decoding_steps += len(rows) - 1
    cost.bytes += total[0] - moved[0]
    cost.round_trips += total[1] - moved[1]
    return Told(prompt, [row.token for row in rows], torch.stack([row.logits for row in rows]))


def plain_stepwise(model: Model, told: Told, cost: Cost) -> torch.Tensor:
    """Return the plain logits of the same tokens, one at a time, int64 [new tokens, vocabulary]."""
    decoder = Decoder(model)
    rows = [decoder.step(told.prompt)]
    start = time.perf_counter()
    rows.extend(decoder.step([token]) for token in told.tokens[:-1])
    cost.plain_integer_s += time.perf_counter() - start
    return torch.cat(rows)


def decode(
    model: Model,
    real: FloatModel,
    address: str,
    prompts: Sequence[list[int]],
    new_tokens: int,
    progress: Progress,
) -> Decoded:
    """Return every prompt decoded three ways; the plain model also runs on whole sequences at once."""
    result = Decoded()
    for number, prompt in enumerate(prompts, 1):
        progress(f"prompt {number} of {len(prompts)}: masked, by a worker process")
        told = masked(model, address, prompt, new_tokens, result.cost, result.checking)
        progress(f"prompt {number} of {len(prompts)}: plain")
        stepwise = plain_stepwise(model, told, result.cost)
        whole = Decoder(model).step(told.fed, every_position=True)
        progress(f"prompt {number} of {len(prompts)}: float32")
        result.cost.plain_float32_s += real.decoding_seconds(prompt, told.tokens[:-1])
        result.real.append(real.logits(told.fed))
        result.stepwise.add(told.logits, stepwise)
        result.whole.add(told.logits, whole[len(prompt) - 1 :])
        result.told.append(told)
        result.plain.append(whole)
    return result
