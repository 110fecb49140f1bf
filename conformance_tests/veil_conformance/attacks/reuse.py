"""Mask reuse, found from what was sent: every mask is what was sent minus the plaintext, mod p.

Definition: the enclave of a test records what it masks; each row on the wire minus that plaintext is the
mask, whatever indices the enclave believes in. Two rows of a group and step with different bytes, and any run
of WINDOW elements that occurs twice among all masks of all transcripts, in any field, row and column, is one.
Rows that were sent again byte for byte are not. A repeated secret under another basis is not seen.
Source: spec/remo.md RMO-G9; the difference of two uses is the attack of reused_mask.py.
Cost: sorting the elements of all transcripts.
Breaks: enclaves that repeat a step, a seed or a part of a stream.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from veil_conformance.attacks import modular, view
from veil_conformance.attacks.base import GROUP
from veil_conformance.attacks.modular import Elements
from veil_optimized import lwe, plaintext, wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import BASIS_STEP
from veil_optimized.model import Group, Model, plain_products
from veil_optimized.plaintext import Record
from veil_optimized.transcript import Header
from veil_spec import constants
from veil_spec.types import Frame, FrameKind

WINDOW: Final = 4
"""Elements of a run: 128 bits, so that among 10^12 of them two agree by chance once in 10^14 cases."""
WORD_BITS: Final = 32
"""Bits of an element that are compared: the lowest, which do not depend on the field."""
CARRY_BITS: Final = 13
"""Over q the bits from so many above the noise on are compared: noise does not hide that a secret was used
twice, but for a carry in one of 2^12 elements.
"""
PROFILES_WITH_BASIS: Final = ("rank", "lwe")
Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mask was used: a transcript, by its number, and what its frame says."""

    transcript: int
    group: int
    step: int
    row: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation. Kinds: "row" and "run" are used twice, "resent" is another ciphertext at one address,
    "unrecorded" has no plaintext of its shape and step, so that its mask is not known.

    `elements` is the length of what was used twice.
    """

    kind: str
    first: Place
    second: Place
    elements: int = 0


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    rows: int = 0
    elements: int = 0
    sent_again: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Return whether masks were looked at and none was used twice."""
        return self.rows > 0 and not self.findings


@dataclass(slots=True)
class _Masks:
    """Words of all masks so far, row after row, with their places and lengths."""

    words: list[Words] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)


def check(pairs: Sequence[tuple[Path, Path]]) -> Report:
    """Return the reuses in transcripts, each given with the plaintext that its enclave recorded.

    Refuses: FRAME_MALFORMED, what `decode` and `unpack` refuse.
    """
    report, masks = Report(), _Masks()
    for number, (transcript, recorded) in enumerate(pairs):
        _Reader(number, view.header(transcript), plaintext.read(recorded), report, masks).read(transcript)
    report.rows = len(masks.places)
    report.elements = sum(len(words) for words in masks.words)
    report.findings.extend(repeats(masks.words, masks.places))
    return report


class _Reader:
    """Reads one transcript: compares what was sent again, and recovers the mask of every other row."""

    def __init__(self, number: int, about: Header, record: Record, report: Report, masks: _Masks) -> None:
        self._number, self._about, self._record = number, about, record
        self._report, self._masks = report, masks
        self._digests: dict[Place, bytes] = {}
        self._plain: dict[tuple[int, int], NDArray[np.int16] | None] = {}
        self._left: dict[int, list[int]] = defaultdict(list)
        for step, group in record.rows:
            self._left[group].append(step)

    def read(self, transcript: Path) -> None:
        """Take every frame of masked rows, those of messages that were cut off too."""
        for frame in view.sent(transcript):
            if frame.kind is FrameKind.MULTIPLY and not self._is_basis(frame):
                self._take(frame)

    def _is_basis(self, frame: Frame) -> bool:
        """Return whether a frame carries a public basis: before any row of its group, and in no record."""
        before_rows = not any(group == frame.group for group, _ in self._plain)
        recorded = (frame.step, frame.group) in self._record.rows
        based = self._about.profile in PROFILES_WITH_BASIS and frame.step == BASIS_STEP
        return based and before_rows and not recorded

    def _take(self, frame: Frame) -> None:
        modulus = self._about.fields[frame.group]
        elements = wire.unpack(frame.payload, frame.rows * frame.columns, modulus)
        for offset, row in enumerate(elements.reshape(frame.rows, frame.columns)):
            place = Place(self._number, frame.group, frame.step, frame.first_row + offset)
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if place not in self._digests:
                self._digests[place] = digest
                self._mask(place, row, modulus)
            elif self._digests[place] == digest:
                self._report.sent_again += 1
            else:
                self._report.findings.append(Finding("resent", place, place, len(row)))
                self._mask(place, row, modulus)

    def _mask(self, place: Place, row: Elements, modulus: int) -> None:
        plain = self._plain_of(place.group, place.step)
        if plain is None or place.row >= len(plain) or plain.shape[1] != len(row):
            self._report.findings.append(Finding("unrecorded", place, place, len(row)))
            return
        scale = np.array([view.scale_of(modulus, len(row))], dtype=np.int64)
        encoded = modular.multiplied(modular.residues(plain[place.row], modulus), scale, modulus)
        mask = modular.subtracted(row, encoded, modulus).view(np.uint64)
        low = np.uint64(0)
        if modulus == constants.LWE_MODULUS:
            low = np.uint64(lwe.lwe_levels(len(row))[0] + CARRY_BITS)
        self._masks.words.append(mask >> low & np.uint64(2**WORD_BITS - 1))
        self._masks.places.append(place)

    def _plain_of(self, group: int, step: int) -> NDArray[np.int16] | None:
        """Return the plaintext of a step: the next that was recorded for its group, if it has that number."""
        if (group, step) not in self._plain:
            following = self._left[group].pop(0) if self._left[group] else None
            self._plain[group, step] = self._record.rows[step, group] if following == step else None
        return self._plain[group, step]


