"""What a worker saw, read from a transcript frame by frame: a whole one may not fit into memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from veil_optimized import transcript, wire
from veil_optimized.transcript import Direction, Header
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

Elements = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Head:
    """The part of a frame that is no payload; `bytes` is the length of the whole frame."""

    direction: Direction
    kind: int
    group: int
    step: int
    first_row: int
    rows: int
    total_rows: int
    columns: int
    element_bytes: int
    bytes: int


def header(path: Path) -> Header:
    """Return a transcript's header. Refuses: FRAME_MALFORMED."""
    with path.open("rb") as file:
        return _header(file, path)


def _header(file: BinaryIO, path: Path) -> Header:
    magic = file.read(len(constants.TRANSCRIPT_MAGIC))
    length = file.read(transcript.LENGTH.size)
    if magic != constants.TRANSCRIPT_MAGIC or len(length) < transcript.LENGTH.size:
        raise Refused(Refusal.FRAME_MALFORMED, f"{path} is not a transcript")
    found = transcript.decode_header(file.read(*transcript.LENGTH.unpack(length)))
    if not found.fields:
        raise Refused(Refusal.FRAME_MALFORMED, f"{path} names no field")
    return found


def heads(path: Path) -> Iterator[Head]:
    """Yield the head of every frame, in order. Refuses: FRAME_MALFORMED."""
    with path.open("rb") as file:
        _header(file, path)
        for found, data in _records(file):
            yield found
            file.seek(found.bytes - len(data), 1)


def _records(file: BinaryIO) -> Iterator[tuple[Head, bytes]]:
    """Yield each frame's head and its bytes; the file then stands after them."""
    size = os.fstat(file.fileno()).st_size
    while record := file.read(transcript.RECORD.size):
        length = transcript.RECORD.unpack(record)[1] if len(record) == transcript.RECORD.size else 0
        data = file.read(wire.HEADER_BYTES)
        whole = wire.HEADER_BYTES == len(data) <= length <= size - file.tell() + len(data)
        if not whole or record[0] not in Direction.__members__.values():
            raise Refused(Refusal.FRAME_MALFORMED, "the transcript ends inside a record")
        _, _, kind, _, group, step, first_row, rows, total_rows, columns, width, _ = wire.HEADER.unpack(data)
        about = (kind, group, step, first_row, rows, total_rows, columns, width)
        yield Head(Direction(record[0]), *about, bytes=length), data


def frames(path: Path, group: int) -> Iterator[Frame]:
    """Yield the frames of masked rows of one group. Refuses: FRAME_MALFORMED, what `decode` refuses."""
    with path.open("rb") as file:
        _header(file, path)
        for found, data in _records(file):
            rest = found.bytes - len(data)
            if (found.direction, found.kind, found.group) == (Direction.TO_WORKER, FrameKind.MULTIPLY, group):
                yield wire.decode(data + file.read(rest))
            else:
                file.seek(rest, 1)


def messages(path: Path, group: int) -> Iterator[Elements]:
    """Yield the rows of each message of a group to the worker, in order. Refuses: as `frames` and `join`."""
    modulus = header(path).fields[group]
    message: wire.Reassembly | None = None
    for frame in frames(path, group):
        message = message or wire.Reassembly.described_by(frame)
        message.add(frame)
        if message.complete:
            size = message.total_rows, message.columns
            yield wire.unpack(message.data, size[0] * size[1], modulus).reshape(size)
            message = None
