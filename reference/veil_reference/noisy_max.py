"""The sanitizer: the index of the largest score plus noise, and nothing else."""

from collections.abc import Sequence

from veil_reference.accounting import calibrate, certificate, exact_pmf, load_table
from veil_reference.noise import check_scores, sample
from veil_spec.interface import Tape
from veil_spec.types import Noise, Selection, TokenIndex

__all__ = ["calibrate", "certificate", "exact_pmf", "load_table", "select"]


def select(scores: Sequence[int], noise: Noise, tape: Tape, token: int = 0, document: int = 0) -> Selection:
    """Return the winner's index, from 0; `token` and `document` number the selections that share a tape.

    Source: spec/noisy_max.md, Selection.
    Implements: NMX-R3, NMX-R4.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE, STREAM_OUT_OF_RANGE.
    """
    check_scores(scores)
    noisy = [score + sample(noise, tape, token, c, document) for c, score in enumerate(scores)]
    return Selection(TokenIndex(noisy.index(max(noisy))))
