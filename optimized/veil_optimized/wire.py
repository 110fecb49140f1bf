"""Frames between the enclave and a worker, over byte views of numpy arrays.

The bytes agree with the reference because both follow spec/wire.md; only the order of work differs:
the header is one struct, and the elements of a message are converted in one strided copy.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy
from numpy.typing import NDArray

from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

Elements = NDArray[numpy.int64]
"""Field elements, any shape: words of 64 bits that, read as unsigned, are in 0 .. p - 1."""

HEADER: Final = struct.Struct("<4s3sB16s6IBI")
"""Layout: magic, version, kind, epoch, group .. columns, element_bytes, payload length."""
HEADER_BYTES: Final = HEADER.size
ROWS: Final = struct.Struct("<3I")
"""Layout of a part of the header: first_row, rows, total_rows."""
ROWS_OFFSET: Final = struct.calcsize("<4s3sB16s2I")
VERSION: Final = bytes(int(part) for part in __version__.split("."))
"""[3] major, minor, patch."""
MODULI: Final = (*constants.PRIMES, constants.LWE_MODULUS)
"""The fields whose elements cross the wire."""
WIDTHS: Final = {modulus: (modulus.bit_length() + 7) // 8 for modulus in MODULI}
"""Bytes of an element of each field: 4, 5, 6, 8."""
NOTICE_BYTES: Final = {
    FrameKind.HELLO: 32,
    FrameKind.WELCOME: 32,
    FrameKind.REFUSAL: 0,
    FrameKind.ASK: 8,
    FrameKind.SEED: 32,
}
"""Payload bytes of each kind without rows: two digests, nothing, two integers of 4 bytes, a seed."""
SPLIT_MODULUS: Final = constants.PRIMES[-1]
"""The field as whose elements words cross in mode `split`."""
ROW_WIDTHS: Final = {
    FrameKind.MULTIPLY: frozenset(WIDTHS.values()),
    FrameKind.PRODUCT: frozenset(WIDTHS.values()),
    FrameKind.EMBEDDED: frozenset({WIDTHS[SPLIT_MODULUS]}),
    FrameKind.ANSWER: frozenset({WIDTHS[SPLIT_MODULUS]}),
}
"""Bytes that an element may have in each kind with rows."""
KINDS: Final = {int(kind): kind for kind in FrameKind}
"""Kinds by their number."""
STEP_KINDS: Final = frozenset({FrameKind.ASK, FrameKind.SEED})
"""Kinds without rows that name a step."""
REFUSAL: Final = Frame(FrameKind.REFUSAL, bytes(constants.EPOCH_BYTES), 0, 0, 0, 0, 0, 0, 0, b"")
"""The one refusal: it names no reason and no epoch."""


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame, HEADER_BYTES + len(payload) of them.

    Source: spec/wire.md, Frames.
    Implements: WIR-R1.
    Refuses: FRAME_TOO_LARGE, FRAME_MALFORMED.
    """
    _check_payload_length(len(frame.payload))
    _check_fields(frame)
    header = HEADER.pack(
        constants.FRAME_MAGIC,
        VERSION,
        frame.kind,
        frame.epoch,
        *_numbers(frame),
        frame.element_bytes,
        len(frame.payload),
    )
    return header + frame.payload


