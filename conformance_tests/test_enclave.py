"""The enclave against honest and lying workers, in one process and in two."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from veil_optimized import decoder as decoder_module
from veil_optimized import transcript, wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave, Message, epoch
from veil_optimized.generate import generate
from veil_optimized.launching import start_worker
from veil_optimized.model import Model, load
from veil_optimized.profiles import Masking, PadCover, profile_of
from veil_optimized.remo import LocalMinter, Ratchet
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_reference.decoder import logits as reference_logits
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import FrameKind

PROMPT = [3, 1, 4, 1, 5]
Tamper = Callable[[bytes], list[bytes]]


@pytest.fixture(scope="module")
def model(imported: Path) -> Model:
    """Return the small integer model."""
    return load(imported / INTEGER_FILE)


def _honest(data: bytes) -> list[bytes]:
    return [data]


def _enclave(
    model: Model, tamper: Tamper = _honest, masking: Masking | None = None
) -> tuple[Enclave, list[bytes]]:
    worker, sent = Worker(place(model, "cpu"), model.digest), []

    def handler(data: bytes) -> Iterator[bytes]:
        sent.append(data)
        for answer in worker.handle(data):
            yield from tamper(answer) if wire.decode(answer).kind is FrameKind.PRODUCT else [answer]

    enclave = Enclave(model, Channel(LocalTransport(handler), bytes(16)), masking)
    enclave.open()
    return enclave, sent


@pytest.mark.requirement("RMO-R8")
@pytest.mark.parametrize("masking", [Masking(), Masking("rank", Fraction(1, 2)), Masking(check=False)])
def test_masked_generation_equals_plain_generation_and_the_reference(
    model: Model, imported: Path, masking: Masking
) -> None:
    enclave, _ = _enclave(model, masking=masking)
    enclave.mint_ahead(1, 4)
    masked = generate(Decoder(model, enclave.products), PROMPT, 6)
    plain = generate(Decoder(model), PROMPT, 6)
    assert masked.tokens == plain.tokens
    assert torch.equal(masked.logits, plain.logits)
    expected = reference_logits(imported / INTEGER_FILE, PROMPT + plain.tokens[:-1])
    assert plain.logits.tolist() == expected[len(PROMPT) - 1 :]


@pytest.mark.requirement("RMO-P1")
def test_a_step_takes_four_round_trips_a_layer_and_one_for_the_head(model: Model) -> None:
    enclave, sent = _enclave(model)
    generate(Decoder(model, enclave.products), PROMPT, 3)
    assert enclave.channel.round_trips == 3 * (4 * model.shape.layers + 1)
    groups = [wire.decode(frame).group for frame in sent[1:]]
    assert groups == list(range(4 * model.shape.layers + 1)) * 3


@pytest.mark.requirement("RMO-P2")
def test_two_epochs_send_different_ciphertexts_of_the_same_prompt_and_a_given_seed_is_not_private(
    model: Model,
) -> None:
    views = []
    for seed in (None, None, bytes(32), bytes(32)):
        enclave, sent = _enclave(model, masking=Masking(seed=seed))
        Decoder(model, enclave.products).step(PROMPT)
        views.append(sent)
    assert all(a != b for a, b in zip(views[0][1:], views[1][1:], strict=True))
    assert views[2] == views[3]
    assert Masking().private
    assert not Masking(seed=bytes(32)).private
    assert not Masking("rank", Fraction(1, 2)).private


def _changed(data: bytes, **changes: object) -> bytes:
    return wire.encode(replace(wire.decode(data), **changes))  # type: ignore[arg-type]


def _one_wrong_element(data: bytes) -> list[bytes]:
    frame = wire.decode(data)
    return [_changed(data, payload=bytes([frame.payload[0] ^ 1]) + frame.payload[1:])]


def _swapped_rows(data: bytes) -> list[bytes]:
    frame = wire.decode(data)
    width = frame.columns * frame.element_bytes
    return [
        _changed(
            data,
            payload=frame.payload[width : 2 * width] + frame.payload[:width] + frame.payload[2 * width :],
        )
    ]


def _other_version(data: bytes) -> list[bytes]:
    return [data[:4] + bytes([data[4] + 1]) + data[5:]]


LIES: dict[str, tuple[Tamper, Refusal]] = {
    "one wrong element": (_one_wrong_element, Refusal.CHECK_FAILED),
    "swapped rows": (_swapped_rows, Refusal.CHECK_FAILED),
    "all zero": (
        lambda data: [_changed(data, payload=bytes(len(wire.decode(data).payload)))],
        Refusal.CHECK_FAILED,
    ),
    "truncated": (lambda data: [data[:-1]], Refusal.FRAME_TRUNCATED),
    "silent": (lambda data: [], Refusal.WORKER_LOST),
    "another step": (lambda data: [_changed(data, step=9)], Refusal.FRAME_UNEXPECTED),
    "another group": (lambda data: [_changed(data, group=1)], Refusal.FRAME_UNEXPECTED),
    "another version": (_other_version, Refusal.VERSION_MISMATCH),
    "not in the field": (
        lambda data: [_changed(data, payload=b"\xff" * len(wire.decode(data).payload))],
        Refusal.NOT_IN_FIELD,
    ),
}


@pytest.mark.requirement("INT-P1")
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name_and_ends_the_epoch_without_another_word(model: Model, lie: str) -> None:
    tamper, refusal = LIES[lie]
    enclave, sent = _enclave(model, tamper)
    with pytest.raises(Refused) as refused:
        Decoder(model, enclave.products).step(PROMPT)
    assert refused.value.reason is refusal
    assert enclave.channel.ended
    said = len(sent)
    with pytest.raises(Refused):
        Decoder(model, enclave.products).step(PROMPT)
    assert len(sent) == said == 2


@pytest.mark.requirement("INT-P1")
def test_a_repeated_answer_is_refused_at_the_next_exchange(model: Model) -> None:
    enclave, _ = _enclave(model, lambda data: [data, data])
    with pytest.raises(Refused) as refused:
        Decoder(model, enclave.products).step(PROMPT)
    assert refused.value.reason is Refusal.FRAME_UNEXPECTED


def test_without_the_check_a_wrong_element_goes_unnoticed(model: Model) -> None:
    tamper, _ = LIES["all zero"]
    enclave, _ = _enclave(model, tamper, Masking(check=False))
    lied_to = Decoder(model, enclave.products).step(PROMPT)
    assert not torch.equal(lied_to, Decoder(model).step(PROMPT))


def test_every_product_is_checked_and_counted(model: Model) -> None:
    enclave, _ = _enclave(model)
    Decoder(model, enclave.products).step(PROMPT)
    assert enclave.checked == enclave.channel.round_trips == len(model.groups)
    powers = [group.modulus**count for group, count in zip(model.groups, enclave.secret_vectors, strict=True)]
    assert min(powers) >= 2**64
    off, _ = _enclave(model, masking=Masking(check=False))
    Decoder(model, off.products).step(PROMPT)
    assert (off.checked, off.channel.round_trips) == (0, len(model.groups))
    assert off.secret_vectors == (0,) * len(model.groups)
    lied_to, _ = _enclave(model, LIES["all zero"][0])
    with pytest.raises(Refused):
        Decoder(model, lied_to.products).step(PROMPT)
    assert (lied_to.checked, lied_to.channel.round_trips) == (0, 1)


def test_preparing_the_check_is_part_of_the_cost(model: Model) -> None:
    enclave, _ = _enclave(model)
    sizes = [group.weights.numel() for group in model.groups]
    prepared = sum(count * size for count, size in zip(enclave.secret_vectors, sizes, strict=True))
    assert enclave.cost.macs_offline == prepared > 0
    assert enclave.cost.prepare_seconds > 0 and enclave.cost.mint_seconds == 0
    enclave.mint_ahead(0, 3)
    assert enclave.cost.macs_offline == prepared + 3 * sum(sizes)
    off, _ = _enclave(model, masking=Masking(check=False))
    assert (off.cost.prepare_seconds, off.cost.macs_offline) == (0, 0)


def test_a_minter_gives_each_address_once(model: Model) -> None:
    minter = LocalMinter(Ratchet(bytes(32)))
    minter.mint([model.groups[0]], 1, 3)
    ahead, _ = minter.take(model.groups[0], 2, 1)
    assert torch.equal(ahead, LocalMinter(Ratchet(bytes(32))).take(model.groups[0], 2, 1)[0])
    for step in (2, 1):
        with pytest.raises(Refused) as refused:
            minter.take(model.groups[0], step, 1)
        assert refused.value.reason is Refusal.PAD_REUSED


def test_two_processes_and_a_transcript(model: Model, imported: Path, tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    with start_worker(imported / INTEGER_FILE) as address, epoch(model, address, transcript=path) as enclave:
        masked = generate(Decoder(model, enclave.products), PROMPT, 4)
    assert torch.equal(masked.logits, generate(Decoder(model), PROMPT, 4).logits)
    recorded = transcript.read(path)
    assert recorded.header.profile == "pad"
    assert len(recorded.records) == 2 * (1 + 4 * (4 * model.shape.layers + 1))


# Parts of a step that take turns

LONG = [(7 * place + 3) % 29 for place in range(40)]
RAGGED = [LONG[:3], LONG[3:30], LONG[30:], LONG[1:17]]


def _messages(sent: list[bytes]) -> dict[tuple[int, int], bytes]:
    """Return the rows that were sent of each group and step."""
    found: dict[tuple[int, int], bytes] = {}
    for frame in map(wire.decode, sent[1:]):
        place = frame.group, frame.step
        found[place] = found.get(place, b"") + frame.payload
    return found


@pytest.mark.requirement("RMO-R8")
@pytest.mark.parametrize("fewest", [8, 16])
@pytest.mark.parametrize("prompts", [[LONG], RAGGED, [LONG[:32], LONG[32:33]]])
def test_parts_that_take_turns_send_the_messages_of_a_step_at_once_and_come_to_the_same_words(
    model: Model, prompts: list[list[int]], fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "PART", fewest)
    found = []
    for in_turns in (False, True):
        enclave, sent = _enclave(model, masking=Masking(seed=bytes(32)))
        decoder = Decoder(model, enclave.products, enclave.together if in_turns else None)
        caches = [decoder.new_cache() for _ in prompts]
        first = decoder.advance(caches, prompts)
        second = decoder.advance(caches, [prompt[:2] for prompt in prompts])
        found.append((torch.cat((first, second)).tolist(), _messages(sent), enclave.channel.round_trips))
        assert (len(sent) > 1 + enclave.channel.round_trips) == in_turns
    plain = Decoder(model)
    caches = [plain.new_cache() for _ in prompts]
    expected = torch.cat(
        (plain.advance(caches, prompts), plain.advance(caches, [prompt[:2] for prompt in prompts]))
    )
    assert found[0] == found[1]
    assert found[1][0] == expected.tolist()


@pytest.mark.requirement("RMO-P2")
def test_a_witness_is_told_all_rows_of_a_step_that_was_sent_in_parts(model: Model) -> None:
    told = []
    for in_turns in (False, True):
        rows = list[object]()
        worker = Worker(place(model, "cpu"), model.digest)
        channel = Channel(LocalTransport(worker.handle), bytes(16))

        def note(group: int, step: int, given: torch.Tensor, rows: list[object] = rows) -> None:
            rows.append((group, step, given.tolist()))

        enclave = Enclave(model, channel, witness=note)
        enclave.open()
        Decoder(model, enclave.products, enclave.together if in_turns else None).step(LONG)
        told.append(rows)
    assert told[0] == told[1]


def _masks(message: Message) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pads and corrections that a message's rows of profile `pad` are hidden by."""
    assert isinstance(message.cover, PadCover)
    return message.cover._pads, message.cover._correction