def repeats(words: Sequence[Words], places: Sequence[Place]) -> Iterator[Finding]:
    """Yield each run of at least WINDOW words that occurs twice, rows of a place each.

    A row of fewer words than that is one window, filled up with zeros.
    """
    rows = [np.pad(row, (0, max(0, WINDOW - len(row)))) for row in words]
    counts = np.array([len(row) - WINDOW + 1 for row in rows], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(counts)))
    together = [_windows(row) for row in rows]
    if not together:
        return
    low, high = (np.concatenate(part) for part in zip(*together, strict=True))
    found: dict[tuple[int, int, int], int] = defaultdict(int)
    for one, other in _equal_pairs(low, high):
        first, second = (int(np.searchsorted(starts, window, "right")) - 1 for window in (one, other))
        found[first, second, (other - int(starts[second])) - (one - int(starts[first]))] += 1
    for (first, second, shift), windows in found.items():
        length = min(windows + WINDOW - 1, len(words[first]))
        whole = not shift and length == len(words[first]) == len(words[second])
        yield Finding("row" if whole else "run", places[first], places[second], length)


def _windows(row: Words) -> tuple[Words, Words]:
    """Return the lower and upper 64 bits of every window of a row of 32-bit words."""
    twos = row[:-1] | row[1:] << np.uint64(WORD_BITS)
    return twos[: len(row) - WINDOW + 1], twos[2:]


def _equal_pairs(low: Words, high: Words) -> Iterator[tuple[int, int]]:
    """Yield neighbours among equal windows, as the numbers of the earlier and the later one."""
    order = np.lexsort((high, low))
    same = (low[order[1:]] == low[order[:-1]]) & (high[order[1:]] == high[order[:-1]])
    for place in np.flatnonzero(same):
        one, other = sorted((int(order[place]), int(order[place + 1])))
        yield one, other


def truthful(model: Model, record: Record) -> bool:
    """Return whether a record holds what plain inference of its tokens masks, in that order.

    With another plaintext the detector finds other masks, and no reuse. A record may end inside a step.
    """
    held = [(group, rows) for (_, group), rows in record.rows.items()]
    expected: list[tuple[int, torch.Tensor]] = []

    def products(group: Group, rows: torch.Tensor) -> torch.Tensor:
        expected.append((group.number, rows))
        return plain_products(group, rows)

    decoder, ends = Decoder(model, products), [0]
    ends.extend(np.cumsum([len(rows) for group, rows in held if group == GROUP]).tolist())
    for start, end in pairwise(ends):
        if end > len(record.tokens):
            return False
        decoder.step(record.tokens[start:end])
    return bool(held) and len(held) <= len(expected) and _equal(held, expected)


def _equal(
    held: Iterable[tuple[int, NDArray[np.int16]]], expected: Iterable[tuple[int, torch.Tensor]]
) -> bool:
    return all(
        group == number and np.array_equal(rows, wanted.numpy())
        for (group, rows), (number, wanted) in zip(held, expected, strict=False)
    )
