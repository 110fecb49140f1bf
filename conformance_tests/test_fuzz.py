"""Fuzzing in short: kept inputs and a few hundred new ones for every target, and planted bugs that are found.

`make soak` runs a million, guided by coverage.
"""

import struct
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fuzz import corpus
from fuzz.planted import PLANTED
from fuzz.targets import TARGETS

EXAMPLES = {
    "decode": 60,
    "elements": 40,
    "join": 30,
    "transcripts": 40,
    "worker": 20,
    "enclave": 20,
    "inferring": 10,
    "answers": 20,
}
"""Drawn inputs of each target."""
HELD_LIMIT = 2**20
"""Bytes that handling one short input may take at most: none may claim what it only announces."""


@cache
def kept(name: str) -> Sequence[bytes]:
    """Return the kept inputs of a target."""
    return list(corpus.kept(name))


@st.composite
def inputs(draw: st.DrawFn, name: str) -> bytes:
    """Return any bytes, or a kept input with a few bytes written anew and a cut or a tail."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=120))
    data = bytearray(draw(st.sampled_from(kept(name))))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.sampled_from([len(data)] * 7 + [len(data) // 2]))
    return bytes(data[:end])


def hunt(name: str, examples: int, target: Callable[[bytes], None]) -> None:
    """Run a target on so many drawn inputs, the same ones every time."""

    @settings(max_examples=examples, database=None, derandomize=True, phases=[Phase.generate], deadline=None)
    @given(inputs(name))
    def run(data: bytes) -> None:
        target(data)

    run()


def within_bounds(name: str) -> Callable[[bytes], None]:
    """Return a target that also fails when one input takes more memory than HELD_LIMIT."""

    def target(data: bytes) -> None:
        tracemalloc.start()
        try:
            TARGETS[name](data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < HELD_LIMIT

    return target


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_find_nothing(name: str) -> None:
    for data in kept(name):
        TARGETS[name](data)


@pytest.mark.requirement("WIR-P4")
@pytest.mark.parametrize("name", TARGETS)
def test_drawn_inputs_find_nothing_and_take_little_memory(name: str) -> None:
    hunt(name, EXAMPLES[name], within_bounds(name))


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_is_small(name: str) -> None:
    sizes = [len(data) for data in kept(name)]
    assert 2 <= len(sizes) <= 36
    assert max(sizes) <= 512


@pytest.mark.parametrize("bug", PLANTED)
def test_negative_control_a_planted_bug_is_found_by_kept_inputs_or_drawn_ones(bug: str) -> None:
    name, plant = PLANTED[bug]
    with plant(), pytest.raises((AssertionError, ExceptionGroup, struct.error)):
        for data in kept(name):
            TARGETS[name](data)
        hunt(name, 600, TARGETS[name])


def test_negative_control_an_input_that_takes_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bytes] = []
    monkeypatch.setitem(TARGETS, "greedy", lambda data: held.append(bytes(2 * HELD_LIMIT)))
    with pytest.raises(AssertionError):
        within_bounds("greedy")(b"")
