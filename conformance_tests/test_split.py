"""Mode `split`: what leaves the enclave, what comes back, and what either side refuses."""

import gc
import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from veil_conformance import tiny_model
from veil_conformance.strategies import encoder_shapes, precisions, samplings, shapes
from veil_optimized import decoder, encoder, sequences, split, transcript, wire
from veil_optimized.generate import Choose, Drawn, Engine, Step, batch_steps, generate, most_likely
from veil_optimized.launching import start_worker
from veil_optimized.model import Group, Model, load, plain_products
from veil_optimized.session import Channel
from veil_optimized.split import SplitDecoder, SplitEncoder
from veil_optimized.tabulated import draw
from veil_optimized.tape import SeededTape
from veil_optimized.transcript import Header, Message
from veil_optimized.transport import LocalTransport, RecordingTransport, StreamLost
from veil_optimized.worker import CACHE_LIMIT, Placed, Worker, inference, place
from veil_reference import encoder as reference_encoder
from veil_reference import model as reference_model
from veil_spec import __version__, constants
from veil_spec.architecture import DecoderShape, EncoderShape, ModelShape, Precision
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind, Sampling

EPOCH = bytes(range(16))
ZEROS = (0, 0, 0, 0, 0, 0, 0)
MODULUS = 2**48 - 59
REFUSAL = wire.encode(wire.REFUSAL)
SEED = bytes(range(32))
UNLABELLED = replace(tiny_model.ENCODER, pooled=False, labels=0)
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, shape: ModelShape, precision: Precision = Precision.W16A16) -> Path:
    """Return the file of a random model, each of a shape under a name of its own: files stay mapped."""
    made = tiny_model.model_bytes(shape, tiny_model.tensors(shape, b"split", precision), precision)
    path = folder / hashlib.sha256(made).hexdigest()
    if not path.exists():
        path.write_bytes(made)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for this module's models."""
    return tmp_path_factory.mktemp("split")


@pytest.fixture
def model(folder: Path) -> Model:
    """Return a small decoder with every switch on."""
    return load(write(folder, tiny_model.SWITCHED))


def peer_of(model: Model, cache_limit: int = CACHE_LIMIT) -> Worker:
    """Return a worker that infers."""
    weights = place(model, "cpu")
    return Worker(weights, model.digest, "cpu", inference(model, weights, "cpu", cache_limit))


def greeted(model: Model, handle: Callable[[bytes], Iterator[bytes]] | None = None) -> Channel:
    """Return a channel to a worker in this process, after its WELCOME."""
    channel = Channel(LocalTransport(handle or peer_of(model).handle), EPOCH)
    channel.hello(model.digest)
    return channel


def refusal_of(action: Callable[[], object]) -> Refusal:
    """Return the name under which an action is refused."""
    with pytest.raises(Refused) as caught:
        action()
    return caught.value.reason


# The same words as plain inference


@dataclass(frozen=True)
class Batch:
    """Prompts, how each chooses its tokens, and a token that ends a sequence."""

    prompts: Sequence[Sequence[int]]
    choices: Sequence[Choose]
    last: int

    def run(self, engine: Engine[Any]) -> list[Mapping[int, Step]]:
        """Return every step of the batch."""
        return list(self.steps(engine))

    def steps(self, engine: Engine[Any]) -> Iterator[Mapping[int, Step]]:
        """Yield the steps of the batch one by one."""
        return batch_steps(engine, self.prompts, 3, lambda _, token: token == self.last, self.choices)


@st.composite
def batches(draw: st.DrawFn, shape: DecoderShape) -> Batch:
    """Return prompts of unequal length for a model, some greedy and some sampled."""
    token = st.integers(0, shape.vocabulary - 1)
    prompts = draw(st.lists(st.lists(token, min_size=1, max_size=5), min_size=1, max_size=3))
    choices: list[Choose] = []
    for place_ in range(len(prompts)):
        sampling = draw(st.none() | samplings())
        choices.append(Drawn(sampling, SeededTape(SEED), place_) if sampling else most_likely)
    return Batch(prompts, choices, draw(token))


def same(ours: Sequence[Mapping[int, Step]], theirs: Sequence[Mapping[int, Step]]) -> bool:
    """Return whether all tokens and all logits are equal."""
    flat = [[(n, made.token, made.logits.tolist()) for n, made in step.items()] for step in ours]
    return flat == [[(n, made.token, made.logits.tolist()) for n, made in step.items()] for step in theirs]