@pytest.mark.requirement("INT-P1")
def test_a_wrong_product_of_a_later_part_ends_the_epoch_and_no_pad_is_left(model: Model) -> None:
    def wrong(data: bytes) -> list[bytes]:
        return _one_wrong_element(data) if wire.decode(data).first_row else [data]

    enclave, _ = _enclave(model, wrong)
    with pytest.raises(Refused) as caught:
        Decoder(model, enclave.products, enclave.together).step(LONG)
    assert (caught.value.reason, enclave.channel.ended) == (Refusal.CHECK_FAILED, True)
    assert enclave._message is None or not any(part.any() for part in _masks(enclave._message))


@pytest.mark.requirement("RMO-P3")
def test_overwritten_pads_hide_nothing_more() -> None:
    def refused(cover: PadCover, rows: torch.Tensor) -> Refusal:
        with pytest.raises(Refused) as caught:
            cover.hide(rows)
        return caught.value.reason

    small, large = torch.ones(2, 3, dtype=torch.int64), torch.full((2, 3), 2**15)
    erased, tried = (PadCover(small.clone(), small.clone(), constants.PRIMES[0]) for _ in range(2))
    erased.erase()
    assert refused(erased, small) is Refusal.SHAPE_MISMATCH
    assert refused(tried, large) is Refusal.ACTIVATION_OUT_OF_RANGE
    assert refused(tried, small) is Refusal.SHAPE_MISMATCH


