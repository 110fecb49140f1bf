"""Bytes read as a script: what a peer does with the frames of an honest session."""

from collections.abc import Iterator, Sequence
from typing import Final

STEP_LIMIT: Final = 64
"""Most frames of one session, however often a script repeats one."""
HEADER: Final = (
    (0, 4),
    (4, 3),
    (7, 1),
    (8, 16),
    *((start, 4) for start in range(24, 48, 4)),
    (48, 1),
    (49, 4),
)
"""Start and length of each field of a header."""


class Script:
    """Bytes taken one after the other; after the last one, zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int) -> int:
        """Return the next `size` bytes as an integer, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes, or as many as there are."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken


def altered(frame: bytes, script: Script) -> Sequence[bytes]:
    """Return what is sent in the place of an honest frame: by default the frame itself."""
    action = script.number(1) % 10
    if action == 1:
        return []
    if action == 2:
        return [frame, frame]
    if action == 3:
        return [frame[: script.number(1)]]
    if action == 4:
        return [frame + script.take(script.number(1) % 16 + 1)]
    if action == 5:
        return [with_field(frame, script)]
    if action == 6:
        return [with_field(with_field(frame, script), script)]
    if action == 7:
        return [with_byte(frame, script.number(2), script.number(1))]
    if action == 8:
        return [script.take(script.number(1)), frame]
    if action == 9:
        return halves(frame)
    return [frame]


def with_field(frame: bytes, script: Script) -> bytes:
    """Return the frame with one field of its header written anew; a small number is as likely as any."""
    start, size = HEADER[script.number(1) % len(HEADER)]
    short = script.number(1) % 2 == 1
    field = script.take(1 if short else size).ljust(size, b"\0")
    return frame[:start] + field + frame[start + size :]


def with_byte(frame: bytes, index: int, value: int) -> bytes:
    """Return the frame with one byte written anew."""
    index %= max(1, len(frame))
    return frame[:index] + bytes([value]) + frame[index + 1 :]


def halves(frame: bytes) -> Sequence[bytes]:
    """Return a piece of rows as two pieces, and any other frame as it is."""
    rows, payload = int.from_bytes(frame[36:40], "little"), frame[53:]
    if rows < 2 or len(payload) % rows:
        return [frame]
    cut = rows // 2
    size = len(payload) // rows * cut
    first_row = int.from_bytes(frame[32:36], "little")
    return [
        piece(frame, first_row, cut, payload[:size]),
        piece(frame, first_row + cut, rows - cut, payload[size:]),
    ]


def piece(frame: bytes, first_row: int, rows: int, payload: bytes) -> bytes:
    """Return the frame with other rows."""
    numbers = first_row.to_bytes(4, "little") + rows.to_bytes(4, "little")
    return frame[:32] + numbers + frame[40:49] + len(payload).to_bytes(4, "little") + payload


def session(frames: Sequence[bytes], script: Script) -> Iterator[bytes]:
    """Yield the session that a script makes of an honest one."""
    sent = 0
    for frame in frames:
        for data in altered(frame, script):
            if sent < STEP_LIMIT:
                yield data
            sent += 1
