"""Frames between the enclave and a worker: their bytes, and the refusals that keep them honest.

Source: spec/wire.md.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from veil_spec import __version__
from veil_spec.constants import EPOCH_BYTES, FRAME_LIMIT, FRAME_MAGIC, LWE_MODULUS, PRIMES, REPLY_LIMIT
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind, Row

HEADER_BYTES: Final = 53
"""Magic 4, version 3, kind 1, epoch 16, six integers of 4, element_bytes 1, payload length 4."""
VERSION: Final = bytes(int(part) for part in __version__.split("."))
"""[3] major, minor, patch."""
WIDTHS: Final = dict(zip((*PRIMES, LWE_MODULUS), (4, 5, 6, 8), strict=True))
"""Bytes of an element of each field."""
NOTICE_BYTES: Final = {
    FrameKind.HELLO: 32,
    FrameKind.WELCOME: 32,
    FrameKind.REFUSAL: 0,
    FrameKind.ASK: 8,
    FrameKind.SEED: 32,
}
"""Payload bytes of each kind that carries no rows: digests, nothing, two integers, a seed."""
ROW_WIDTHS: Final = {
    FrameKind.MULTIPLY: (4, 5, 6, 8),
    FrameKind.PRODUCT: (4, 5, 6, 8),
    FrameKind.EMBEDDED: (6,),
    FrameKind.ANSWER: (6,),
}
"""Bytes of an element in each kind that carries rows."""


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame: a header of 53 bytes, then the payload.

    Source: spec/wire.md, Frames.
    Implements: WIR-R1.
    Refuses: FRAME_MALFORMED, FRAME_TOO_LARGE.
    """
    check(frame)
    numbers = b"".join(number.to_bytes(4, "little") for number in numbers_of(frame))
    length = len(frame.payload).to_bytes(4, "little")
    start = FRAME_MAGIC + VERSION + bytes([frame.kind]) + frame.epoch
    return start + numbers + bytes([frame.element_bytes]) + length + frame.payload


def decode(data: bytes) -> Frame:
    """Return the frame that these bytes, and no others, encode.

    Source: spec/wire.md, Frames.
    Implements: WIR-R2, WIR-R3.
    Refuses: FRAME_TRUNCATED, FRAME_MALFORMED, VERSION_MISMATCH, FRAME_TOO_LARGE.
    """
    if len(data) < HEADER_BYTES:
        raise Refused(Refusal.FRAME_TRUNCATED, "header")
    if data[:4] != FRAME_MAGIC:
        raise Refused(Refusal.FRAME_MALFORMED, "magic")
    if data[4:7] != VERSION:
        raise Refused(Refusal.VERSION_MISMATCH)
    check_length(int.from_bytes(data[49:53], "little"))
    if len(data) != HEADER_BYTES + int.from_bytes(data[49:53], "little"):
        raise Refused(Refusal.FRAME_TRUNCATED, "payload")
    group, step, first_row, rows, total_rows, columns = (
        int.from_bytes(data[start : start + 4], "little") for start in range(24, 48, 4)
    )
    kind, epoch, width, payload = kind_of(data[7]), data[8:24], data[48], data[53:]
    frame = Frame(kind, epoch, group, step, first_row, rows, total_rows, columns, width, payload)
    check(frame)
    return frame


def kind_of(byte: int) -> FrameKind:
    """Return the kind with this number. Refuses: FRAME_MALFORMED."""
    if byte not in set(FrameKind):
        raise Refused(Refusal.FRAME_MALFORMED, "kind")
    return FrameKind(byte)


def numbers_of(frame: Frame) -> Row:
    """Return the six integers of 4 bytes, in the order of the header."""
    return (frame.group, frame.step, frame.first_row, frame.rows, frame.total_rows, frame.columns)


def check(frame: Frame) -> None:
    """Refuse a frame whose fields do not fit together.

    Source: spec/wire.md, Frames.
    Implements: WIR-R4, WIR-R5.
    Refuses: FRAME_TOO_LARGE, FRAME_MALFORMED.
    """
    check_length(len(frame.payload))
    fits = rows_fit if frame.kind in ROW_WIDTHS else notice_fits
    if len(frame.epoch) != EPOCH_BYTES or not fits(frame):
        raise Refused(Refusal.FRAME_MALFORMED, frame.kind.name)
    if frame.total_rows * frame.columns * frame.element_bytes > REPLY_LIMIT:
        raise Refused(Refusal.FRAME_TOO_LARGE, "message")


def check_length(payload_bytes: int) -> None:
    """Refuse a payload that is too long. Implements: WIR-R5. Refuses: FRAME_TOO_LARGE."""
    if payload_bytes > FRAME_LIMIT:
        raise Refused(Refusal.FRAME_TOO_LARGE, "payload")