@pytest.mark.requirement("MDL-P5")
@QUICK
@given(shape=shapes(), precision=precisions, data=st.data())
def test_a_decoder_of_any_switches_says_in_split_what_it_says_plainly(
    folder: Path, shape: DecoderShape, precision: Precision, data: st.DataObject
) -> None:
    loaded, batch = load(write(folder, shape, precision)), data.draw(batches(shape))
    plain = batch.run(decoder.Decoder(loaded))
    assert same(batch.run(SplitDecoder(loaded, greeted(loaded))), plain)


@pytest.mark.requirement("MDL-P5")
@QUICK
@given(shape=encoder_shapes(), precision=precisions, data=st.data())
@example(tiny_model.ENCODER, Precision.W16A16, None)
def test_an_encoder_says_in_split_what_it_says_plainly(
    folder: Path, shape: EncoderShape, precision: Precision, data: st.DataObject | None
) -> None:
    token, kind = st.integers(0, shape.vocabulary - 1), st.integers(0, shape.types - 1)
    pair = st.lists(st.tuples(token, kind), min_size=1, max_size=shape.context)
    drawn = data.draw(st.lists(pair, min_size=1, max_size=3)) if data else [[(1, 0), (2, 1)], [(3, 0)]]
    tokens, types = ([[each[n] for each in part] for part in drawn] for n in (0, 1))
    loaded = load(write(folder, shape, precision))
    plain = encoder.Encoder(loaded)
    found = SplitEncoder(loaded, greeted(loaded)).labels(tokens, types)
    assert torch.equal(found, plain.labels(plain.streams(tokens, types)))
    loaded = load(write(folder, replace(shape, pooled=False, labels=0), precision))
    streams = SplitEncoder(loaded, greeted(loaded)).streams(tokens, types)
    expected = encoder.Encoder(loaded).streams(tokens, types)
    assert [each.tolist() for each in streams] == [each.tolist() for each in expected]


@pytest.mark.requirement("MDL-P5")
def test_a_worker_process_infers_for_a_decoder_and_for_two_streams_at_a_time(
    folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path, tiny_model.SWITCHED)
    loaded = load(path)
    batch = Batch([[1, 2, 3], [4]], [most_likely, Drawn(Sampling(), SeededTape(SEED))], 9)
    with (
        start_worker(path) as address,
        split.epoch(loaded, address) as channel,
        split.epoch(loaded, address) as other,
    ):
        steps = (batch.steps(SplitDecoder(loaded, each)) for each in (channel, other))
        both = list(zip(*steps, strict=True))
    plain = batch.run(decoder.Decoder(loaded))
    assert same([ours for ours, _ in both], plain)
    assert same([theirs for _, theirs in both], plain)


# What the worker sees


def recorded(
    model: Model, path: Path, run: Callable[[Channel], object], peer: Worker | None = None
) -> transcript.Transcript:
    """Return the transcript of what `run` does with a worker in this process."""
    inner = LocalTransport((peer or peer_of(model)).handle)
    header = Header(__version__, model.digest, split.PROFILE, None, EPOCH, ())
    with Channel(RecordingTransport(inner, path, header), EPOCH) as channel:
        channel.hello(model.digest)
        run(channel)
    return transcript.read(path)


def centred(message: Message) -> list[list[int]]:
    """Return a message's words."""
    return [[int(e) - MODULUS if 2 * e > MODULUS else int(e) for e in row] for row in message.elements]


def sent_rows(found: transcript.Transcript) -> dict[int, list[list[int]]]:
    """Return by sequence all rows that were sent, each message at the step where the rows before it end."""
    rows: dict[int, list[list[int]]] = {}
    for message in transcript.messages(found):
        if message.kind is FrameKind.EMBEDDED:
            before = rows.setdefault(message.group, [])
            assert message.step == len(before)
            before += centred(message)
    return rows


def kinds(found: transcript.Transcript) -> list[tuple[FrameKind, int, int, int]]:
    """Return kind, sequence, step and rows of every message."""
    about = transcript.messages(found)
    return [(each.kind, each.group, each.step, len(each.elements)) for each in about]


