"""Geometric noise for many tokens at once: one logarithm a word, exact arithmetic where undecided.

The words, and what they are compared with, are the specified ones: so the noise agrees on every bit.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_optimized.tape import fill
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Noise, TwoSidedGeometric

__all__ = [
    "check_places",
    "check_scores",
    "geometric",
    "geometrics",
    "inverse_log",
    "levels",
    "sample",
    "samples",
]

Integers = npt.NDArray[np.int64]
Alphas = Sequence[Fraction] | npt.NDArray[np.object_]
"""One alpha for each lane."""
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
GUARD_BITS: Final = 128
"""Extra bits of a comparison: two values that differ are told apart at once, but once in 2**108."""
LEAST_WORD: Final = 2**50
"""Below this word the width of its interval shows in the estimate: such lanes take the exact path."""
GUARD: Final = 2.0**-16
"""Estimates nearer to an integer than this take the exact path; their error is below 2**-27."""


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


def inverse_log(alpha: Fraction) -> float:
    """Return 1 / ln(alpha), off by less than one part in 2**50."""
    return 1 / (math.log1p(-float(1 - alpha)) if 2 * alpha > 1 else math.log(alpha))


def levels(words: Words, inverse_logs: Floats | float) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return the draw that each first word decides, and which lanes need the exact path [words], [words].

    The largest j with U < alpha**j is floor(x), x = ln(U) / ln(alpha), unless x is an integer. Here x is
    below 2**22 and its relative error below 2**-48, if numpy's logarithm has one below 2**-50; and U, known
    from one word of 2**50 or more only, moves x by at most 2**-34. So the floor is right outside the guard.
    """
    estimate = words.astype(np.float64)
    np.maximum(estimate, 1.0, out=estimate)
    np.log(estimate, out=estimate)
    estimate -= constants.WORD_BITS * math.log(2)
    estimate *= inverse_logs
    floors = np.floor(estimate)
    estimate -= floors
    undecided = (words < LEAST_WORD) | (estimate < GUARD) | (estimate > 1 - GUARD)
    return floors.astype(np.int64), undecided


def geometrics(alphas: Alphas, tape: Tape, stream: int, start: int, inverse_logs: Floats | float) -> Integers:
    """Return draws start, start + 1, ... of a stream, each k >= 0 and with its own alpha [alphas].

    Source: spec/noisy_max.md, Noise.
    Implements: NMX-R1.
    """
    words = np.empty(len(alphas), dtype=np.uint64)
    fill(words, tape, Domain.NOISE, stream, start)
    noise, undecided = levels(words, inverse_logs)
    for lane in map(int, np.flatnonzero(undecided)):
        noise[lane] = _exactly(alphas[lane], tape, stream, start + lane, int(words[lane]))
    return noise


def _exactly(alpha: Fraction, tape: Tape, stream: int, draw: int, digits: int) -> int:
    """Return the draw whose first word is `digits`, reading further words while undecided."""
    retry_stream, index = stream + ((draw + 1) << constants.RETRY_SHIFT), 0
    while True:
        width = constants.WORD_BITS * (index + 1)
        if digits:
            k = _level(alpha, digits, width)
            if _compare(alpha, k, digits + 1, width) <= 0:
                return k
        digits = (digits << constants.WORD_BITS) | tape.word(Domain.NOISE, retry_stream, index)
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


def geometric(alpha: Fraction, tape: Tape, stream: int, draw: int = 0) -> int:
    """Return k >= 0; over a uniform tape its probability is (1 - alpha) * alpha**k."""
    return int(geometrics([alpha], tape, stream, draw, inverse_log(alpha))[0])


def check_places(start: int, count: int, document: int, candidates: int = 1) -> None:
    """Refuse places for which the tape has no words. Refuses: STREAM_OUT_OF_RANGE."""
    inside = 0 <= document < constants.DOCUMENT_LIMIT and 1 <= candidates <= constants.CANDIDATE_LIMIT
    if not (inside and start >= 0 and start + count <= constants.ELEMENT_LIMIT):
        raise Refused(Refusal.STREAM_OUT_OF_RANGE, f"tokens from {start}, document {document}")


def samples(
    alphas: Alphas,
    two_sided: bool,
    tape: Tape,
    candidate: int,
    start: int,
    document: int,
    inverse_logs: Floats | float,
) -> Integers:
    """Return the noise of one candidate for tokens start, start + 1, ... of a document [alphas].

    Implements: NMX-R2.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    check_places(start, len(alphas), document, candidate + 1)
    stream = 2 * (document * constants.CANDIDATE_LIMIT + candidate)
    first = geometrics(alphas, tape, stream, start, inverse_logs)
    if two_sided:
        first -= geometrics(alphas, tape, stream + 1, start, inverse_logs)
    return first


def sample(noise: Noise, tape: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Return the noise of one candidate of a token. Refuses: STREAM_OUT_OF_RANGE."""
    two_sided, inverse = isinstance(noise, TwoSidedGeometric), inverse_log(noise.alpha)
    return int(samples([noise.alpha], two_sided, tape, candidate, token, document, inverse)[0])