def rows_fit(frame: Frame) -> bool:
    """Return whether the fields of a frame with rows fit together. Implements: WIR-R4."""
    return (
        all(0 <= number < 2**32 for number in numbers_of(frame))
        and frame.element_bytes in ROW_WIDTHS[frame.kind]
        and frame.rows > 0
        and frame.columns > 0
        and frame.first_row + frame.rows <= frame.total_rows
        and len(frame.payload) == frame.rows * frame.columns * frame.element_bytes
    )


def notice_fits(frame: Frame) -> bool:
    """Return whether a frame without rows says no more than it may. Implements: WIR-R4."""
    with_step = frame.kind in (FrameKind.ASK, FrameKind.SEED)
    step = frame.step if with_step else 0
    return (
        0 <= step < 2**32
        and numbers_of(frame) == (0, step, 0, 0, 0, 0)
        and frame.element_bytes == 0
        and len(frame.payload) == NOTICE_BYTES[frame.kind]
        and (frame.kind != FrameKind.REFUSAL or frame.epoch == bytes(EPOCH_BYTES))
    )


def pack(elements: Row, modulus: int) -> bytes:
    """Return the elements, each as 4, 5, 6 or 8 bytes, little-endian.

    Implements: WIR-R6.
    Refuses: FIELD_UNKNOWN, NOT_IN_FIELD.
    """
    width = width_of(modulus)
    check_elements(elements, modulus)
    return b"".join(element.to_bytes(width, "little") for element in elements)


def unpack(data: bytes, count: int, modulus: int) -> Sequence[int]:
    """Return `count` elements, each in 0 .. modulus - 1.

    Implements: WIR-R6.
    Refuses: FIELD_UNKNOWN, FRAME_MALFORMED, NOT_IN_FIELD.
    """
    width = width_of(modulus)
    if len(data) != count * width:
        raise Refused(Refusal.FRAME_MALFORMED, "elements")
    elements = [int.from_bytes(data[start : start + width], "little") for start in range(0, len(data), width)]
    check_elements(elements, modulus)
    return elements


def width_of(modulus: int) -> int:
    """Return the bytes of an element, 4, 5, 6 or 8. Refuses: FIELD_UNKNOWN."""
    if modulus not in WIDTHS:
        raise Refused(Refusal.FIELD_UNKNOWN)
    return WIDTHS[modulus]


def check_elements(elements: Row, modulus: int) -> None:
    """Refuse an element outside 0 .. modulus - 1. Implements: WIR-R6. Refuses: NOT_IN_FIELD."""
    if not all(0 <= element < modulus for element in elements):
        raise Refused(Refusal.NOT_IN_FIELD)


def split(
    kind: FrameKind, epoch: bytes, group: int, step: int, columns: int, element_bytes: int, data: bytes
) -> Sequence[Frame]:
    """Return the frames of a message, each with as many whole rows as FRAME_LIMIT allows.

    Source: spec/wire.md, Messages.
    Implements: WIR-R7.
    Refuses: FRAME_TOO_LARGE, FRAME_MALFORMED.
    """
    row_bytes = columns * element_bytes
    if row_bytes > FRAME_LIMIT or len(data) > REPLY_LIMIT:
        raise Refused(Refusal.FRAME_TOO_LARGE, "message")
    if row_bytes <= 0 or not data or len(data) % row_bytes:
        raise Refused(Refusal.FRAME_MALFORMED, "rows")
    total_rows, most = len(data) // row_bytes, FRAME_LIMIT // row_bytes
    frames = []
    for first in range(0, total_rows, most):
        rows = min(most, total_rows - first)
        piece = data[first * row_bytes : (first + rows) * row_bytes]
        frames.append(Frame(kind, epoch, group, step, first, rows, total_rows, columns, element_bytes, piece))
    return frames


def join(
    frames: Iterable[Frame],
    kind: FrameKind,
    epoch: bytes,
    group: int,
    step: int,
    columns: int,
    element_bytes: int,
    total_rows: int,
) -> bytes:
    """Return the rows of a whole message, of which everything but the elements is known beforehand.

    Source: spec/wire.md, Messages.
    Implements: WIR-R7.
    Refuses: FRAME_UNEXPECTED.
    """
    expected = (kind, epoch, group, step, columns, element_bytes, total_rows)
    data, row = b"", 0
    for frame in frames:
        about = (frame.kind, frame.epoch, frame.group, frame.step, frame.columns, frame.element_bytes)
        if (*about, frame.total_rows) != expected or frame.first_row != row:
            raise Refused(Refusal.FRAME_UNEXPECTED, f"row {row}")
        data, row = data + frame.payload, row + frame.rows
    if row != total_rows:
        raise Refused(Refusal.FRAME_UNEXPECTED, f"ends at row {row}")
    return data
