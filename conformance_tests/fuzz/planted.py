"""Bugs to plant, each a check forgotten: the harness has to find every one of them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final
from unittest import mock

from veil_optimized import sequences, session, transcript, wire, worker
from veil_optimized.transport import StreamLost
from veil_spec.refusals import Refused
from veil_spec.types import Frame, FrameKind


def accept_rows_beyond_the_total() -> AbstractContextManager[object]:
    """Forget to compare first_row + rows with total_rows."""
    right = wire._rows_problem
    return mock.patch.object(wire, "_rows_problem", lambda frame: right(replace(frame, first_row=0)))


def accept_any_unused_field() -> AbstractContextManager[object]:
    """Forget that a frame without rows has no columns."""
    right = wire._notice_problem
    return mock.patch.object(wire, "_notice_problem", lambda frame: right(replace(frame, columns=0)))


def accept_elements_outside_the_field() -> AbstractContextManager[object]:
    """Forget to compare elements with the modulus."""
    return mock.patch.object(wire, "_check_elements", lambda words, modulus: None)


def accept_a_row_twice() -> AbstractContextManager[object]:
    """Forget to compare first_row with the rows so far."""
    right = wire.Reassembly.add
    return mock.patch.object(
        wire.Reassembly, "add", lambda self, frame: right(self, replace(frame, first_row=self.row))
    )


def accept_a_record_cut_short() -> AbstractContextManager[object]:
    """Forget to compare a record's length with the file's."""
    return mock.patch.object(
        transcript,
        "_end",
        lambda data, start, layout, field: start + layout.size + layout.unpack_from(data, start)[field],
    )


def go_on_after_nonsense() -> AbstractContextManager[object]:
    """Forget that a stream has ended."""

    class Forgetful(worker.Worker):
        def __setattr__(self, name: str, value: object) -> None:
            object.__setattr__(self, name, False if name == "ended" else value)

    return mock.patch("fuzz.targets.Worker", Forgetful)


def accept_any_model() -> AbstractContextManager[object]:
    """Forget to compare the digest of a WELCOME."""

    def greet(self: session.Channel, model_hash: bytes) -> None:
        zeros = (0, 0, 0, 0, 0, 0, 0)
        self._send(Frame(FrameKind.HELLO, self.epoch, *zeros, model_hash))
        self._receive()
        self._welcome = True

    return mock.patch.object(session.Channel, "_greet", greet)


def ask_again_after_a_refusal() -> AbstractContextManager[object]:
    """Take what was refused for a broken stream."""
    right = session.Channel._receive

    def receive(self: session.Channel) -> Frame:
        try:
            return right(self)
        except Refused as refused:
            raise StreamLost("refused") from refused

    return mock.patch.object(session.Channel, "_receive", receive)


def accept_a_step_ahead() -> AbstractContextManager[object]:
    """Forget to compare a step with the rows that a sequence has."""
    right = sequences.Decoding.begin

    def begin(self: sequences.Decoding, number: int, step: int, rows: int, columns: int) -> None:
        kept = self._caches.get(number)
        right(self, number, kept.position if step and kept else step, rows, columns)

    return mock.patch.object(sequences.Decoding, "begin", begin)


def accept_words_beyond_their_range() -> AbstractContextManager[object]:
    """Forget that a word has fewer bits than an element."""
    right = wire.unpack_words
    return mock.patch.object(wire, "unpack_words", lambda data, count, limit: right(data, count, 2**62))


PLANTED: Final[Mapping[str, tuple[str, Callable[[], AbstractContextManager[object]]]]] = {
    "rows beyond the total": ("decode", accept_rows_beyond_the_total),
    "an unused field": ("decode", accept_any_unused_field),
    "elements outside the field": ("elements", accept_elements_outside_the_field),
    "a row twice": ("join", accept_a_row_twice),
    "a record cut short": ("transcripts", accept_a_record_cut_short),
    "on after nonsense": ("worker", go_on_after_nonsense),
    "any model": ("enclave", accept_any_model),
    "a step ahead": ("inferring", accept_a_step_ahead),
    "words beyond their range": ("answers", accept_words_beyond_their_range),
    "again after a refusal": ("enclave", ask_again_after_a_refusal),
}
"""Name to the target that finds the bug, and how to plant it."""
