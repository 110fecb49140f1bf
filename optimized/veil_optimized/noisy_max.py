"""One selection by noisy max; `channel` makes many at once."""

from collections.abc import Sequence

import numpy as np

from veil_optimized.accounting import calibrate, certificate, exact_pmf, load_table
from veil_optimized.noise import check_scores, sample
from veil_spec.interface import Tape
from veil_spec.types import Noise, Selection, TokenIndex

__all__ = ["calibrate", "certificate", "exact_pmf", "load_table", "select"]


def select(scores: Sequence[int], noise: Noise, tape: Tape, token: int = 0, document: int = 0) -> Selection:
    """Return the winner's index, from 0; argmax returns the first of equal values.

    Source: spec/noisy_max.md, Selection.
    Implements: NMX-R3, NMX-R4.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE, STREAM_OUT_OF_RANGE.
    """
    check_scores(scores)
    noises = [sample(noise, tape, token, candidate, document) for candidate in range(len(scores))]
    return Selection(TokenIndex(int(np.argmax(np.array(scores, dtype=np.int64) + noises))))