@pytest.mark.requirement("MDL-P4")
def test_rows_are_the_tokens_of_the_prompt_and_then_every_new_one_but_the_last(
    model: Model, folder: Path, tmp_path: Path
) -> None:
    prompts, ended = [[3, 1, 4, 1], [5], [2, 6]], 1
    made: list[Mapping[int, Step]] = []

    def run(channel: Channel) -> None:
        steps = batch_steps(SplitDecoder(model, channel), prompts, 3, lambda place_, _: place_ == ended)
        made.extend(steps)

    found = recorded(model, tmp_path / "tape", run)
    table = reference_model.load(write(folder, tiny_model.SWITCHED))
    new = [[step[n].token for step in made if n in step] for n in range(3)]
    assert [len(each) for each in new] == [3, 1, 3]
    tokens = [prompt + more[:-1] for prompt, more in zip(prompts, new, strict=True)]
    expected = {n: [table.look_up("embedding", token) for token in each] for n, each in enumerate(tokens)}
    assert sent_rows(found) == expected
    first = [(0, 0, 4), (1, 0, 1), (2, 0, 2)]
    later = [(0, 4, 1), (2, 2, 1), (0, 5, 1), (2, 3, 1)]
    asked = [(FrameKind.EMBEDDED, *each) for each in first + later]
    answered = [(FrameKind.ANSWER, *each[1:3], 1) for each in asked]
    assert kinds(found) == [each for pair in zip(asked, answered, strict=True) for each in pair]
    sent = [each for each in found.records if each.direction is transcript.Direction.TO_WORKER]
    assert len(sent) == 1 + len(asked)
    assert wire.decode(sent[0].data) == Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest)


@pytest.mark.requirement("MDL-P4")
@pytest.mark.parametrize("shape", [tiny_model.ENCODER, UNLABELLED])
def test_an_encoder_sends_the_stream_before_its_first_layer(
    folder: Path, tmp_path: Path, shape: EncoderShape
) -> None:
    path, tokens, types = write(folder, shape), [[3, 1, 4], [5]], [[0, 1, 1], [0]]
    loaded = load(path)

    def run(channel: Channel) -> None:
        engine = SplitEncoder(loaded, channel)
        (engine.labels if shape.labels else engine.streams)(tokens, types)

    found = recorded(loaded, tmp_path / "tape", run)
    plain = reference_encoder.Encoder.of(reference_model.load(path))
    expected = [
        [list(plain.embed(n, *each)) for n, each in enumerate(zip(*pair, strict=True))]
        for pair in zip(tokens, types, strict=True)
    ]
    asked = [each for each in transcript.messages(found) if each.kind is FrameKind.EMBEDDED]
    assert [centred(each) for each in asked] == expected
    rows = [1, 1] if shape.labels else [3, 1]
    assert [about[3] for about in kinds(found) if about[0] is FrameKind.ANSWER] == rows


@pytest.mark.requirement("MDL-P4")
def test_a_conversation_sends_its_earlier_turns_as_they_were(model: Model, tmp_path: Path) -> None:
    def run(channel: Channel) -> None:
        engine = SplitDecoder(model, channel)
        first = generate(engine, [1, 2], 2)
        generate(engine, [1, 2, *first.tokens, 7], 2)

    messages = list(transcript.messages(recorded(model, tmp_path / "tape", run)))
    asked = [each for each in messages if each.kind is FrameKind.EMBEDDED]
    assert [(each.group, each.step, len(each.elements)) for each in asked] == [
        (0, 0, 2), (0, 2, 1), (0, 0, 5), (0, 5, 1)
    ]  # fmt: skip
    before = [row for each in asked[:2] for row in centred(each)]
    assert centred(asked[2])[:3] == before


ROWS = ((2**62, 2**63 - 2**62, 2**63), (2**63, 2**62, 2**63 - 2**62), (2**62, 2**62, 2**63))
"""Weights of a sanitizer that draws one of three tokens for each of three, in units of 2**-64."""


def sanitized(private: Sequence[int], seed: bytes) -> list[int]:
    """Return tokens 3 to 5 for private tokens 0 to 2, by the sanitizer's draw."""
    return [3 + draw(ROWS[token], SeededTape(seed), n).index for n, token in enumerate(private)]


@cache
def colliding() -> tuple[tuple[Sequence[int], bytes], tuple[Sequence[int], bytes]]:
    """Return two private prompts, each with the seed of its sanitizer, of equal sanitized text."""
    found: dict[tuple[int, ...], tuple[Sequence[int], bytes]] = {}
    for number in range(256):
        private, seed = [(number + n) % 3 for n in range(3)], bytes([number]) * 32
        other = found.setdefault(tuple(sanitized(private, seed)), (private, seed))
        if list(other[0]) != private:
            return other, (private, seed)
    raise AssertionError("no collision")