def test_pads_that_were_taken_and_not_used_are_overwritten(model: Model) -> None:
    enclave, _ = _enclave(model)
    group = model.groups[0]
    rows = torch.ones(2, group.weights.shape[1], dtype=torch.int64)
    enclave._asked(group, rows, 5)
    assert enclave._message is not None
    masks = _masks(enclave._message)
    assert [bool(part[:2].any()) for part in masks] == [False, True] and all(part[2:].any() for part in masks)
    enclave.close()
    assert not any(part.any() for part in masks)


def test_a_profile_that_hides_whole_steps_takes_no_turns(model: Model) -> None:
    assert profile_of(Masking("lwe"), Ratchet(bytes(32))).in_parts is False
    assert _enclave(model, masking=Masking("rank", Fraction(1, 2)))[0].together is not None


def test_two_processes_take_turns(model: Model, imported: Path, tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    with (
        start_worker(imported / INTEGER_FILE) as address,
        epoch(model, address, transcript=tape) as enclave,
    ):
        masked = generate(Decoder(model, enclave.products, enclave.together), LONG, 3)
    assert torch.equal(masked.logits, generate(Decoder(model), LONG, 3).logits)
    kinds = [message.kind for message in transcript.messages(transcript.read(tape))]
    assert kinds == [FrameKind.MULTIPLY, FrameKind.PRODUCT] * (3 * (4 * model.shape.layers + 1))
