"""Geometric noise for many candidates at once: one table look-up a word, exact arithmetic where undecided.

The words, and what they are compared with, are the specified ones: so the noise agrees on every bit.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Geometric, Noise

__all__ = ["check_scores", "geometric", "geometrics", "sample", "samples"]

Integers = npt.NDArray[np.int64]
THRESHOLD_LIMIT: Final = 2**20
"""Most thresholds kept for one alpha (8 MiB); words below the last one take the exact path."""
GUARD_BITS: Final = 128
"""2**20 roundings cost 20 of these bits: a threshold is ambiguous once in 2**108."""


def check_scores(scores: Sequence[int]) -> None:
    """Refuse scores for which no selection is specified.

    Implements: NMX-R5, NMX-R6.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    if len(scores) == 0:
        raise Refused(Refusal.SCORES_EMPTY)
    if len(scores) > constants.CANDIDATE_LIMIT:
        raise Refused(Refusal.SCORE_OUT_OF_RANGE, f"more than {constants.CANDIDATE_LIMIT} candidates")
    if max(scores) > constants.SCORE_LIMIT or min(scores) < -constants.SCORE_LIMIT:
        raise Refused(Refusal.SCORE_OUT_OF_RANGE, f"a score is beyond {constants.SCORE_LIMIT}")


@lru_cache(maxsize=16)
def _thresholds(alpha: Fraction) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return floor(2**64 * alpha**j) for j from the last kept down to 1, and whether nothing was cut off."""
    floors: list[int] = []
    whole: list[bool] = []
    low = high = 1 << (constants.WORD_BITS + GUARD_BITS)
    while len(floors) < THRESHOLD_LIMIT and (not floors or floors[-1]):
        low = low * alpha.numerator // alpha.denominator
        high = -(-high * alpha.numerator // alpha.denominator)
        floor = low >> GUARD_BITS
        if floor != high >> GUARD_BITS:
            j = len(floors) + 1
            floor = (alpha.numerator**j << constants.WORD_BITS) // alpha.denominator**j
        floors.append(floor)
        whole.append(low == high == floor << GUARD_BITS)
    return np.array(floors[::-1], dtype=np.uint64), np.array(whole[::-1], dtype=np.bool_)


def geometrics(alpha: Fraction, tape: Tape, streams: Sequence[int]) -> Integers:
    """Return one noise k >= 0 for each stream [streams].

    Source: spec/noisy_max.md, Noise.
    Implements: NMX-R1.
    """
    thresholds, whole = _thresholds(alpha)
    words = np.array([tape.word(Domain.NOISE, stream, 0) for stream in streams], dtype=np.uint64)
    reached = np.searchsorted(thresholds, words, side="right")
    noise = (thresholds.size - reached).astype(np.int64)
    last = np.maximum(reached - 1, 0)
    undecided = (reached == 0) | ((thresholds[last] == words) & ~whole[last])
    for lane in map(int, np.flatnonzero(undecided)):
        noise[lane] = _exactly(alpha, tape, streams[lane], int(words[lane]))
    return noise


def _exactly(alpha: Fraction, tape: Tape, stream: int, digits: int) -> int:
    """Return the noise of a stream whose first word is `digits`, reading further words while undecided."""
    index = 1
    while True:
        width = constants.WORD_BITS * index
        if digits:
            k = _level(alpha, digits, width)
            if _compare(alpha, k, digits + 1, width) <= 0:
                return k
        digits = (digits << constants.WORD_BITS) | tape.word(Domain.NOISE, stream, index)
        index += 1


def _level(alpha: Fraction, digits: int, width: int) -> int:
    """Return the largest j >= 0 with digits / 2**width < alpha**j: a float guess, corrected exactly."""
    log_alpha = math.log1p(-float(1 - alpha)) if 2 * alpha > 1 else math.log(alpha)
    k = max(0, int((math.log(digits) - width * math.log(2)) / log_alpha))
    while _compare(alpha, k, digits, width) >= 0:
        k -= 1
    while _compare(alpha, k + 1, digits, width) < 0:
        k += 1
    return k


def _compare(alpha: Fraction, exponent: int, digits: int, width: int) -> int:
    """Return the sign of digits / 2**width - alpha**exponent, with as many bits as that takes."""
    bits = width + GUARD_BITS
    while True:
        low, high = _power(alpha, exponent, bits)
        point = digits << (bits - width)
        if point > high or point < low or low == high:
            return (point > high) - (point < low)
        bits *= 2


def _power(alpha: Fraction, exponent: int, bits: int) -> tuple[int, int]:
    """Return integers with low <= 2**bits * alpha**exponent <= high, equal once nothing is rounded."""
    alpha_low = (alpha.numerator << bits) // alpha.denominator
    alpha_high = -((-alpha.numerator << bits) // alpha.denominator)
    low = high = 1 << bits
    for bit in f"{exponent:b}":
        low, high = low * low >> bits, -(-high * high >> bits)
        if bit == "1":
            low, high = low * alpha_low >> bits, -(-high * alpha_high >> bits)
    return low, high


def geometric(alpha: Fraction, tape: Tape, stream: int) -> int:
    """Return k >= 0; over a uniform tape its probability is (1 - alpha) * alpha**k."""
    return int(geometrics(alpha, tape, [stream])[0])


def samples(noise: Noise, tape: Tape, token: int, candidates: range) -> Integers:
    """Return the noise of each candidate of a token [candidates].

    Implements: NMX-R2.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    if not (0 <= token < 2**32 and candidates.start >= 0 and candidates.stop <= constants.CANDIDATE_LIMIT):
        raise Refused(Refusal.STREAM_OUT_OF_RANGE, f"token {token}, candidates {candidates}")
    streams = [(token << 32) + 2 * candidate for candidate in candidates]
    first = geometrics(noise.alpha, tape, streams)
    if isinstance(noise, Geometric):
        return first
    return first - geometrics(noise.alpha, tape, [stream + 1 for stream in streams])


def sample(noise: Noise, tape: Tape, token: int, candidate: int) -> int:
    """Return the noise of one candidate of a token. Refuses: STREAM_OUT_OF_RANGE."""
    return int(samples(noise, tape, token, range(candidate, candidate + 1))[0])