def decode(data: bytes) -> Frame:
    """Return the frame whose bytes these are; equal frames have equal bytes.

    Source: spec/wire.md, Frames.
    Implements: WIR-R2, WIR-R3, WIR-R4.
    Refuses: FRAME_TRUNCATED, FRAME_MALFORMED, VERSION_MISMATCH, FRAME_TOO_LARGE.
    """
    if len(data) < HEADER_BYTES:
        raise Refused(Refusal.FRAME_TRUNCATED, f"a header has {HEADER_BYTES} bytes, not {len(data)}")
    magic, version, kind, epoch, group, step, first_row, rows, total_rows, columns, width, length = (
        HEADER.unpack_from(data)
    )
    if magic != constants.FRAME_MAGIC:
        raise Refused(Refusal.FRAME_MALFORMED, "magic")
    if version != VERSION:
        raise Refused(Refusal.VERSION_MISMATCH, f"the peer speaks version {'.'.join(map(str, version))}")
    _check_payload_length(length)
    if len(data) != HEADER_BYTES + length:
        raise Refused(Refusal.FRAME_TRUNCATED, f"payload of {length} bytes")
    if kind not in KINDS:
        raise Refused(Refusal.FRAME_MALFORMED, f"kind {kind}")
    payload = bytes(data[HEADER_BYTES:])
    numbers = (group, step, first_row, rows, total_rows, columns, width)
    frame = Frame(KINDS[kind], epoch, *numbers, payload)
    _check_fields(frame)
    return frame


def payload_length(header: bytes) -> int:
    """Return the bytes of payload that follow a header, or 0 after one that `decode` refuses as it is."""
    magic, *_, length = HEADER.unpack(header)
    return int(length) if magic == constants.FRAME_MAGIC and length <= constants.FRAME_LIMIT else 0


def _numbers(frame: Frame) -> tuple[int, int, int, int, int, int]:
    return frame.group, frame.step, frame.first_row, frame.rows, frame.total_rows, frame.columns


def _check_payload_length(length: int) -> None:
    """Implements: WIR-R5. Refuses: FRAME_TOO_LARGE."""
    if length > constants.FRAME_LIMIT:
        raise Refused(Refusal.FRAME_TOO_LARGE, f"payload of {length} bytes")


def _check_fields(frame: Frame) -> None:
    """Implements: WIR-R4, WIR-R5. Refuses: FRAME_MALFORMED, FRAME_TOO_LARGE."""
    problem = _rows_problem(frame) if frame.kind in ROW_WIDTHS else _notice_problem(frame)
    if len(frame.epoch) != constants.EPOCH_BYTES:
        problem = "epoch"
    if problem:
        raise Refused(Refusal.FRAME_MALFORMED, f"{frame.kind.name}: {problem}")
    if frame.total_rows * frame.columns * frame.element_bytes > constants.REPLY_LIMIT:
        raise Refused(Refusal.FRAME_TOO_LARGE, f"message of {frame.total_rows} rows")


def _rows_problem(frame: Frame) -> str:
    """Return what is wrong with a piece of a message, or nothing. Implements: WIR-R4."""
    numbers = _numbers(frame)
    if min(numbers) < 0 or max(numbers) >= 2**32:
        return "a number of more than 32 bits"
    if frame.element_bytes not in ROW_WIDTHS[frame.kind]:
        return "element_bytes"
    if frame.rows == 0 or frame.columns == 0:
        return "no elements"
    if frame.first_row + frame.rows > frame.total_rows:
        return "more rows than the message has"
    if len(frame.payload) != frame.rows * frame.columns * frame.element_bytes:
        return "payload length is not rows * columns * element_bytes"
    return ""


def _notice_problem(frame: Frame) -> str:
    """Return what is wrong with a frame without rows, or nothing. Implements: WIR-R4."""
    if frame.kind is FrameKind.REFUSAL:
        return "" if frame == REFUSAL else "it says something"
    group, step, *others = _numbers(frame)
    if frame.kind in STEP_KINDS and not 0 <= step < 2**32:
        return "a number of more than 32 bits"
    if group or any(others) or frame.element_bytes or (step and frame.kind not in STEP_KINDS):
        return "an unused field is not zero"
    return "" if len(frame.payload) == NOTICE_BYTES[frame.kind] else "payload length"


def element_bytes(modulus: int) -> int:
    """Return the bytes of an element, 4, 5, 6 or 8. Refuses: FIELD_UNKNOWN."""
    if modulus not in WIDTHS:
        raise Refused(Refusal.FIELD_UNKNOWN, str(modulus))
    return WIDTHS[modulus]


