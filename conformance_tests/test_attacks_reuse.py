"""The reuse detector: it finds every planted reuse from what was sent, and none in an honest run."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from veil_conformance import tiny_model
from veil_conformance.attacks import modular, reuse, view
from veil_conformance.attacks.modular import Elements
from veil_optimized import lwe, plaintext, transcript, wire
from veil_optimized.decoder import Decoder
from veil_optimized.model import Group, Model, load, plain_products
from veil_optimized.tape import SeededTape
from veil_optimized.transcript import Direction, Header
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

SMALL, LARGE = constants.PRIMES[0], constants.PRIMES[2]
FIELDS = (SMALL, LARGE)
EPOCH = bytes(16)
ROWS, WIDTH = 5, 12
SHAPE = replace(tiny_model.SMALL, vocabulary=40, width=8)

Pair = tuple[Path, Path]


@dataclass
class Sent:
    """One message: masks [rows, width] as integers, how often it is sent, and whether it is recorded."""

    group: int
    step: int
    masks: Elements
    times: int = 1
    recorded: bool = True


def uniform(seed: int, modulus: int, rows: int = ROWS) -> Elements:
    words = np.random.default_rng(seed).integers(0, modulus, (rows, WIDTH), dtype=np.uint64)
    return words.view(np.int64)


def honest() -> list[Sent]:
    """Return four messages under masks of their own."""
    return [
        Sent(group, step, uniform(2 * step + group, FIELDS[group])) for step in (0, 1) for group in (0, 1)
    ]


def written(folder: Path, name: str, messages: list[Sent], fields: tuple[int, ...] = FIELDS) -> Pair:
    """Return a transcript and the plaintext of random activations under these masks."""
    folder.mkdir(exist_ok=True)
    pair = folder / f"{name}.transcript", folder / f"{name}.plaintext"
    draw, profile = random.Random(name), "lwe" if constants.LWE_MODULUS in fields else "pad"
    with (
        transcript.Writer(pair[0], Header(__version__, bytes(32), profile, None, EPOCH, fields)) as writer,
        plaintext.Writer(pair[1]) as record,
    ):
        writer.record(Direction.TO_WORKER, hello())
        for sent in messages:
            modulus = fields[sent.group]
            rows = np.array([[draw.randint(-999, 999) for _ in range(WIDTH)] for _ in sent.masks])
            if sent.recorded:
                record.witness(sent.group, sent.step, torch.from_numpy(rows))
            scale = np.array([view.scale_of(modulus, WIDTH)])
            plain = modular.multiplied(modular.residues(rows, modulus), scale, modulus)
            masked = modular.added(plain, sent.masks, modulus)
            for _ in range(sent.times):
                for frame in frames(sent, masked, modulus):
                    writer.record(Direction.TO_WORKER, wire.encode(frame))
    return pair


def hello() -> bytes:
    return wire.encode(Frame(FrameKind.HELLO, EPOCH, *(0,) * 7, bytes(32)))


def frames(sent: Sent, masked: Elements, modulus: int) -> list[Frame]:
    size = wire.element_bytes(modulus)
    about = (FrameKind.MULTIPLY, EPOCH, sent.group, sent.step, WIDTH, size)
    return list(wire.split(*about, wire.pack(masked, modulus)))


def kinds(*pairs: Pair) -> set[str]:
    return {finding.kind for finding in reuse.check(pairs).findings}


def test_an_honest_run_has_no_finding(tmp_path: Path) -> None:
    report = reuse.check([written(tmp_path, "one", honest())])
    assert report.holds and report.rows == 4 * ROWS and report.elements == 4 * ROWS * WIDTH


def test_an_empty_run_shows_nothing(tmp_path: Path) -> None:
    assert not reuse.check([written(tmp_path, "one", [])]).holds


def same_row(messages: list[Sent]) -> None:
    messages[2].masks[3] = messages[0].masks[1]


def other_group(messages: list[Sent]) -> None:
    """Only the lowest 32 bits agree where one stream was cut to elements of two fields."""
    messages[1].masks[2] = messages[0].masks[4] + (messages[1].masks[2] >> 32 << 32)


def shifted(messages: list[Sent]) -> None:
    messages[3].masks[0, 4:10] = messages[1].masks[2, 1:7]


def inside_a_row(messages: list[Sent]) -> None:
    messages[0].masks[0, 6:10] = messages[0].masks[0, 0:4]


def no_mask(messages: list[Sent]) -> None:
    messages[0].masks[2] = 0


PLANTED: dict[Callable[[list[Sent]], None], str] = {
    same_row: "row",
    other_group: "row",
    shifted: "run",
    inside_a_row: "run",
    no_mask: "run",
}


@pytest.mark.requirement("RMO-G9")
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_reuse_is_found(plant: Callable[[list[Sent]], None], tmp_path: Path) -> None:
    messages = honest()
    plant(messages)
    report = reuse.check([written(tmp_path, "one", messages)])
    assert not report.holds and {finding.kind for finding in report.findings} == {PLANTED[plant]}


def test_a_shifted_run_is_named_with_its_length(tmp_path: Path) -> None:
    messages = honest()
    shifted(messages)
    (finding,) = reuse.check([written(tmp_path, "one", messages)]).findings
    assert (finding.first, finding.second) == (reuse.Place(0, 1, 0, 2), reuse.Place(0, 1, 1, 0))
    assert finding.elements == 6


def test_reuse_across_transcripts_is_found(tmp_path: Path) -> None:
    one, two = honest(), honest()
    for sent in two:
        sent.masks = uniform(100 + 2 * sent.step + sent.group, FIELDS[sent.group])
    fresh = [written(tmp_path, name, messages) for name, messages in (("one", one), ("two", two))]
    assert reuse.check(fresh).holds
    two[1].masks = one[3].masks
    again = written(tmp_path, "three", two)
    report = reuse.check([fresh[0], again])
    assert {(finding.first.transcript, finding.second.transcript) for finding in report.findings} == {(0, 1)}
    assert len(report.findings) == ROWS


def test_the_same_message_sent_again_is_no_reuse(tmp_path: Path) -> None:
    messages = honest()
    messages[1].times = 3
    report = reuse.check([written(tmp_path, "one", messages)])
    assert report.holds and report.sent_again == 2 * ROWS


def test_another_ciphertext_at_one_step_is_a_violation(tmp_path: Path) -> None:
    messages = honest()
    messages.insert(1, Sent(0, 0, uniform(77, SMALL), recorded=False))
    assert "resent" in kinds(written(tmp_path, "one", messages))


def test_what_was_not_recorded_is_a_violation(tmp_path: Path) -> None:
    messages = honest()
    messages[2].recorded = False
    assert kinds(written(tmp_path, "one", messages)) == {"unrecorded"}


def test_a_frame_that_names_another_step_is_a_violation(tmp_path: Path) -> None:
    messages = honest()
    transcript_path, _ = written(tmp_path, "lying", [replace(sent, step=sent.step + 1) for sent in messages])
    _, recorded = written(tmp_path, "true", messages)
    assert "unrecorded" in kinds((transcript_path, recorded))


def cut_and_sent_again(pair: Pair, change: bool) -> Pair:
    """Return the pair, the first message cut after its first row, and then sent whole on another stream."""
    found = transcript.read(pair[0])
    opening, whole, *rest = [record.data for record in found.records]
    frame = wire.decode(whole)
    row = len(frame.payload) // frame.rows
    piece = wire.encode(replace(frame, rows=1, payload=frame.payload[:row]))
    if change:
        other = bytes([frame.payload[0] ^ 1]) + frame.payload[1:]
        whole = wire.encode(replace(frame, payload=other))
    with transcript.Writer(pair[0], found.header) as writer:
        for data in (opening, piece, opening, whole, whole, *rest):
            writer.record(Direction.TO_WORKER, data)
    return pair


def test_a_cut_message_that_is_sent_again_is_read_once(tmp_path: Path) -> None:
    pair = written(tmp_path, "one", honest())
    before = list(view.messages(pair[0], 0))
    after = list(view.messages(cut_and_sent_again(pair, change=False)[0], 0))
    assert all(np.array_equal(*both) for both in zip(before, after, strict=True))
    report = reuse.check([pair])
    assert report.holds and report.rows == 4 * ROWS and report.sent_again == 1 + ROWS
    shown = view.recorded(pair[0], (0, 1))
    assert shown.tokens == 2 * ROWS and [len(seen.masked) for seen in shown.sightings] == [10, 10]


def test_a_cut_message_that_is_sent_otherwise_is_found(tmp_path: Path) -> None:
    assert "resent" in kinds(cut_and_sent_again(written(tmp_path, "one", honest()), change=True))


def test_noise_does_not_hide_that_a_secret_was_used_twice(tmp_path: Path) -> None:
    basis = lwe.lwe_basis(SeededTape(bytes(32)), 0, 6, WIDTH)
    zeros = torch.zeros(ROWS, WIDTH, dtype=torch.int64)
    once, noisy, fresh = (
        lwe.lwe_mask(SeededTape(bytes(32)), basis, 0, step, zeros, noisy).numpy()
        for step, noisy in ((0, False), (0, True), (1, True))
    )
    fields = (constants.LWE_MODULUS,)
    assert reuse.check([written(tmp_path, "one", [Sent(0, 0, noisy), Sent(0, 1, fresh)], fields)]).holds
    assert "row" in kinds(written(tmp_path, "two", [Sent(0, 0, noisy), Sent(0, 1, once)], fields))


def test_a_record_can_be_read_by_safetensors_and_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "plaintext"
    rows = torch.tensor([[1, -2, 32767], [4, 5, -32767]])
    writer = plaintext.Writer(path)
    writer.tokens([3, 1])
    writer.witness(0, 0, rows)
    writer.witness(1, 0, rows[:1])
    torn = path.read_bytes()
    for cut, kept in ((0, 2), (1, 1), (len(torn) // 2, 0)):
        (tmp_path / "torn").write_bytes(torn[: len(torn) - cut])
        found = plaintext.read(tmp_path / "torn")
        assert found.tokens == [3, 1] and len(found.rows) >= kept
    assert plaintext.read(path).rows[0, 1].tolist() == rows[:1].tolist()
    writer.tokens([4])
    writer.close()
    writer.close()
    tensors = load_file(path)
    assert tensors["tokens"].tolist() == [3, 1, 4] and tensors["tokens"].dtype == np.int64
    assert tensors["0.0"].tolist() == rows.tolist() and tensors["0.1"].dtype == np.int16
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("name", ["0", "a.b", "0.-1", "0.0"])
def test_a_record_with_a_wrong_name_is_refused(name: str, tmp_path: Path) -> None:
    good = plaintext.image({"0.0": np.zeros((1, 2), dtype=np.int16)})
    (tmp_path / "wrong").write_bytes(good + plaintext.image({name: np.zeros((1, 2), dtype=np.int16)}))
    with pytest.raises(Refused) as refused:
        plaintext.read(tmp_path / "wrong")
    assert refused.value.reason is Refusal.FRAME_MALFORMED


def test_a_header_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(plaintext.LENGTH.pack(40) + os.urandom(400).replace(b"{", b"."))
    with pytest.raises(Refused):
        plaintext.read(tmp_path / "noise")


def recorded_of(model: Model, steps: list[list[int]], path: Path) -> plaintext.Record:
    """Return the record of plain inference in these steps."""
    with plaintext.Writer(path) as writer:
        count = [0]

        def products(group: Group, rows: torch.Tensor) -> torch.Tensor:
            writer.witness(group.number, count[0], rows)
            return plain_products(group, rows)

        decoder = Decoder(model, products)
        for number, tokens in enumerate(steps):
            count[0] = number
            writer.tokens(tokens)
            decoder.step(tokens)
    return plaintext.read(path)


def test_a_record_of_other_tokens_is_not_truthful(tmp_path: Path) -> None:
    model = load(tiny_model.write(tmp_path / "integer.safetensors", SHAPE, b"recorded"))
    record = recorded_of(model, [[3, 1, 4], [1], [5]], tmp_path / "plaintext")
    assert reuse.truthful(model, record)
    assert not reuse.truthful(model, replace(record, tokens=[3, 1, 4, 1, 6]))
    assert not reuse.truthful(model, replace(record, tokens=[3, 1]))
    assert not reuse.truthful(model, plaintext.Record())
    wrong = {key: rows + (key == (1, 2)) for key, rows in record.rows.items()}
    assert not reuse.truthful(model, replace(record, rows=wrong))
    ends_early = dict(list(record.rows.items())[:-3])
    assert reuse.truthful(model, replace(record, rows=ends_early))
