"""Sequential vocabulary matching: each candidate is run after the recovered prefix, up to a tap.

Definition: for i = 1 .. n, the model runs recovered prefix + v for every candidate v, with a cache of keys
and values, to the tap's input h_v; the token is the v whose h_v equals the masked row under the annihilator
of the public basis, or is nearest to it in the null space (real-valued masks) or the whole space (no basis).
Source: arXiv 2505.18332.
Cost: tokens x candidates forward passes up to the tap.
Breaks: masks of rank m < width at every depth: layer 1, the middle, the last layer and the head.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from veil_conformance.attacks import modular, null_space
from veil_conformance.attacks.base import Attack, Guesses, Public, Sighting, View, images
from veil_conformance.attacks.modular import Elements, Floats
from veil_optimized import fixed_point
from veil_optimized.decoder import Cache, Decoder
from veil_optimized.fixed_point import Rows
from veil_optimized.model import Group, Model, answered, plain_products

CANDIDATES = 64
"""Candidates that are run at a time: their attention scores include one another's, which are not used."""
PER_LAYER = 4
"""Linear groups of a layer."""


class _Reached(Exception):
    """Raised when the last tap has been read."""


class Branches(Decoder):
    """A decoder that tries many next tokens at once, each after the same prefix and blind to the others."""

    def __init__(self, model: Model, taps: tuple[int, ...]) -> None:
        super().__init__(model, self._watched)
        self._taps, self._seen, self._branching = taps, dict[int, torch.Tensor](), False

    def _watched(self, group: Group, rows: torch.Tensor) -> torch.Tensor:
        if group.number in self._taps:
            self._seen[group.number] = rows
        if group.number == max(self._taps):
            raise _Reached
        return plain_products(group, rows)

    def _sequence(self, layer: int, heads: torch.Tensor, cache: Cache) -> torch.Tensor:
        if not self._branching:
            return super()._sequence(layer, heads, cache)
        shape, count, place = self.shape, len(heads), cache.position
        sizes = [shape.heads, shape.kv_heads, shape.kv_heads]
        queries, keys, values = torch.split(heads.transpose(0, 1), sizes)
        query, key = (
            _apart(self._placed(layer, norm, part.flatten(0, 1).unsqueeze(0), place), part)
            for norm, part in (("q_norm", queries), ("k_norm", keys))
        )
        held, old = cache.held(layer, place)
        shared = shape.heads // shape.kv_heads
        every = Rows(
            torch.cat((held.values, key.values), 1).repeat_interleave(shared, 0),
            torch.cat((held.exponent, key.exponent), 1).repeat_interleave(shared, 0),
        )
        own = torch.eye(count, dtype=torch.bool)
        seen = torch.cat((torch.ones(count, place, dtype=torch.bool), own), 1)
        averages = fixed_point.softmax_average(
            fixed_point.attention_score(query, every),
            torch.cat((old, values), 1).repeat_interleave(shared, 0),
            seen,
        )
        return averages.transpose(0, 1).flatten(1)

    def _run(self, tokens: list[int]) -> None:
        """Return nothing; the inputs of the taps are in `_seen`."""
        self.cache.reserve(1)
        self._turn_to(self.cache.position + 1)
        with suppress(_Reached):
            embedded = self.embed(tokens)
            layers = self._through_layers([self.cache], [len(tokens)], embedded)
            normal = self.model.rms_norm("final_norm", answered(layers, self._watched))
            answered(self.layers.hidden(PER_LAYER * self.shape.layers, normal), self._watched)

    def tried(self, tokens: list[int]) -> dict[int, Elements]:
        """Return the inputs of each tap [tokens, width] if one of these tokens came next."""
        self._branching = True
        self._run(tokens)
        self._branching = False
        return {tap: rows.numpy() for tap, rows in self._seen.items()}

    def accept(self, token: int) -> None:
        """Return nothing: the token is the next of the prefix."""
        self._run([token])
        self.cache.position += 1