def pack(elements: Elements | Sequence[int], modulus: int) -> bytes:
    """Return the elements in row order, each as 4, 5, 6 or 8 bytes, little-endian.

    An array's words are read as unsigned; Python integers are taken at their value.

    Implements: WIR-R6.
    Refuses: FIELD_UNKNOWN, NOT_IN_FIELD.
    """
    width = element_bytes(modulus)
    words = _words(elements)
    _check_elements(words, modulus)
    if width == 4:
        return words.astype("<u4").tobytes()
    packed = numpy.empty(len(words), _halves(width))
    packed["low"], packed["high"] = words, words >> 32
    return packed.tobytes()


def unpack(data: bytes | bytearray, count: int, modulus: int) -> Elements:
    """Return [count] elements, as words that are in 0 .. modulus - 1 when read as unsigned.

    Implements: WIR-R6.
    Refuses: FIELD_UNKNOWN, FRAME_MALFORMED, NOT_IN_FIELD.
    """
    width = element_bytes(modulus)
    if len(data) != count * width:
        raise Refused(Refusal.FRAME_MALFORMED, f"{len(data)} bytes are not {count} elements of {width}")
    if width == 4:
        words = numpy.frombuffer(data, "<u4").astype("<i8")
    else:
        packed = numpy.frombuffer(data, _halves(width))
        words = packed["high"].astype("<i8") << 32 | packed["low"]
    _check_elements(words, modulus)
    return words


def pack_words(words: Elements) -> bytes:
    """Return signed words, as mode `split` sends them, in row order. Refuses: NOT_IN_FIELD."""
    return pack(numpy.where(words < 0, words + SPLIT_MODULUS, words), SPLIT_MODULUS)


def unpack_words(data: bytes | bytearray, count: int, limit: int) -> Elements:
    """Return [count] signed words of mode `split`, each within `limit` of 0.

    Refuses: FRAME_MALFORMED, NOT_IN_FIELD.
    """
    elements = unpack(data, count, SPLIT_MODULUS)
    words = numpy.where(2 * elements > SPLIT_MODULUS, elements - SPLIT_MODULUS, elements)
    if words.size and int(numpy.abs(words).max()) > limit:
        raise Refused(Refusal.FRAME_MALFORMED, f"a word beyond {limit}")
    return words


def _words(elements: Elements | Sequence[int]) -> Elements:
    """Return the elements as one contiguous row of words. Refuses: NOT_IN_FIELD."""
    if isinstance(elements, numpy.ndarray):
        return numpy.ascontiguousarray(elements, dtype="<i8").reshape(-1)
    try:
        return numpy.array(elements, dtype="<u8").reshape(-1).view("<i8")
    except OverflowError as error:
        raise Refused(Refusal.NOT_IN_FIELD, "an element below 0 or of more than 64 bits") from error


def _halves(width: int) -> numpy.dtype[numpy.void]:
    """Return an element of more than 4 bytes as its lower 32 bits and what is above."""
    return numpy.dtype([("low", "<u4"), ("high", f"<u{width - 4}")])


def _check_elements(words: Elements, modulus: int) -> None:
    """Implements: WIR-R6. Refuses: NOT_IN_FIELD.

    Below 2**63 a negative word is at least 2**63 when read as unsigned, and so fails the same comparison.
    """
    if words.size and int(words.view("<u8").max()) >= modulus:
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
    check_size(len(data), row_bytes)
    if row_bytes <= 0 or not data or len(data) % row_bytes:
        raise Refused(Refusal.FRAME_MALFORMED, f"{len(data)} bytes are not rows of {row_bytes}")
    about = kind, epoch, group, step, columns, element_bytes, len(data) // row_bytes
    return pieces(about, 0, data)


Description = tuple[FrameKind, bytes, int, int, int, int, int]
"""What is known of a message beforehand: kind, epoch, group, step, columns, element_bytes, total_rows."""


