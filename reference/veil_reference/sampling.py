"""From logits to a token: greedily, or drawn by integer weights from one word of the tape."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from veil_reference import tables
from veil_reference.fixed_point import exp2, round_shift
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.types import Domain, Row, Sampling


def greedy(row: Row) -> int:
    """Return the lowest index of the largest logit.

    Implements: MDL-R10.
    """
    return max(range(len(row)), key=lambda index: (row[index], -index))


def make_sampling(temperature: Fraction, count: int | None, share: Fraction) -> Sampling:
    """Return a sampling at this temperature, of at most `count` tokens that hold a `share` of the weight.

    Implements: MDL-R22.
    Refuses: SAMPLING_OUT_OF_RANGE.
    """
    return Sampling(temperature, count, share)


def sampling_weights(row: Row, sampling: Sampling) -> list[int]:
    """Return the weight of each token, 0 for those that are left out, at most 2**30 each.

    Implements: MDL-R20.
    """
    factor = tables.temperature_factor(sampling.temperature)
    shift = constants.HIDDEN_FRACTION + constants.SAMPLING_FRACTION - constants.EXPONENT_FRACTION
    peak = max(row)
    weights = [exp2(-round_shift((peak - word) * factor, shift)) for word in row]
    order = sorted(range(len(row)), key=lambda index: (-row[index], index))[: sampling.count]
    sums = list(accumulate(weights[index] for index in order))
    enough = next(n for n, reached in enumerate(sums) if reached >= sampling.share * sums[-1])
    kept = set(order[: enough + 1])
    return [weight if index in kept else 0 for index, weight in enumerate(weights)]


def sample_token(weights: Sequence[int], tape: Tape, sample: int, token: int) -> int:
    """Return the index that new token `token` of sample `sample` is.

    Implements: MDL-R21.
    """
    reached = tape.word(Domain.SAMPLING, sample, token) * sum(weights) >> constants.WORD_BITS
    return next(index for index, upto in enumerate(accumulate(weights)) if upto > reached)
