"""Frames, packed elements and messages."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import examples, refusal
from veil_spec import __version__, constants
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Frame, FrameKind

EPOCH = bytes(range(16))
MULTIPLY = Frame(FrameKind.MULTIPLY, EPOCH, 7, 8, 1, 2, 4, 3, 5, bytes(range(30)))
HELLO = Frame(FrameKind.HELLO, EPOCH, 0, 0, 0, 0, 0, 0, 0, bytes(range(32)))
REFUSAL = Frame(FrameKind.REFUSAL, bytes(16), 0, 0, 0, 0, 0, 0, 0, b"")
ASK = Frame(FrameKind.ASK, EPOCH, 0, 2**32 - 1, 0, 0, 0, 0, 0, bytes(range(8)))
SEED = Frame(FrameKind.SEED, EPOCH, 0, 9, 0, 0, 0, 0, 0, bytes(range(32)))
WIDE = Frame(FrameKind.PRODUCT, EPOCH, 7, 8, 1, 2, 4, 3, 8, bytes(range(48)))
EMBEDDED = Frame(FrameKind.EMBEDDED, EPOCH, 15, 8, 1, 2, 4, 3, 6, bytes(range(36)))
ANSWER = replace(EMBEDDED, kind=FrameKind.ANSWER, first_row=0, rows=1, total_rows=1, payload=bytes(range(18)))
VERSION = bytes(int(part) for part in __version__.split("."))
HEADER = 53
P32, P40, P48 = constants.PRIMES
Q = constants.LWE_MODULUS


def laid_out(frame: Frame, version: bytes = VERSION, magic: bytes = b"VEIL") -> bytes:
    """Return the bytes of a frame by the table of spec/wire.md, whatever its fields say."""
    numbers = (frame.group, frame.step, frame.first_row, frame.rows, frame.total_rows, frame.columns)
    return b"".join(
        [
            magic,
            version,
            bytes([frame.kind]),
            frame.epoch,
            *(number.to_bytes(4, "little") for number in numbers),
            bytes([frame.element_bytes]),
            len(frame.payload).to_bytes(4, "little"),
            frame.payload,
        ]
    )


@pytest.mark.requirement("WIR-R1")
@given(frame=strategies.frames())
@example(frame=MULTIPLY)
@example(frame=HELLO)
@example(frame=REFUSAL)
@example(frame=ASK)
@example(frame=SEED)
@example(frame=WIDE)
@example(frame=EMBEDDED)
@example(frame=ANSWER)
def test_a_frame_is_its_header_and_its_payload(impl: Implementation, frame: Frame) -> None:
    assert (impl.encode(frame), impl.decode(laid_out(frame))) == (laid_out(frame), frame)


@pytest.mark.requirement("WIR-R1")
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (replace(MULTIPLY, rows=1), Refusal.FRAME_MALFORMED),
        (replace(MULTIPLY, epoch=EPOCH[:15]), Refusal.FRAME_MALFORMED),
        (replace(MULTIPLY, group=2**32), Refusal.FRAME_MALFORMED),
        (replace(MULTIPLY, step=-1), Refusal.FRAME_MALFORMED),
        (replace(HELLO, payload=b""), Refusal.FRAME_MALFORMED),
        (replace(ASK, payload=bytes(9)), Refusal.FRAME_MALFORMED),
        (replace(SEED, step=2**32), Refusal.FRAME_MALFORMED),
        (replace(EMBEDDED, rows=3), Refusal.FRAME_MALFORMED),
        (replace(ANSWER, element_bytes=8, payload=bytes(24)), Refusal.FRAME_MALFORMED),
        (replace(MULTIPLY, payload=bytes(2**20 + 1)), Refusal.FRAME_TOO_LARGE),
        (replace(MULTIPLY, total_rows=2**32 - 1), Refusal.FRAME_TOO_LARGE),
        (replace(EMBEDDED, total_rows=2**32 - 1), Refusal.FRAME_TOO_LARGE),
    ],
    ids=[
        *("rows", "epoch", "group", "step", "digest", "ask", "seed-step", "embedded", "answer"),
        *("payload", "message", "embedded-message"),
    ],
)
def test_encode_refuses_what_decode_would(impl: Implementation, frame: Frame, reason: Refusal) -> None:
    assert refusal(impl.encode, frame) == reason


@pytest.mark.requirement("WIR-R2")
@given(frame=strategies.frames(), data=st.data())
def test_a_cut_or_continued_frame_is_refused(impl: Implementation, frame: Frame, data: st.DataObject) -> None:
    whole = laid_out(frame)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    longer = whole + data.draw(st.binary(min_size=1, max_size=3))
    assert (refusal(impl.decode, cut), refusal(impl.decode, longer)) == (Refusal.FRAME_TRUNCATED,) * 2


@pytest.mark.requirement("WIR-R3")
@given(version=st.binary(min_size=3, max_size=3).filter(lambda version: version != VERSION))
@example(version=bytes([VERSION[0], VERSION[1], VERSION[2] + 1]))
@example(version=VERSION[::-1] if VERSION[::-1] != VERSION else b"\xff\xff\xff")
def test_another_version_is_refused_before_any_field_is_read(impl: Implementation, version: bytes) -> None:
    good = laid_out(MULTIPLY, version)
    nonsense = b"VEIL" + version + bytes([0xFF]) * 46
    assert refusal(impl.decode, good) == Refusal.VERSION_MISMATCH
    assert refusal(impl.decode, nonsense) == Refusal.VERSION_MISMATCH


def with_kind(kind: int) -> bytes:
    """Return a frame's bytes with another kind byte."""
    data = laid_out(MULTIPLY)
    return data[:7] + bytes([kind]) + data[8:]


