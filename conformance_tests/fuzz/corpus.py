"""Kept inputs: honest ones, made here, and those that fuzzing found to reach something new.

`python -m fuzz.corpus` writes the honest ones.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from fuzz import targets
from veil_optimized import transcript
from veil_reference import wire
from veil_spec import __version__
from veil_spec.types import Frame, FrameKind

FOLDER: Final = Path(__file__).parent / "corpus"
ACTIONS: Final = tuple(bytes([number]) + b"\1\2\3\4\5\6\7" for number in range(1, 10))
"""One script for each thing that can be done to a first frame."""


def honest(name: str) -> Sequence[bytes]:
    """Return the inputs that a target begins with: right frames, some with one wrong field, and scripts."""
    if name == "decode":
        right = [wire.encode(frame) for frame in frames()]
        wrong = [data[:at] + b"\1" + data[at + 1 :] for data in right[2:6] for at in (32, 44)]
        return [b"\0" + data[len(targets.PREFIX) :] for data in (*right, *wrong)]
    if name == "elements":
        return [packed(index, excess) for index in range(len(targets.MODULI)) for excess in (-1, 0)]
    if name == "transcripts":
        return [b"\0" + recorded(ratio) for ratio in (None, Fraction(9, 10))]
    scripts = [b"", *ACTIONS, *(b"\0" + action for action in ACTIONS[::2])]
    if name == "inferring":
        second = [b"\0\0" + action for action in ACTIONS]
        return [first + script for first in (b"\0", b"\1") for script in (b"", *second)]
    return scripts


def frames() -> Sequence[Frame]:
    """Return one frame of each kind, and one of each width."""
    notices = [targets.HELLO, targets.WELCOME, wire.decode(targets.REFUSAL)]
    steps = [
        replace(targets.HELLO, kind=FrameKind.ASK, step=7, payload=bytes(8)),
        replace(targets.HELLO, kind=FrameKind.SEED, step=7),
    ]
    rows = [targets.group_frames(FrameKind.MULTIPLY, n, 2, targets.MODULI[n]) for n in range(3)]
    wide = replace(rows[0], kind=FrameKind.PRODUCT, element_bytes=8, payload=bytes(2 * len(rows[0].payload)))
    split = [
        targets.word_frames(FrameKind.EMBEDDED, 0, 3, targets.small_words(0, 3, 2)),
        targets.word_frames(FrameKind.ANSWER, 0, 3, targets.ANSWERED),
    ]
    return [*notices, *steps, *rows, wide, *split]


def packed(index: int, excess: int) -> bytes:
    """Return a field's largest element, or the number after it, for target `elements`."""
    modulus = targets.MODULI[index]
    width = wire.width_of(modulus)
    return bytes([index, 2]) + (modulus + excess).to_bytes(width, "little") + bytes(width)


def recorded(ratio: Fraction | None) -> bytes:
    """Return a transcript file of one exchange without its magic."""
    profile = "pad" if ratio is None else "rank"
    about = transcript.Header(__version__, targets.DIGEST, profile, ratio, targets.EPOCH, targets.MODULI[:3])
    header = transcript.encode_header(about)
    records = [b"\0" + len(data).to_bytes(4, "little") + data for data in targets.REQUESTS[:2]]
    return len(header).to_bytes(4, "little") + header + b"".join(records)


def kept(name: str) -> Iterator[bytes]:
    """Yield every kept input of a target."""
    for path in sorted((FOLDER / name).iterdir()):
        yield path.read_bytes()


def keep(name: str, data: bytes) -> None:
    """Write an input under the first eight digits of its hash."""
    (FOLDER / name).mkdir(parents=True, exist_ok=True)
    (FOLDER / name / hashlib.sha256(data).hexdigest()[:8]).write_bytes(data)


if __name__ == "__main__":
    for target in targets.TARGETS:
        for data in honest(target):
            keep(target, data)