def pieces(about: Description, first_row: int, data: bytes | bytearray) -> list[Frame]:
    """Return the frames of some whole rows of a message, from `first_row` on."""
    kind, epoch, group, step, columns, element_bytes, total = about
    row_bytes = columns * element_bytes
    most, rows = constants.FRAME_LIMIT // row_bytes, len(data) // row_bytes

    def piece(start: int) -> Frame:
        count = min(most, rows - start)
        payload = bytes(data[start * row_bytes : (start + count) * row_bytes])
        return Frame(
            kind, epoch, group, step, first_row + start, count, total, columns, element_bytes, payload
        )

    return [piece(start) for start in range(0, rows, most)]


def begins_a_message(data: bytes) -> bool:
    """Return whether a frame is the first of its message; a notice is whole by itself."""
    return len(data) < HEADER_BYTES or ROWS.unpack_from(data, ROWS_OFFSET)[0] == 0


def ends_a_message(data: bytes) -> bool:
    """Return whether no further frame of the same message follows; a notice is whole by itself."""
    if len(data) < HEADER_BYTES:
        return True
    first_row, rows, total_rows = ROWS.unpack_from(data, ROWS_OFFSET)
    return bool(first_row + rows >= total_rows)


def check_size(message_bytes: int, row_bytes: int) -> None:
    """Refuse a message that no frames can carry. Refuses: FRAME_TOO_LARGE."""
    if row_bytes > constants.FRAME_LIMIT or message_bytes > constants.REPLY_LIMIT:
        raise Refused(
            Refusal.FRAME_TOO_LARGE,
            f"{message_bytes} bytes in rows of {row_bytes} fit no message: shorten the prompt",
        )


@dataclass(slots=True)
class Reassembly:
    """One message as it arrives; it holds the rows received so far and nothing that was only promised."""

    kind: FrameKind
    epoch: bytes
    group: int
    step: int
    columns: int
    element_bytes: int
    total_rows: int
    row: int = 0
    pieces: list[bytes] = field(default_factory=list)

    @classmethod
    def described_by(cls, frame: Frame) -> Self:
        """Return an empty message of the description that one of its pieces gives."""
        about = (frame.kind, frame.epoch, frame.group, frame.step, frame.columns, frame.element_bytes)
        return cls(*about, frame.total_rows)

    def add(self, frame: Frame) -> None:
        """Take the next piece. Implements: WIR-R7. Refuses: FRAME_UNEXPECTED."""
        for name in ("kind", "epoch", "group", "step", "columns", "element_bytes", "total_rows"):
            if getattr(frame, name) != getattr(self, name):
                raise Refused(Refusal.FRAME_UNEXPECTED, f"another {name}")
        if frame.first_row != self.row:
            raise Refused(Refusal.FRAME_UNEXPECTED, f"row {frame.first_row} in place of row {self.row}")
        self.pieces.append(frame.payload)
        self.row += frame.rows

    def take(self) -> bytes:
        """Return the rows that have arrived since the last call, and hold them no longer."""
        taken, self.pieces = b"".join(self.pieces), []
        return taken

    def between(self, first: int, last: int) -> bytes:
        """Return the rows from the first to before the last, of a message of which none was taken."""
        row_bytes, row, found = self.columns * self.element_bytes, 0, []
        for piece in self.pieces:
            found.append(piece[max(0, first - row) * row_bytes : max(0, last - row) * row_bytes])
            row += len(piece) // row_bytes
        return b"".join(found)

    @property
    def complete(self) -> bool:
        """Return whether every row has arrived."""
        return self.row == self.total_rows


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
    message = Reassembly(kind, epoch, group, step, columns, element_bytes, total_rows)
    for frame in frames:
        message.add(frame)
    if not message.complete:
        raise Refused(Refusal.FRAME_UNEXPECTED, f"ends at row {message.row} of {total_rows}")
    return message.take()