MALFORMED = {
    "magic": laid_out(MULTIPLY, magic=b"VEIl"),
    "magic-and-version": laid_out(MULTIPLY, magic=b"veil", version=b"\xff\xff\xff"),
    "kind-0": with_kind(0),
    "kind-10": with_kind(10),
    "embedded-of-5-bytes": with_kind(8),
    "answer-of-5-bytes": with_kind(9),
    **{
        f"{frame.kind.name.lower()}-element-bytes-{width}": laid_out(
            replace(frame, element_bytes=width, payload=bytes(frame.rows * frame.columns * width))
        )
        for frame in (EMBEDDED, ANSWER)
        for width in (0, 4, 8)
    },
    "embedded-no-rows": laid_out(replace(EMBEDDED, rows=0, payload=b"")),
    "embedded-no-columns": laid_out(replace(EMBEDDED, columns=0, payload=b"")),
    "embedded-rows-beyond-total": laid_out(replace(EMBEDDED, first_row=3)),
    "answer-payload-short": laid_out(replace(ANSWER, payload=bytes(17))),
    "answer-digest": laid_out(replace(HELLO, kind=FrameKind.ANSWER)),
    "kind-255": with_kind(255),
    "no-rows": laid_out(replace(MULTIPLY, rows=0, payload=b"")),
    "no-columns": laid_out(replace(MULTIPLY, columns=0, payload=b"")),
    "rows-beyond-total": laid_out(replace(MULTIPLY, first_row=3)),
    "rows-far-beyond-total": laid_out(replace(MULTIPLY, first_row=2**32 - 2)),
    "element-bytes-3": laid_out(replace(MULTIPLY, element_bytes=3, payload=bytes(18))),
    "element-bytes-7": laid_out(replace(MULTIPLY, element_bytes=7, payload=bytes(42))),
    "payload-short": laid_out(replace(MULTIPLY, payload=bytes(29))),
    "payload-long": laid_out(replace(MULTIPLY, payload=bytes(31))),
    "hello-group": laid_out(replace(HELLO, group=1)),
    "hello-columns": laid_out(replace(HELLO, columns=1)),
    "hello-total": laid_out(replace(HELLO, total_rows=1)),
    "hello-element-bytes": laid_out(replace(HELLO, element_bytes=4)),
    "hello-digest": laid_out(replace(HELLO, payload=bytes(31))),
    "welcome-step": laid_out(replace(HELLO, kind=FrameKind.WELCOME, step=1)),
    "element-bytes-9": laid_out(replace(MULTIPLY, element_bytes=9, payload=bytes(54))),
    "hello-step": laid_out(replace(HELLO, step=1)),
    "ask-short": laid_out(replace(ASK, payload=bytes(7))),
    "ask-digest": laid_out(replace(ASK, payload=bytes(32))),
    "ask-group": laid_out(replace(ASK, group=1)),
    "ask-rows": laid_out(replace(ASK, rows=1)),
    "seed-short": laid_out(replace(SEED, payload=bytes(31))),
    "seed-empty": laid_out(replace(SEED, payload=b"")),
    "seed-columns": laid_out(replace(SEED, columns=1)),
    "seed-element-bytes": laid_out(replace(SEED, element_bytes=8)),
    "refusal-step": laid_out(replace(REFUSAL, step=1)),
    "refusal-epoch": laid_out(replace(REFUSAL, epoch=EPOCH)),
    "refusal-payload": laid_out(replace(REFUSAL, payload=b"why")),
    "refusal-group": laid_out(replace(REFUSAL, group=3)),
}