def _apart(placed: Rows, heads: torch.Tensor) -> Rows:
    """Return heads that were placed one by one in the shape of heads [heads, n, head width]."""
    return Rows(placed.values.reshape(heads.shape), placed.exponent.reshape(heads.shape[:-1]))


@dataclass(frozen=True, slots=True)
class Probe:
    """What candidates are compared with: masked rows, and what makes such a row of the taps' inputs."""

    taps: tuple[int, ...]
    joined: Callable[[dict[int, Elements]], Elements | Floats]
    seen: Sighting


def matched(public: Public, view: View, probe: Probe) -> Guesses:
    """Return a token for each position, up to the first that the probe has no row of."""
    if public.model is None:
        raise ValueError("sequential matching needs the model")
    size = public.model.shape.vocabulary
    candidates = np.arange(size) if public.candidates is None else public.candidates
    compare = _Comparison(probe.seen)
    branches = Branches(public.model, probe.taps)
    rows = {int(position): row for row, position in enumerate(probe.seen.positions)}
    guesses: Guesses = [None] * view.tokens
    for position in range(view.tokens):
        if position not in rows:
            break
        known = np.concatenate([probe.joined(branches.tried(part)) for part in _parts(candidates)])
        token = int(candidates[compare.best(rows[position], known)])
        guesses[position] = token
        branches.accept(token)
    return guesses


def _parts(candidates: Elements) -> Iterator[list[int]]:
    for start in range(0, len(candidates), CANDIDATES):
        yield candidates[start : start + CANDIDATES].tolist()


class _Comparison:
    """Compares candidate rows with the row of a position."""

    def __init__(self, seen: Sighting) -> None:
        self._seen, self._lifted = seen, seen.lifted
        self._vectors: Elements | None = None
        self._space: Floats | None = None
        if seen.basis is not None and seen.modulus is not None:
            self._vectors = modular.null_vectors(seen.basis, seen.modulus)
            self._images = modular.product(seen.masked, self._vectors, seen.modulus)
        elif seen.basis is not None:
            space = null_space.complement(seen.basis)
            self._space = space if space.shape[1] else None

    def best(self, row: int, known: Elements | Floats) -> int:
        """Return the index of the candidate row that equals the masked one, or else is nearest to it."""
        if self._vectors is not None and self._vectors.shape[1]:
            equal = (images(known.astype(np.int64), self._vectors, self._seen) == self._images[row]).all(1)
            if equal.any():
                return int(equal.argmax())
        away = known - self._lifted[row]
        if self._space is not None:
            away = away @ self._space
        return int(np.square(away).sum(-1).argmin())


def through(tap: Callable[[int], int]) -> Callable[[Public, View], Guesses]:
    """Return the attack through one linear group, given by the number of layers."""

    def guess(public: Public, view: View) -> Guesses:
        """Return a token for each position; none if the view does not show the tap."""
        if public.model is None:
            raise ValueError("sequential matching needs the model")
        number = tap(public.model.shape.layers)
        seen = next(view.of(number), None)
        if seen is None:
            return [None] * view.tokens
        return matched(public, view, Probe((number,), lambda rows: rows[number], seen))

    return guess


TAPS: dict[str, Callable[[int], int]] = {
    "layer 1": lambda layers: min(PER_LAYER, PER_LAYER * (layers - 1)),
    "middle": lambda layers: PER_LAYER * (layers // 2),
    "last layer": lambda layers: PER_LAYER * (layers - 1),
    "head": lambda layers: PER_LAYER * layers,
}
"""The linear group of each tap by the number of layers: inputs of q, k and v, and of the head."""

ATTACKS = tuple(
    Attack(
        name=f"sequential matching, {name}",
        source="arXiv 2505.18332",
        cost="tokens candidates forward passes",
        breaks=("rank", "real rank"),
        guess=through(tap),
        needs_model=True,
    )
    for name, tap in TAPS.items()
)