def seen(model: Model, path: Path, tokens: Sequence[int]) -> bytes:
    """Return the transcript file of a sampled generation in mode split."""

    def run(channel: Channel) -> None:
        generate(SplitDecoder(model, channel), tokens, 4, choose=Drawn(Sampling(), SeededTape(SEED)))

    recorded(model, path, run)
    return path.read_bytes()


@pytest.mark.requirement("MDL-G3")
def test_prompts_of_equal_sanitized_text_give_byte_identical_transcripts(
    model: Model, tmp_path: Path
) -> None:
    (one, first), (two, second) = colliding()
    assert one != two
    views = [
        seen(model, tmp_path / f"{n}", sanitized(*pair))
        for n, pair in enumerate([(one, first), (two, second)])
    ]
    assert views[0] == views[1]
    assert len(views[0]) > 1000


@pytest.mark.requirement("MDL-G3")
def test_negative_control_an_enclave_that_embeds_the_private_text_is_told_apart(
    model: Model, tmp_path: Path
) -> None:
    (one, _), (two, _) = colliding()
    assert seen(model, tmp_path / "0", one) != seen(model, tmp_path / "1", two)


# The worker


def message(
    number: int, step: int, rows: Sequence[Sequence[int]], kind: FrameKind = FrameKind.EMBEDDED
) -> list[bytes]:
    """Return the frame of these words."""
    words = torch.tensor(rows).numpy()
    return [
        wire.encode(frame)
        for frame in wire.split(kind, EPOCH, number, step, len(rows[0]), 6, wire.pack_words(words))
    ]


def rows_of(count: int, width: int = 7, value: int = 5) -> list[list[int]]:
    """Return rows of small words."""
    return [[value * n + m for m in range(width)] for n in range(count)]


def welcomed(model: Model, cache_limit: int = CACHE_LIMIT) -> Worker:
    """Return a worker after its WELCOME."""
    peer = peer_of(model, cache_limit)
    list(peer.handle(wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest))))
    return peer


def replies(peer: Worker, *frames: bytes) -> list[bytes]:
    """Return all that a worker answers."""
    return [reply for frame in frames for reply in peer.handle(frame)]


@pytest.mark.requirement("WIR-P12")
def test_a_decoder_answers_with_the_logits_after_the_last_row(model: Model) -> None:
    peer, plain = welcomed(model), decoder.Decoder(model)
    state = plain.new_cache()
    for step, count in ((0, 3), (3, 1), (4, 2)):
        (reply,) = replies(peer, *message(11, step, rows_of(count)))
        frame = wire.decode(reply)
        expected = plain.through([state], [torch.tensor(rows_of(count))])
        assert frame == replace(
            frame, kind=FrameKind.ANSWER, epoch=EPOCH, group=11, step=step, first_row=0, rows=1, total_rows=1
        )
        assert (frame.columns, frame.element_bytes) == (model.shape.vocabulary, 6)
        assert wire.unpack_words(frame.payload, 9, constants.HIDDEN_LIMIT).tolist() == expected[0].tolist()


@pytest.mark.requirement("WIR-P12")
@pytest.mark.parametrize(("shape", "size"), [(tiny_model.ENCODER, (1, 3)), (UNLABELLED, (4, 6))])
def test_an_encoder_answers_with_labels_or_with_a_row_for_each_position(
    folder: Path, shape: EncoderShape, size: tuple[int, int]
) -> None:
    loaded = load(write(folder, shape))
    plain, rows = encoder.Encoder(loaded), torch.tensor(rows_of(4, 6))
    (reply,) = replies(welcomed(loaded), *message(0, 0, rows.tolist()))
    frame = wire.decode(reply)
    assert (frame.kind, frame.group, frame.step, frame.total_rows, frame.columns) == (
        FrameKind.ANSWER, 0, 0, *size
    )  # fmt: skip
    streams = plain.through([rows])
    expected = plain.labels(streams) if shape.labels else streams[0]
    words = wire.unpack_words(frame.payload, size[0] * size[1], constants.RESIDUAL_LIMIT)
    assert words.reshape(size).tolist() == expected.tolist()


def altered(frame: bytes, **changes: int) -> bytes:
    """Return the frame with other fields."""
    return wire.encode(replace(wire.decode(frame), **changes))  # type: ignore[arg-type]


