"""What a worker saw, read from a transcript frame by frame: a whole one may not fit into memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from veil_conformance.attacks.base import GROUP, Sighting, View
from veil_conformance.attacks.modular import Elements
from veil_optimized import lwe, transcript, wire
from veil_optimized.enclave import BASIS_STEP
from veil_optimized.tape import field_elements
from veil_optimized.transcript import Direction, Header
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Frame, FrameKind


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
    return (frame for frame in sent(path, group) if frame.kind is FrameKind.MULTIPLY)


def sent(path: Path, group: int | None = None) -> Iterator[Frame]:
    """Yield the frames of masked rows, of one group or of all, and every HELLO.

    Refuses: FRAME_MALFORMED, what `decode` refuses.
    """
    with path.open("rb") as file:
        _header(file, path)
        for found, data in _records(file):
            rest = found.bytes - len(data)
            rows = found.kind == FrameKind.MULTIPLY and group in (None, found.group)
            if found.direction is Direction.TO_WORKER and (rows or found.kind == FrameKind.HELLO):
                yield wire.decode(data + file.read(rest))
            else:
                file.seek(rest, 1)


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message of masked rows [rows, columns] to the worker."""

    group: int
    step: int
    elements: Elements


def whole(path: Path, group: int | None = None) -> Iterator[Message]:
    """Yield each whole message to the worker, of one group or of all, in order and as often as it was sent.

    A HELLO opens another stream: what was not complete by then is sent again.

    Refuses: as `sent` and `join`, and FRAME_MALFORMED for a group without a field.
    """
    fields = header(path).fields
    message: wire.Reassembly | None = None
    for frame in sent(path, group):
        if frame.kind is FrameKind.HELLO:
            message = None
            continue
        message = message or wire.Reassembly.described_by(frame)
        message.add(frame)
        if message.complete:
            yield _finished(message, fields)
            message = None


def _finished(message: wire.Reassembly, fields: tuple[int, ...]) -> Message:
    if message.group >= len(fields):
        raise Refused(Refusal.FRAME_MALFORMED, f"group {message.group} has no field")
    size = message.total_rows, message.columns
    elements = wire.unpack(message.take(), size[0] * size[1], fields[message.group]).reshape(size)
    return Message(message.group, message.step, elements)


def once(found: Iterable[Message]) -> Iterator[Message]:
    """Yield the messages without those that repeat the one before of their group, element by element."""
    last: dict[int, Message] = {}
    for message in found:
        before = last.get(message.group)
        last[message.group] = message
        if before is None or before.step != message.step or _differ(before, message):
            yield message


def _differ(one: Message, other: Message) -> bool:
    return not np.array_equal(one.elements, other.elements)


def messages(path: Path, group: int) -> Iterator[Elements]:
    """Yield the rows of each message of a group to the worker, in order, those sent again once.

    Refuses: as `whole`.
    """
    return (message.elements for message in once(whole(path, group)))


def recorded(path: Path, groups: Sequence[int] = (GROUP,)) -> View:
    """Return what a transcript shows of some groups, group 0 among them. Refuses: as `whole`.

    A step has as many tokens as rows in group 0; a message of fewer rows is of the last of them.
    """
    about, tokens = header(path), 0
    found: dict[int, list[Message]] = {}
    for group in sorted({GROUP, *groups}):
        found[group] = list(once(whole(path, group)))
    bases = {
        group: found[group].pop(0).elements
        for group in found
        if found[group] and based(about, found[group][0])
    }
    ends: dict[int, int] = {}
    for message in found[GROUP]:
        tokens += len(message.elements)
        ends[message.step] = tokens
    if not tokens:
        raise Refused(Refusal.FRAME_MALFORMED, f"{path} holds no masked row of group {GROUP}")
    sightings = [
        _sighting(group, found[group], bases.get(group), ends, about.fields[group])
        for group in groups
        if found[group]
    ]
    return View(tokens, tuple(sightings))


def based(about: Header, first: Message) -> bool:
    """Return whether a group's first message is its public basis."""
    return about.profile in ("rank", "lwe") and first.step == BASIS_STEP


def _sighting(
    group: int, found: list[Message], basis: Elements | None, ends: dict[int, int], modulus: int
) -> Sighting:
    rows = np.concatenate([message.elements for message in found])
    positions = [np.arange(len(one.elements)) + ends[one.step] - len(one.elements) for one in found]
    scale = scale_of(modulus, rows.shape[1])
    return Sighting(group, rows, np.concatenate(positions), modulus, basis, scale)


def scale_of(modulus: int, width: int) -> int:
    """Return what a plaintext 1 counts in a masked element: D over q, else 1."""
    return lwe.lwe_levels(width)[1] if modulus == constants.LWE_MODULUS else 1


def simulate(source: Path, target: Path, tape: Tape) -> None:
    """Write a transcript like another one, its masked rows of group 0 replaced by uniform field elements.

    This is what a simulator that knows nothing but the leakage can write.
    """
    about = header(source)
    modulus = about.fields[GROUP]
    with transcript.Writer(target, about) as writer:
        for stream, frame in enumerate(frames(source, GROUP)):
            size = frame.rows * frame.columns
            uniform = field_elements(tape, Domain.TEST, stream, 0, size, modulus)
            simulated = replace(frame, payload=wire.pack(uniform, modulus))
            writer.record(Direction.TO_WORKER, wire.encode(simulated))