@pytest.mark.requirement("WIR-R4")
@pytest.mark.parametrize("name", MALFORMED)
def test_a_field_that_differs_from_the_table_is_refused(impl: Implementation, name: str) -> None:
    assert refusal(impl.decode, MALFORMED[name]) == Refusal.FRAME_MALFORMED


@pytest.mark.requirement("WIR-R5")
@pytest.mark.parametrize("length", [2**20 + 1, 2**31, 2**32 - 1])
def test_a_payload_above_the_limit_is_refused_unseen(impl: Implementation, length: int) -> None:
    stated = laid_out(MULTIPLY)[:49] + length.to_bytes(4, "little")
    assert refusal(impl.decode, stated) == Refusal.FRAME_TOO_LARGE


@pytest.mark.requirement("WIR-R5")
def test_a_message_above_the_limit_is_refused(impl: Implementation) -> None:
    for frame, largest in ((MULTIPLY, 2**30 // 15), (EMBEDDED, 2**30 // 18), (ANSWER, 2**30 // 18)):
        assert refusal(impl.decode, laid_out(replace(frame, total_rows=largest))) is None
        larger = laid_out(replace(frame, total_rows=largest + 1))
        assert refusal(impl.decode, larger) == Refusal.FRAME_TOO_LARGE


@pytest.mark.requirement("WIR-R5")
def test_a_payload_at_the_limit_is_accepted(impl: Implementation) -> None:
    full = Frame(FrameKind.PRODUCT, EPOCH, 0, 0, 0, 1, 1, 2**18, 4, bytes(2**20))
    assert impl.decode(laid_out(full)) == full


@pytest.mark.requirement("WIR-R6")
@given(modulus=strategies.moduli | st.just(Q), data=st.data())
def test_elements_are_packed_little_endian_and_read_back(
    impl: Implementation, modulus: int, data: st.DataObject
) -> None:
    elements = data.draw(st.lists(st.integers(0, modulus - 1) | st.just(modulus - 1), max_size=6))
    width = {P32: 4, P40: 5, P48: 6, Q: 8}[modulus]
    packed = b"".join(element.to_bytes(width, "little") for element in elements)
    assert impl.pack(elements, modulus) == packed
    assert list(impl.unpack(packed, len(elements), modulus)) == elements


@pytest.mark.requirement("WIR-R6")
@pytest.mark.parametrize(("modulus", "width"), [(P32, 4), (P40, 5), (P48, 6), (Q, 8)])
def test_elements_outside_the_field_are_refused(impl: Implementation, modulus: int, width: int) -> None:
    for element in (modulus, 2 ** (8 * width) - 1):
        data = bytes(width) + element.to_bytes(width, "little")
        assert refusal(impl.unpack, data, 2, modulus) == Refusal.NOT_IN_FIELD
        assert refusal(impl.pack, [0, element], modulus) == Refusal.NOT_IN_FIELD


@pytest.mark.requirement("WIR-R6")
@pytest.mark.parametrize("modulus", [P32, P40, P48, Q])
@pytest.mark.parametrize("elements", [[0, -1], [-(2**63)], [2**70]], ids=str)
def test_elements_that_no_width_holds_are_refused(
    impl: Implementation, modulus: int, elements: list[int]
) -> None:
    assert refusal(impl.pack, elements, modulus) == Refusal.NOT_IN_FIELD


@pytest.mark.requirement("WIR-R6")
def test_another_field_and_another_length_are_refused(impl: Implementation) -> None:
    assert refusal(impl.pack, [1], 97) == Refusal.FIELD_UNKNOWN
    assert refusal(impl.unpack, bytes(4), 1, 2**32) == Refusal.FIELD_UNKNOWN
    assert refusal(impl.unpack, bytes(8), 1, 2**64) == Refusal.FIELD_UNKNOWN
    assert refusal(impl.unpack, bytes(7), 2, P32) == Refusal.FRAME_MALFORMED
    assert refusal(impl.unpack, bytes(7), 1, Q) == Refusal.FRAME_MALFORMED
    assert refusal(impl.unpack, bytes(12), 2, P32) == Refusal.FRAME_MALFORMED


def pieces(rows: list[int]) -> list[Frame]:
    """Return a message of 2 columns cut after these numbers of rows, each byte naming its row."""
    total, first, made = sum(rows), 0, []
    for count in rows:
        payload = b"".join(bytes([row % 256]) * 8 for row in range(first, first + count))
        made.append(Frame(FrameKind.PRODUCT, EPOCH, 3, 4, first, count, total, 2, 4, payload))
        first += count
    return made


def whole(frames: list[Frame]) -> bytes:
    """Return the payloads together."""
    return b"".join(frame.payload for frame in frames)


ABOUT = (FrameKind.PRODUCT, EPOCH, 3, 4, 2, 4)


@pytest.mark.requirement("WIR-R7")
@given(rows=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_pieces_in_order_are_joined(impl: Implementation, rows: list[int]) -> None:
    assert impl.join(pieces(rows), *ABOUT, sum(rows)) == whole(pieces(rows))


GOOD = pieces([2, 1, 3])
UNEXPECTED = {
    **{
        f"order-{a}{b}{c}": [GOOD[a], GOOD[b], GOOD[c]]
        for a, b, c in permutations(range(3))
        if (a, b, c) != (0, 1, 2)
    },
    "none": [],
    "first-missing": GOOD[1:],
    "middle-missing": [GOOD[0], GOOD[2]],
    "last-missing": GOOD[:2],
    "repeated": [GOOD[0], GOOD[0], GOOD[1], GOOD[2]],
    "more": [*GOOD, GOOD[2]],
    "overlap": [GOOD[0], replace(GOOD[1], first_row=1), GOOD[2]],
    "kind": [GOOD[0], replace(GOOD[1], kind=FrameKind.MULTIPLY), GOOD[2]],
    "epoch": [GOOD[0], replace(GOOD[1], epoch=bytes(16)), GOOD[2]],
    "group": [GOOD[0], replace(GOOD[1], group=4), GOOD[2]],
    "step": [GOOD[0], replace(GOOD[1], step=5), GOOD[2]],
    "columns": [GOOD[0], replace(GOOD[1], columns=1, element_bytes=4, payload=bytes(4)), GOOD[2]],
    "answer": [GOOD[0], replace(GOOD[1], kind=FrameKind.ANSWER), GOOD[2]],
    "element-bytes": [GOOD[0], replace(GOOD[1], element_bytes=5, payload=bytes(10)), GOOD[2]],
    "total": [GOOD[0], replace(GOOD[1], total_rows=7), GOOD[2]],
}


@pytest.mark.requirement("WIR-R7")
@pytest.mark.parametrize("name", UNEXPECTED)
def test_any_other_pieces_are_refused(impl: Implementation, name: str) -> None:
    assert refusal(impl.join, UNEXPECTED[name], *ABOUT, 6) == Refusal.FRAME_UNEXPECTED


@pytest.mark.requirement("WIR-R7")
@given(rows=st.integers(1, 40), columns=st.sampled_from([1, 7, 2**17, 2**18]))
@examples(20)
def test_split_pieces_are_full_and_join_again(impl: Implementation, rows: int, columns: int) -> None:
    rows = min(rows, 3) if columns > 7 else rows
    data = bytes(i % 251 for i in range(columns * 4)) * rows
    frames = list(impl.split(FrameKind.PRODUCT, EPOCH, 3, 4, columns, 4, data))
    most = 2**20 // (columns * 4)
    sizes = [most] * (rows // most) + [rows % most] * (rows % most > 0)
    assert [frame.rows for frame in frames] == sizes
    assert impl.join(frames, FrameKind.PRODUCT, EPOCH, 3, 4, columns, 4, rows) == data


@pytest.mark.requirement("WIR-R7")
@pytest.mark.parametrize("kind", [FrameKind.EMBEDDED, FrameKind.ANSWER])
@pytest.mark.parametrize(("rows", "columns"), [(1, 174_762), (3, 174_762), (7, 50_000), (5, 3)])
def test_rows_of_a_split_model_are_split_and_joined(
    impl: Implementation, kind: FrameKind, rows: int, columns: int
) -> None:
    data = b"".join(bytes([row + 1]) * (6 * columns) for row in range(rows))
    frames = list(impl.split(kind, EPOCH, 15, 8, columns, 6, data))
    most = 2**20 // (6 * columns)
    assert [frame.first_row for frame in frames] == list(range(0, rows, most))
    assert {(frame.kind, frame.group, frame.step, frame.total_rows) for frame in frames} == {
        (kind, 15, 8, rows)
    }
    assert [refusal(impl.encode, frame) for frame in frames] == [None] * len(frames)
    assert impl.join(frames, kind, EPOCH, 15, 8, columns, 6, rows) == data
    assert refusal(impl.join, frames, kind, EPOCH, 14, 8, columns, 6, rows) == Refusal.FRAME_UNEXPECTED