ONE = rows_of(1)
BAD: dict[str, list[bytes]] = {
    "a step ahead": message(0, 3, ONE),
    "a step behind": message(0, 1, ONE),
    "a sequence that never began": message(1, 2, ONE),
    "more than the context": message(0, 2, rows_of(7)),
    "more than the context at once": message(1, 0, rows_of(9)),
    "sequence 16": message(constants.SEQUENCE_LIMIT, 0, ONE),
    "sequence 2**32 - 1": message(2**32 - 1, 0, ONE),
    "other columns": message(0, 2, rows_of(1, 6)),
    "a word of 2**46": message(0, 2, [[2**46] * 7]),
    "a word of -2**46": message(0, 2, [[-(2**46)] * 7]),
    "an element of p": [altered(message(0, 2, ONE)[0], payload=MODULUS.to_bytes(6, "little") * 7)],  # type: ignore[arg-type]
    "rows that do not come": [altered(message(0, 2, ONE)[0], total_rows=2), *message(1, 0, ONE)],
    "an ANSWER": message(0, 2, ONE, FrameKind.ANSWER),
    "another epoch": [altered(message(0, 2, ONE)[0], epoch=bytes(16))],  # type: ignore[arg-type]
}
"""What a worker refuses when it has two rows of sequence 0, of width 7."""


@pytest.mark.requirement("WIR-P13")
@pytest.mark.parametrize("bad", BAD)
def test_a_worker_refuses_a_message_out_of_turn_before_it_computes(
    model: Model, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = welcomed(model)
    assert len(replies(peer, *message(0, 0, rows_of(2)))) == 1

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("computed")

    monkeypatch.setattr(decoder.Decoder, "through", never)
    assert replies(peer, *BAD[bad]) == [REFUSAL]
    assert peer.ended
    assert replies(peer, *message(0, 0, ONE)) == []


@pytest.mark.requirement("WIR-P13")
def test_the_ends_of_what_a_worker_takes(model: Model) -> None:
    peer, edge = welcomed(model), constants.RESIDUAL_LIMIT
    good = [(0, 0, rows_of(2)), (15, 0, [[edge] * 7, [-edge] * 7]), (0, 2, rows_of(6)), (0, 0, rows_of(8))]
    for about in [*good, (15, 2, ONE)]:
        (reply,) = replies(peer, *message(*about))
        assert wire.decode(reply).kind is FrameKind.ANSWER


@pytest.mark.requirement("WIR-P13")
def test_a_sequence_begins_anew_at_step_0(model: Model) -> None:
    peer = welcomed(model)
    first = replies(peer, *message(0, 0, rows_of(2)), *message(0, 2, ONE))
    assert replies(peer, *message(0, 0, rows_of(2)), *message(0, 2, ONE)) == first


@pytest.mark.requirement("WIR-P13")
@pytest.mark.parametrize("bad", [message(0, 1, rows_of(1, 6)), message(0, 0, rows_of(9, 6))])
def test_a_worker_keeps_nothing_of_an_encoders_sequence(folder: Path, bad: list[bytes]) -> None:
    peer = welcomed(load(write(folder, tiny_model.ENCODER)))
    assert len(replies(peer, *message(0, 0, rows_of(1, 6)))) == 1
    assert replies(peer, *bad) == [REFUSAL]


@pytest.mark.requirement("WIR-P13")
def test_a_worker_forgets_all_sequences_with_the_stream(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[decoder.Cache]] = []
    new_cache = decoder.Decoder.new_cache

    def noted(self: decoder.Decoder) -> decoder.Cache:
        kept = new_cache(self)
        made.append(weakref.ref(kept))
        return kept

    monkeypatch.setattr(decoder.Decoder, "new_cache", noted)
    weights = place(model, "cpu")
    infer = inference(model, weights)
    hello = wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest))
    peer = Worker(weights, model.digest, "cpu", infer)
    assert len(replies(peer, hello, *message(0, 0, ONE), *message(1, 0, ONE))) == 3
    assert sum(ref() is not None for ref in made) > 0
    assert replies(peer, b"nonsense") == [REFUSAL]
    gc.collect()
    assert [ref() for ref in made] == [None] * len(made)
    again = Worker(weights, model.digest, "cpu", infer)
    assert replies(again, hello, *message(0, 1, ONE))[1:] == [REFUSAL]


