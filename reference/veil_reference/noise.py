"""Geometric noise, drawn exactly: a uniform binary fraction from the tape against the powers of alpha."""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Geometric, Noise

__all__ = ["at_least", "check_place", "check_scores", "geometric", "sample"]


def check_scores(scores: Sequence[int]) -> None:
    """Refuse scores for which no selection is specified.

    Implements: NMX-R5, NMX-R6.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    if not scores:
        raise Refused(Refusal.SCORES_EMPTY)
    if len(scores) > constants.CANDIDATE_LIMIT:
        raise Refused(Refusal.SCORE_OUT_OF_RANGE, f"more than {constants.CANDIDATE_LIMIT} candidates")
    if max(map(abs, scores)) > constants.SCORE_LIMIT:
        raise Refused(Refusal.SCORE_OUT_OF_RANGE, f"a score is beyond {constants.SCORE_LIMIT}")


def _level(fraction: Fraction, alpha: Fraction) -> int:
    """Return the largest j >= 0 with fraction < alpha**j, for 0 < fraction < 1."""
    high = 1
    while fraction < alpha**high:
        high *= 2
    return bisect_left(range(high), True, lo=high // 2, key=lambda j: fraction >= alpha**j) - 1


def geometric(alpha: Fraction, tape: Tape, stream: int, draw: int = 0) -> int:
    """Return k >= 0; over a uniform tape its probability is (1 - alpha) * alpha**k.

    Source: spec/noisy_max.md, Noise.
    Implements: NMX-R1.
    """
    retry_stream = stream + ((draw + 1) << constants.RETRY_SHIFT)
    digits, scale, retry = tape.word(Domain.NOISE, stream, draw), 2**constants.WORD_BITS, 0
    while True:
        if digits:
            k = _level(Fraction(digits, scale), alpha)
            if Fraction(digits + 1, scale) <= alpha**k:
                return k
        digits = digits * 2**constants.WORD_BITS + tape.word(Domain.NOISE, retry_stream, retry)
        scale, retry = scale * 2**constants.WORD_BITS, retry + 1


def check_place(token: int, document: int, candidate: int = 0) -> None:
    """Refuse a place for which the tape has no words. Refuses: STREAM_OUT_OF_RANGE."""
    inside = 0 <= candidate < constants.CANDIDATE_LIMIT and 0 <= token < constants.ELEMENT_LIMIT
    if not (inside and 0 <= document < constants.DOCUMENT_LIMIT):
        raise Refused(
            Refusal.STREAM_OUT_OF_RANGE, f"token {token}, candidate {candidate}, document {document}"
        )


def sample(noise: Noise, tape: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Return the noise of a candidate of a token: k >= 0 if one-sided, any integer if two-sided.

    Implements: NMX-R2.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    check_place(token, document, candidate)
    stream = 2 * (document * constants.CANDIDATE_LIMIT + candidate)
    first = geometric(noise.alpha, tape, stream, token)
    if isinstance(noise, Geometric):
        return first
    return first - geometric(noise.alpha, tape, stream + 1, token)


def at_least(noise: Noise, value: int) -> Fraction:
    """Return the probability that the noise is `value` or more."""
    if isinstance(noise, Geometric):
        return noise.alpha ** max(value, 0)
    if value > 0:
        return noise.alpha**value / (1 + noise.alpha)
    return 1 - noise.alpha ** (1 - value) / (1 + noise.alpha)
