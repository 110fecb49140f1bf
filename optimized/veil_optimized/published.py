"""Profile `cmif-paper`: the sanitizer as published. It protects nothing; ACC-R15 says where that shows."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_optimized.accounting import calibrate
from veil_optimized.noise import check_places, inverse_log, samples
from veil_optimized.partition import directions, paper_candidates, paper_certificate
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import PaperCertificate, Row

__all__ = ["PaperSanitizer"]

Ids = npt.NDArray[np.int64]
DOUBLE: Final = 2
"""Scores span a cosine of 2, so the scale 1 / epsilon is the alpha of 2 epsilon over all levels."""


class PaperSanitizer:
    """Each entry's own nearest entries without itself, and two-sided noise of scale 1 / epsilon in cosine.

    Source: arXiv 2509.09091 and its published code.
    Refuses: TABLE_MALFORMED, EPSILON_OUT_OF_RANGE.
    """

    def __init__(
        self, entries: Sequence[str], vectors: npt.NDArray[np.floating], candidates: int, epsilon: str
    ) -> None:
        self.alpha = _alpha(epsilon)
        self.entries, self._rows, self._count = list(entries), directions(vectors), candidates
        if not 1 <= candidates < len(self.entries):
            raise Refused(
                Refusal.TABLE_MALFORMED, f"{candidates} candidates among {len(self.entries) - 1} others"
            )

    def candidates(self, entry: int) -> tuple[Ids, Ids]:
        """Return an entry's candidates, nearest first, and their scores [candidates], [candidates]."""
        if entry not in self._found:
            self._found[entry] = paper_candidates(self._rows, entry, self._count)
        return self._found[entry]

    @cached_property
    def _found(self) -> dict[int, tuple[Ids, Ids]]:
        return {}

    def select(self, ids: Ids, tape: Tape, document: int = 0, start: int = 0) -> Ids:
        """Return what replaces tokens start, start + 1, ... of a document [ids].

        Refuses: STREAM_OUT_OF_RANGE.
        """
        check_places(start, len(ids), document)
        if not len(ids):
            return ids.copy()
        found = [self.candidates(int(entry)) for entry in ids]
        alphas, inverse = [self.alpha] * len(ids), inverse_log(self.alpha)
        noisy = np.array([scores for _, scores in found]).T.copy()
        for candidate in range(self._count):
            noisy[candidate] += samples(alphas, True, tape, candidate, start, document, inverse)
        winners = np.argmax(noisy, axis=0)
        return np.array([nearest[winner] for (nearest, _), winner in zip(found, winners, strict=True)])

    def certificate(self) -> PaperCertificate:
        """Return why epsilon is infinite: some output of one entry is impossible for another."""
        return paper_certificate(self.entries, _Lists(self))


class _Lists(Sequence[Row]):
    """Candidate lists, made when they are looked at."""

    def __init__(self, sanitizer: PaperSanitizer) -> None:
        self._sanitizer = sanitizer

    def __len__(self) -> int:
        return len(self._sanitizer.entries)

    def __getitem__(self, entry: int) -> Row:  # type: ignore[override]
        if entry >= len(self):
            raise IndexError(entry)
        nearest: Row = self._sanitizer.candidates(entry)[0].tolist()
        return nearest


def _alpha(epsilon: str) -> Fraction:
    calibrate(epsilon, 1)
    doubled = DOUBLE * Fraction(epsilon)
    if doubled > constants.EPSILON_LIMIT:
        raise Refused(Refusal.EPSILON_OUT_OF_RANGE, f"at most {constants.EPSILON_LIMIT // DOUBLE}: {epsilon}")
    return calibrate(doubled, constants.LEVELS - 1)