@QUICK
@given(shape=shapes(), counts=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_no_cache_holds_more_bytes_than_it_is_counted_with(
    folder: Path, shape: DecoderShape, counts: list[int]
) -> None:
    engine = decoder.Decoder(load(write(folder, replace(shape, context=200))))
    kept, cached = sequences.Decoding(engine, CACHE_LIMIT), engine.new_cache()
    for count in (61 * count for count in counts):
        if cached.position + count <= 200:
            cached.reserve(count)
            cached.position += count
            assert cached.bytes <= kept._room(cached.position)


def test_a_worker_keeps_no_more_bytes_than_it_is_told(model: Model) -> None:
    engine = decoder.Decoder(model)
    one = sequences.Decoding(engine, CACHE_LIMIT)._room(8)
    peer = welcomed(model, 2 * one)
    asked = [message(0, 0, ONE), message(1, 0, ONE), message(0, 0, rows_of(8)), message(1, 1, rows_of(7))]
    assert all(len(replies(peer, *each)) == 1 for each in asked)
    assert not peer.ended
    assert replies(peer, *message(2, 0, ONE)) == [REFUSAL]
    assert replies(welcomed(model, one - 1), *message(0, 0, ONE)) == [REFUSAL]


def test_a_worker_prepares_nothing_for_split_until_it_is_asked(model: Model) -> None:
    begun: list[int] = []
    weights = place(model, "cpu")
    infer = inference(model, weights)
    assert infer is not None

    def counted() -> sequences.Sequences:
        begun.append(1)
        return infer()

    peer = Worker(weights, model.digest, "cpu", counted)
    group = model.groups[0]
    data = wire.pack([1] * 7, group.modulus)
    width = wire.element_bytes(group.modulus)
    multiply = wire.encode(wire.split(FrameKind.MULTIPLY, EPOCH, 0, 0, 7, width, data)[0])
    hello = wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest))
    assert len(replies(peer, hello, multiply)) == 2
    assert begun == []
    assert len(replies(peer, *message(0, 0, ONE), multiply, *message(0, 1, ONE))) == 3
    assert begun == [1]


def test_a_worker_of_bare_groups_refuses_mode_split() -> None:
    peer = Worker({0: Placed(torch.ones(2, 7, dtype=torch.int16), MODULUS)}, bytes(32))
    hello = wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, bytes(32)))
    assert replies(peer, hello, *message(0, 0, ONE))[1:] == [REFUSAL]


# A worker that lies


def answer(columns: int, value: int = 1, rows: int = 1, **changes: int) -> list[bytes]:
    """Return an ANSWER with one value everywhere."""
    (frame,) = message(0, 0, [[value] * columns] * rows, FrameKind.ANSWER)
    return [altered(frame, **changes)]


LIES: dict[str, tuple[list[bytes], Refusal]] = {
    "a logit above the range": (answer(9, 2**30), Refusal.FRAME_MALFORMED),
    "a logit below the range": (answer(9, -(2**30)), Refusal.FRAME_MALFORMED),
    "an element of p": (
        answer(9, payload=MODULUS.to_bytes(6, "little") * 9),  # type: ignore[arg-type]
        Refusal.NOT_IN_FIELD,
    ),
    "another sequence": (answer(9, group=1), Refusal.FRAME_UNEXPECTED),
    "another step": (answer(9, step=1), Refusal.FRAME_UNEXPECTED),
    "another kind": (answer(9, kind=FrameKind.PRODUCT), Refusal.FRAME_UNEXPECTED),
    "its question": (answer(9, kind=FrameKind.EMBEDDED), Refusal.FRAME_UNEXPECTED),
    "another epoch": (answer(9, epoch=bytes(16)), Refusal.FRAME_UNEXPECTED),  # type: ignore[arg-type]
    "too many rows": (answer(9, rows=2), Refusal.FRAME_UNEXPECTED),
    "the promise of a row": (answer(9, total_rows=2), Refusal.FRAME_UNEXPECTED),
    "too few columns": (answer(8), Refusal.FRAME_UNEXPECTED),
    "too many columns": (answer(10), Refusal.FRAME_UNEXPECTED),
    "a refusal": ([REFUSAL], Refusal.WORKER_LOST),
    "nothing": ([], Refusal.WORKER_LOST),
    "a frame cut short": ([answer(9)[0][:-1]], Refusal.FRAME_TRUNCATED),
    "elements of 5 bytes": (
        [answer(9)[0][:48] + b"\5" + (45).to_bytes(4, "little") + bytes(45)],
        Refusal.FRAME_MALFORMED,
    ),
}
"""What a worker answers to the first message of sequence 0, and how it is refused."""


