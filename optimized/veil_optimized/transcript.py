"""Transcript files: all that a worker received and sent, byte for byte."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from veil_optimized import wire
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import FrameKind

LENGTH: Final = struct.Struct("<I")
RECORD: Final = struct.Struct("<BI")
"""Layout: direction (1 byte) || length of the frame (4, little-endian)."""
KEYS: Final = {"spec_version", "model_hash", "profile", "m_over_d", "epoch", "fields"}


class Direction(IntEnum):
    """Which way a frame went."""

    TO_WORKER = 0
    FROM_WORKER = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What a reader needs to know about a transcript; `fields` lists the modulus of each group."""

    spec_version: str
    model_hash: bytes
    profile: str
    m_over_d: Fraction | None
    epoch: bytes
    fields: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One frame as it was on the wire."""

    direction: Direction
    data: bytes


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript file's contents."""

    header: Header
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message of rows; `elements` is [rows, columns] field elements."""

    kind: FrameKind
    group: int
    step: int
    elements: wire.Elements


class Writer:
    """A transcript file that is being written. Implements: WIR-P1."""

    def __init__(self, path: Path, header: Header) -> None:
        self._file = path.open("wb", buffering=0)
        encoded = encode_header(header)
        self._file.write(constants.TRANSCRIPT_MAGIC + LENGTH.pack(len(encoded)) + encoded)

    def record(self, direction: Direction, data: bytes) -> None:
        """Append one frame."""
        self._file.write(RECORD.pack(direction, len(data)) + data)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode_header(header: Header) -> bytes:
    """Return the JSON header, keys in alphabetical order."""
    ratio = header.m_over_d
    content = {
        "spec_version": header.spec_version,
        "model_hash": header.model_hash.hex(),
        "profile": header.profile,
        "m_over_d": None if ratio is None else f"{ratio.numerator}/{ratio.denominator}",
        "epoch": header.epoch.hex(),
        "fields": list(header.fields),
    }
    return json.dumps(content, sort_keys=True).encode()


def decode_header(data: bytes) -> Header:
    """Return the header. Refuses: FRAME_MALFORMED."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or set(content) != KEYS:
            raise ValueError("keys")
        ratio = content["m_over_d"]
        return Header(
            spec_version=str(content["spec_version"]),
            model_hash=bytes.fromhex(content["model_hash"]),
            profile=str(content["profile"]),
            m_over_d=None if ratio is None else Fraction(ratio),
            epoch=bytes.fromhex(content["epoch"]),
            fields=tuple(int(modulus) for modulus in content["fields"]),
        )
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise Refused(Refusal.FRAME_MALFORMED, "transcript header") from error


def read(path: Path) -> Transcript:
    """Return the contents of a transcript file. Refuses: FRAME_MALFORMED."""
    return parse(path.read_bytes())


def parse(data: bytes) -> Transcript:
    """Return the contents of a transcript file's bytes. Refuses: FRAME_MALFORMED."""
    start = len(constants.TRANSCRIPT_MAGIC)
    if data[:start] != constants.TRANSCRIPT_MAGIC:
        raise Refused(Refusal.FRAME_MALFORMED, "not a transcript")
    header_end = _end(data, start, LENGTH, 0)
    header = decode_header(data[start + LENGTH.size : header_end])
    return Transcript(header, tuple(_records(data, header_end)))


def _records(data: bytes, start: int) -> Iterator[Record]:
    while start < len(data):
        end = _end(data, start, RECORD, 1)
        if data[start] not in Direction.__members__.values():
            raise Refused(Refusal.FRAME_MALFORMED, f"direction {data[start]} at byte {start}")
        yield Record(Direction(data[start]), data[start + RECORD.size : end])
        start = end


def _end(data: bytes, start: int, layout: struct.Struct, field: int) -> int:
    """Return where the bytes end whose length the layout at `start` states. Refuses: FRAME_MALFORMED."""
    body = start + layout.size
    if body > len(data) or body + layout.unpack_from(data, start)[field] > len(data):
        raise Refused(Refusal.FRAME_MALFORMED, f"the transcript ends inside the record at byte {start}")
    return body + int(layout.unpack_from(data, start)[field])


def messages(transcript: Transcript) -> Iterator[Message]:
    """Yield every whole message of rows, in order; all that an attacker may use.

    A message that is cut off by the HELLO of another stream is not whole; one that is sent again comes twice.

    Refuses: what `decode`, `join` and `unpack` refuse, and FRAME_MALFORMED for a group without a field.
    """
    open_: dict[Direction, wire.Reassembly] = {}
    for record in transcript.records:
        frame = wire.decode(record.data)
        if frame.kind not in wire.ROW_WIDTHS:
            open_.clear()
            continue
        message = open_.setdefault(record.direction, wire.Reassembly.described_by(frame))
        message.add(frame)
        if message.complete:
            yield _finish(open_.pop(record.direction), transcript.header.fields)


def _finish(message: wire.Reassembly, fields: tuple[int, ...]) -> Message:
    shape = (message.total_rows, message.columns)
    elements = wire.unpack(message.take(), shape[0] * shape[1], _modulus(message, fields))
    return Message(message.kind, message.group, message.step, elements.reshape(shape))


def _modulus(message: wire.Reassembly, fields: tuple[int, ...]) -> int:
    """Return the field of a message's elements. Refuses: FRAME_MALFORMED."""
    if message.kind in (FrameKind.EMBEDDED, FrameKind.ANSWER):
        return wire.SPLIT_MODULUS
    if message.group >= len(fields):
        raise Refused(Refusal.FRAME_MALFORMED, f"group {message.group} has no field")
    return fields[message.group]
