"""What two rows of logits, two vectors or two texts have in common: pure functions and their sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Final

import torch

from veil_spec import constants

Progress = Callable[[str, int, int], None]
"""Told what is under way: its name, steps done, steps in all."""
GAP_LIMIT: Final = 0.01
"""A flip at a smaller gap between two logits of float32 is within fidelity."""
DISTANCE_LIMIT: Final = 1e-3
"""Cosine distances of embeddings stay below it."""


def shown(words: torch.Tensor, fraction: int = constants.HIDDEN_FRACTION) -> torch.Tensor:
    """Return fixed-point words as the reals that they stand for, float64 of the same shape."""
    return words.to(torch.float64) * 2.0**-fraction


@dataclass(frozen=True, slots=True)
class Flip:
    """A position at which the greedy tokens differ, and how near the reference was to a tie there.

    `top_two` is the reference's gap between its two largest logits, `lost` that between its largest and the
    one of the token that the subject chose: never smaller.
    """

    position: int
    top_two: float
    lost: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Logits of a subject against those of a reference, position by position.

    Sums are over all logits, or for the losses (negative log likelihoods, in nats) over the tokens that
    follow a position. Gaps are those of the top two logits at each position.
    """

    positions: int
    flips: tuple[Flip, ...]
    largest_error: float
    square_sum: float
    logits: int
    subject_loss: float
    reference_loss: float
    followed: int
    subject_gaps: tuple[float, ...]
    reference_gaps: tuple[float, ...]

    @property
    def rms_error(self) -> float:
        """Return the root mean square of the differences of all logits."""
        return sqrt(self.square_sum / self.logits)

    @property
    def widest(self) -> float:
        """Return the largest gap that a flip crossed, 0 without flips."""
        return max((flip.lost for flip in self.flips), default=0.0)

    @property
    def faithful(self) -> bool:
        """Return whether every flip crossed a gap below GAP_LIMIT."""
        return self.widest < GAP_LIMIT

    def record(self) -> dict[str, object]:
        """Return the figures for JSON: all but the gaps where nothing flipped."""
        return {
            "positions": self.positions,
            "agreed": self.positions - len(self.flips),
            "flips": [
                {"position": flip.position, "top_two": flip.top_two, "lost": flip.lost} for flip in self.flips
            ],
            "largest_error": self.largest_error,
            "rms_error": self.rms_error,
            "subject_perplexity": exp(self.subject_loss / self.followed),
            "reference_perplexity": exp(self.reference_loss / self.followed),
            "faithful": self.faithful,
        }


def compare(subject: torch.Tensor, reference: torch.Tensor, following: Sequence[int]) -> Comparison:
    """Return how the subject's logits [n, vocabulary] differ from the reference's, both float64.

    `following` holds the tokens that follow the first positions, at most n.
    """
    errors = subject - reference
    subject_gaps, reference_gaps = _gaps(subject), _gaps(reference)
    chosen, best = subject.argmax(-1), reference.argmax(-1)
    lost = reference.amax(-1) - reference.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    flips = [
        Flip(place, reference_gaps[place], float(lost[place]))
        for place in (chosen != best).nonzero().flatten().tolist()
    ]
    return Comparison(
        positions=len(subject),
        flips=tuple(flips),
        largest_error=float(errors.abs().max()),
        square_sum=float(errors.square().sum()),
        logits=errors.numel(),
        subject_loss=_loss(subject, following),
        reference_loss=_loss(reference, following),
        followed=len(following),
        subject_gaps=tuple(subject_gaps),
        reference_gaps=tuple(reference_gaps),
    )


def _gaps(logits: torch.Tensor) -> list[float]:
    top = logits.topk(2, -1).values
    gaps: list[float] = (top[:, 0] - top[:, 1]).tolist()
    return gaps


def _loss(logits: torch.Tensor, following: Sequence[int]) -> float:
    kept, tokens = logits[: len(following)], torch.tensor(following, dtype=torch.int64)
    return float(torch.nn.functional.cross_entropy(kept, tokens, reduction="sum"))


def joined(parts: Sequence[Comparison]) -> Comparison:
    """Return one comparison of all the positions of several, numbered on."""
    flips, before = [], 0
    for part in parts:
        flips += [Flip(before + flip.position, flip.top_two, flip.lost) for flip in part.flips]
        before += part.positions
    return Comparison(
        positions=before,
        flips=tuple(flips),
        largest_error=max(part.largest_error for part in parts),
        square_sum=sum(part.square_sum for part in parts),
        logits=sum(part.logits for part in parts),
        subject_loss=sum(part.subject_loss for part in parts),
        reference_loss=sum(part.reference_loss for part in parts),
        followed=sum(part.followed for part in parts),
        subject_gaps=tuple(gap for part in parts for gap in part.subject_gaps),
        reference_gaps=tuple(gap for part in parts for gap in part.reference_gaps),
    )


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a free-running text left the reference's: prompt, new token, and the reference's gaps there."""

    prompt: int
    token: int
    top_two: float
    lost: float


def parting(prompt: int, chosen: Sequence[int], reference: torch.Tensor) -> Parting | None:
    """Return where chosen tokens first differ from a greedy reference's, given its logits [n, vocabulary]."""
    for place, (token, logits) in enumerate(zip(chosen, reference, strict=True)):
        top = logits.topk(2).values
        if token != int(logits.argmax()):
            return Parting(prompt, place, float(top[0] - top[1]), float(top[0] - logits[token]))
    return None


def cosine_distances(subject: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return 1 less the cosine of each row of one with that of the other, float64 [n]."""
    return 1 - torch.nn.functional.cosine_similarity(subject, reference, dim=-1, eps=0)