class Lying:
    """A worker in this process that answers EMBEDDED with a lie; `sent` is what it was sent."""

    def __init__(self, model: Model, lie: list[bytes], rewrite: bool = True) -> None:
        self._peer, self._lie, self._rewrite = peer_of(model), lie, rewrite
        self.sent: list[bytes] = []

    def __call__(self, data: bytes) -> Iterator[bytes]:
        """Answer one frame."""
        self.sent.append(data)
        lying = self._rewrite and wire.decode(data).kind is FrameKind.EMBEDDED
        yield from self._lie if lying else self._peer.handle(data)


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_worker_is_refused_by_name_and_sent_nothing_more(model: Model, lie: str) -> None:
    frames, expected = LIES[lie]
    peer = Lying(model, frames)
    channel = greeted(model, peer)
    engine = SplitDecoder(model, channel)
    caches = [engine.new_cache(), engine.new_cache()]
    assert refusal_of(lambda: engine.advance(caches, [[1], [2]])) is expected
    assert (channel.ended, len(peer.sent)) == (True, 2)
    assert refusal_of(lambda: engine.advance([engine.new_cache()], [[1]])) is Refusal.WORKER_LOST
    assert len(peer.sent) == 2


def test_the_ends_of_what_an_enclave_takes(model: Model, folder: Path) -> None:
    for value in (constants.HIDDEN_LIMIT, -constants.HIDDEN_LIMIT):
        engine = SplitDecoder(model, greeted(model, Lying(model, answer(9, value))))
        assert engine.advance([engine.new_cache()], [[1]]).tolist() == [[value] * 9]
    plain = load(write(folder, UNLABELLED))
    for value in (constants.RESIDUAL_LIMIT, -constants.RESIDUAL_LIMIT):
        encoding = SplitEncoder(plain, greeted(plain, Lying(plain, answer(6, value))))
        assert encoding.streams([[1]])[0].tolist() == [[value] * 6]
        channel = greeted(plain, Lying(plain, answer(6, value + value // abs(value))))
        with pytest.raises(Refused, match="FRAME_MALFORMED: the worker's answer was refused: a word beyond"):
            SplitEncoder(plain, channel).streams([[1]])
        assert channel.ended


class Breaking:
    """A transport whose first stream breaks at the first message; `streams` counts what was opened."""

    def __init__(self, model: Model) -> None:
        self._model, self.streams = model, 1
        self._inner = LocalTransport(peer_of(model).handle)
        self._broken = False

    def send(self, data: bytes) -> None:
        """Pass on."""
        self._broken = self.streams == 1 and wire.decode(data).kind is FrameKind.EMBEDDED
        self._inner.send(data)

    def receive(self) -> bytes:
        """Pass on, or break."""
        if self._broken:
            raise StreamLost("broken")
        return self._inner.receive()

    def reopen(self) -> None:
        """Begin another stream."""
        self.streams, self._broken = self.streams + 1, False
        self._inner = LocalTransport(peer_of(self._model).handle)

    def close(self) -> None:
        """Pass on."""
        self._inner.close()


def test_a_stream_that_breaks_in_a_sequence_is_a_lost_worker(model: Model) -> None:
    transport = Breaking(model)
    channel = Channel(transport, EPOCH)
    channel.hello(model.digest)
    engine = SplitDecoder(model, channel)
    assert refusal_of(lambda: engine.advance([engine.new_cache()], [[1]])) is Refusal.WORKER_LOST
    assert (channel.ended, channel.resumed, transport.streams) == (True, 0, 1)


@pytest.mark.requirement("WIR-P8")
def test_an_encoders_message_is_sent_again_on_another_stream(folder: Path) -> None:
    loaded = load(write(folder, tiny_model.ENCODER))
    transport = Breaking(loaded)
    channel = Channel(transport, EPOCH)
    channel.hello(loaded.digest)
    found = SplitEncoder(loaded, channel).labels([[1, 2]])
    assert found.tolist() == [encoder.labels(loaded, [1, 2]).tolist()]
    assert (channel.resumed, transport.streams) == (1, 2)


# What the enclave refuses by itself


def test_an_epoch_has_so_many_sequences_at_a_time_whoever_asks(model: Model) -> None:
    channel = greeted(model)
    engines = [SplitDecoder(model, channel), SplitDecoder(model, channel)]
    kept = [engines[n % 2].new_cache() for n in range(constants.SEQUENCE_LIMIT)]
    assert [each.number for each in kept] == list(range(constants.SEQUENCE_LIMIT))
    engines[0].advance(kept, [[n % 9] for n in range(16)])
    with pytest.raises(Refused, match="MODE_UNAVAILABLE: mode split keeps 16 sequences"):
        engines[0].new_cache()
    assert not channel.ended
    del kept[3]
    engines[1].advance([anew := engines[0].new_cache()], [[1, 2]])
    assert (anew.number, anew.position) == (3, 2)
    engines[1].advance([kept[2], kept[3]], [[1], [1]])
    assert [each.position for each in kept] == [1, 1, 2, 2, *[1] * 11]


WRONG: dict[str, tuple[list[list[int]], Refusal]] = {
    "no sequences": ([], Refusal.PROMPT_EMPTY),
    "an empty prompt": ([[1], []], Refusal.PROMPT_EMPTY),
    "a token too high": ([[1], [9]], Refusal.TOKEN_OUT_OF_RANGE),
    "a token below 0": ([[1], [-1, 2]], Refusal.TOKEN_OUT_OF_RANGE),
    "more than the context": ([[1], [1] * 9], Refusal.CONTEXT_EXCEEDED),
}
"""Tokens that no decoder takes."""


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_tokens_are_refused_before_anything_is_sent(model: Model, wrong: str) -> None:
    tokens, expected = WRONG[wrong]
    peer = Lying(model, [], rewrite=False)
    channel = greeted(model, peer)
    engine = SplitDecoder(model, channel)
    caches = [engine.new_cache() for _ in tokens]
    assert refusal_of(lambda: engine.advance(caches, tokens)) is expected
    assert (len(peer.sent), channel.ended) == (1, False)


def test_a_model_of_another_structure_or_without_what_is_asked_is_refused(model: Model, folder: Path) -> None:
    channel = greeted(model)
    assert refusal_of(lambda: SplitEncoder(model, channel)) is Refusal.MODEL_UNSUPPORTED
    labelled = load(write(folder, tiny_model.ENCODER))
    assert refusal_of(lambda: SplitDecoder(labelled, channel)) is Refusal.MODEL_UNSUPPORTED
    assert refusal_of(lambda: SplitEncoder(labelled, channel).streams([[1]])) is Refusal.MODEL_UNSUPPORTED
    plain = load(write(folder, UNLABELLED))
    assert refusal_of(lambda: SplitEncoder(plain, channel).labels([[1]])) is Refusal.MODEL_UNSUPPORTED


def test_nothing_is_embedded_before_the_worker_has_named_the_model(model: Model) -> None:
    sent: list[bytes] = []

    def handle(data: bytes) -> Iterator[bytes]:
        sent.append(data)
        yield wire.encode(Frame(FrameKind.WELCOME, EPOCH, *ZEROS, bytes(32)))

    channel = Channel(LocalTransport(handle), EPOCH)
    assert refusal_of(lambda: channel.hello(model.digest)) is Refusal.MODEL_MISMATCH
    engine = SplitDecoder(model, channel)
    assert refusal_of(lambda: engine.advance([engine.new_cache()], [[1]])) is Refusal.WORKER_LOST
    fresh = Channel(LocalTransport(handle), EPOCH)
    engine = SplitDecoder(model, fresh)
    assert refusal_of(lambda: engine.advance([engine.new_cache()], [[1]])) is Refusal.FRAME_UNEXPECTED
    assert len(sent) == 1


@pytest.mark.requirement("WIR-P9")
def test_a_long_message_is_computed_piece_by_piece(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor(rows_of(8, value=2**20))
    whole = decoder.Decoder(model)
    expected = whole.through([whole.cache], [rows])
    widest: list[int] = []

    def products(group: Group, inputs: torch.Tensor) -> torch.Tensor:
        widest.append(len(inputs))
        return plain_products(group, inputs)

    monkeypatch.setattr(sequences, "PIECE", 3)
    kept = sequences.Decoding(decoder.Decoder(model, products), CACHE_LIMIT)
    kept.begin(0, 0, 8, 7)
    assert torch.equal(kept.answer(0, 0, rows), expected)
    assert max(widest) == 3


@pytest.mark.requirement("MDL-P5")
def test_a_prompt_of_several_exchanges_gets_the_same_words(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [1, 2, 3, 4, 5, 6]
    expected = decoder.Decoder(model).step(tokens)
    monkeypatch.setattr(split, "PIECE", 2)
    with greeted(model) as channel:
        engine = SplitDecoder(model, channel)
        assert torch.equal(engine.advance([engine.new_cache()], [tokens]), expected)
        assert channel.round_trips == 3
