"""What each coalition of workers and a dealer learns: the table of spec/remo.md, line by line."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from typing import Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from veil_conformance import tiny_model
from veil_conformance.attacks import modular
from veil_conformance.attacks.modular import Elements
from veil_optimized import remo, wire
from veil_optimized.dealer import Dealer, DealerMinter, Leases
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.model import Model, load
from veil_optimized.profiles import Masking
from veil_optimized.session import Channel
from veil_optimized.tape import SeededTape
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_reference.remo import mask as reference_mask
from veil_spec import constants
from veil_spec.types import Frame, FrameKind, Row

SHAPE: Final = replace(tiny_model.SMALL, vocabulary=200, width=16, context=64)
EPOCH: Final = bytes(constants.EPOCH_BYTES)
SMALL: Final = 3
"""The field of the complete enumerations."""
PROMPT: Final = list(range(3, 33))
OTHER: Final = list(range(150, 180))
STEPS: Final = 6
LEAKED: Final = 3
"""The step whose seed an adversary reads."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a small random model."""
    path = tmp_path_factory.mktemp("model") / "integer.safetensors"
    return load(tiny_model.write(path, SHAPE, b"coalitions"))


@pytest.fixture(scope="module")
def words(model: Model) -> Elements:
    """Return the row that each token makes of group 0, as integers [vocabulary, width]."""
    stream = Decoder(model).embed(list(range(SHAPE.vocabulary)))
    return model.rms_norm("layers.0.attention_norm", stream).values.numpy().astype(np.int64)


@dataclass
class View:
    """What one worker receives in one epoch."""

    frames: list[Frame] = field(default_factory=list)

    def rows(self, modulus: int, group: int = 0, step: int | None = None) -> Elements:
        """Return the rows of a group, all but those of one step left out if one is named [n, inner]."""
        kept = [
            wire.unpack(frame.payload, frame.rows * frame.columns, modulus).reshape(frame.rows, -1)
            for frame in self.frames
            if frame.kind is FrameKind.MULTIPLY and frame.group == group and step in (None, frame.step)
        ]
        return np.concatenate(kept)


@dataclass
class Epoch:
    """One epoch of an enclave: the worker's view, and the rows before they were masked."""

    view: View = field(default_factory=View)
    plain: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def run(
        self, model: Model, pieces: Sequence[list[int]], masking: Masking, minter: DealerMinter | None = None
    ) -> None:
        """Decode pieces of a prompt, one step each."""
        worker = Worker(place(model, "cpu"), model.digest)

        def handler(data: bytes) -> list[bytes]:
            self.view.frames.append(wire.decode(data))
            return list(worker.handle(data))

        def witness(group: int, step: int, rows: torch.Tensor) -> None:
            self.plain[group, step] = rows.clone()

        channel = Channel(LocalTransport(handler), EPOCH)
        enclave = Enclave(model, channel, masking, minter, witness)
        enclave.open()
        decoder = Decoder(model, enclave.products)
        for piece in pieces:
            decoder.step(piece)


def epoch(model: Model, pieces: Sequence[list[int]], masking: Masking | None = None) -> Epoch:
    """Return an epoch in which these pieces were decoded."""
    made = Epoch()
    made.run(model, pieces, masking or Masking())
    return made


# Workers alone, profile `pad`


def joint_views(rows: Sequence[Row], pads: Iterator[Sequence[Row]]) -> Counter[tuple[Row, ...]]:
    """Return how many choices of pads give each joint view of these rows, one row for each epoch."""
    return Counter(
        tuple(tuple(reference_mask([x], [r], SMALL)[0]) for x, r in zip(rows, chosen, strict=True))
        for chosen in pads
    )


def rows_of_two() -> Iterator[Row]:
    """Yield every row of two over the small field."""
    return product(range(SMALL), repeat=2)


def plaintexts() -> Iterator[tuple[Row, Row]]:
    """Yield every pair of plaintext rows, one for each epoch."""
    rows = list(product((-1, 0, 1), repeat=2))
    return product(rows, rows)


@pytest.mark.requirement("RMO-G10")
def test_views_of_two_epochs_are_jointly_uniform_whatever_the_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of the 81 joint views occurs for one choice of pads, for all pairs of rows: complete for p = 3."""
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    for rows in plaintexts():
        views = joint_views(rows, product(rows_of_two(), repeat=2))
        assert len(views) == SMALL**4 and set(views.values()) == {1}


def test_negative_control_one_pad_for_two_epochs_tells_the_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One pad for two epochs tells the difference."""
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    shared = [joint_views(rows, ((pad, pad) for pad in rows_of_two())) for rows in plaintexts()]
    assert all(len(views) == SMALL**2 for views in shared)
    assert len({frozenset(views) for views in shared}) == SMALL**2


def pair_look_up(first: Elements, second: Elements, words: Elements, modulus: int) -> list[int | None]:
    """Return for each row of two views the token of the first one that explains the difference, if any."""
    residues = modular.residues(words, modulus)
    known = {
        row.tobytes(): token
        for token in range(len(words))
        for row in modular.subtracted(residues[token], residues, modulus)
    }
    difference = modular.subtracted(first, second, modulus)
    return [known.get(row.tobytes()) for row in difference]


@pytest.mark.requirement("RMO-G10")
def test_workers_of_two_epochs_name_no_token_together(model: Model, words: Elements) -> None:
    """Neither of the same prompt nor of two prompts does the difference of the views fit two tokens."""
    modulus = model.groups[0].modulus
    for prompt in (PROMPT, OTHER):
        views = [epoch(model, [tokens]).view.rows(modulus) for tokens in (PROMPT, prompt)]
        assert pair_look_up(views[0], views[1], words, modulus) == [None] * len(PROMPT)


def test_negative_control_workers_of_two_epochs_with_one_seed_read_both_prompts(
    model: Model, words: Elements
) -> None:
    """Workers of two epochs with one seed read both prompts."""
    modulus, seeded = model.groups[0].modulus, Masking(seed=bytes(32))
    views = [epoch(model, [tokens], seeded).view.rows(modulus) for tokens in (PROMPT, OTHER)]
    assert pair_look_up(views[0], views[1], words, modulus) == PROMPT
    assert pair_look_up(views[1], views[0], words, modulus) == OTHER


# The dealer


@dataclass
class Dealt:
    """An epoch with a dealer: what the dealer received and sent."""

    epoch: Epoch = field(default_factory=Epoch)
    received: list[bytes] = field(default_factory=list)
    sent: list[Frame] = field(default_factory=list)


def dealt(model: Model, pieces: Sequence[list[int]]) -> Dealt:
    """Return an epoch whose pads came from a dealer in this process."""
    made, dealer = Dealt(), Dealer(model, Leases())

    def handler(data: bytes) -> Iterator[bytes]:
        made.received.append(data)
        for answer in dealer.handle(data):
            made.sent.append(wire.decode(answer))
            yield answer

    minter = DealerMinter(LocalTransport(handler), EPOCH, model)
    minter.open()
    made.epoch.run(model, pieces, Masking(), minter)
    return made


@pytest.mark.requirement("RMO-G10")
def test_a_dealer_alone_sees_lengths_and_no_more(model: Model) -> None:
    """What it receives is the same for every prompt of a length, and holds no row; of another length not."""
    one, other, longer = (dealt(model, [prompt]) for prompt in (PROMPT, OTHER, [*PROMPT, 5]))
    assert one.received == other.received != longer.received
    assert {wire.decode(data).kind for data in one.received} == {FrameKind.HELLO, FrameKind.ASK}


def opened(view: View, model: Model, seeds: dict[int, bytes]) -> dict[tuple[int, int], Elements]:
    """Return the rows of every group and step that the seeds of these steps lead to, as integers."""
    found = {}
    for (step, seed), group in product(seeds.items(), model.groups):
        rows = view.rows(group.modulus, group.number, step)
        count, width = rows.shape
        pads = remo.pad(SeededTape(seed), group.number, step, count, width, group.modulus).numpy()
        plain = modular.centred(modular.subtracted(rows, pads, group.modulus), group.modulus)
        found[group.number, step] = plain
    return found


def share_right(found: dict[tuple[int, int], Elements], plain: dict[tuple[int, int], torch.Tensor]) -> float:
    """Return the share of rows that are exactly the enclave's, in [0, 1]."""
    right = [bool((row == true).all()) for at, rows in found.items() for row, true in pairs(rows, plain[at])]
    return sum(right) / len(right)


def pairs(rows: Elements, plain: torch.Tensor) -> Iterator[tuple[Elements, NDArray[np.int64]]]:
    """Yield each row with the true one."""
    return zip(rows, plain.numpy(), strict=True)


@pytest.mark.requirement("RMO-G10")
def test_a_dealer_and_a_worker_together_recover_every_row(model: Model) -> None:
    pieces = [PROMPT, [7], [9]]
    made = dealt(model, pieces)
    seeds = {frame.step: frame.payload for frame in made.sent if frame.kind is FrameKind.SEED}
    found = opened(made.epoch.view, model, seeds)
    assert found.keys() == made.epoch.plain.keys() and len(seeds) == len(pieces)
    assert share_right(found, made.epoch.plain) == 1


def test_negative_control_a_worker_with_the_seeds_of_another_epoch_recovers_nothing(model: Model) -> None:
    """A worker with the seeds of another epoch recovers nothing."""
    made, another = dealt(model, [PROMPT]), dealt(model, [PROMPT])
    seeds = {frame.step: frame.payload for frame in another.sent if frame.kind is FrameKind.SEED}
    assert share_right(opened(made.epoch.view, model, seeds), made.epoch.plain) == 0


# Workers together under profile `rank`


def null_functions(view: View, modulus: int) -> tuple[Elements, Elements]:
    """Return all null vectors N of a worker's basis [width, d - m], and its rows times N [n, d - m]."""
    rows = view.rows(modulus)
    rank = len(rows) - len(PROMPT)
    vectors = modular.null_vectors(rows[:rank], modulus, rows.shape[1])
    return vectors, modular.product(rows[rank:], vectors, modulus)


def joined(views: Sequence[View], modulus: int) -> tuple[Elements, Elements]:
    """Return the null functions of several workers, side by side."""
    vectors, images = zip(*(null_functions(view, modulus) for view in views), strict=True)
    return np.concatenate(vectors, axis=1), np.concatenate(images, axis=1)


@pytest.mark.requirement("RMO-G5")
@pytest.mark.parametrize(("ratio", "workers"), [("1/2", 1), ("1/2", 2), ("3/4", 3), ("3/4", 4), ("15/16", 2)])
def test_workers_with_different_bases_add_up_their_null_spaces(
    model: Model, words: Elements, ratio: str, workers: int
) -> None:
    """t workers know min(d, t (d - m)) functions of a row: d of them are the row, with no vocabulary."""
    modulus, masking = model.groups[0].modulus, Masking("rank", Fraction(ratio))
    views = [epoch(model, [PROMPT], masking).view for _ in range(workers)]
    vectors, images = joined(views, modulus)
    known = min(SHAPE.width, workers * (SHAPE.width - int(Fraction(ratio) * SHAPE.width)))
    assert len(modular.reduce(vectors.copy(), modulus)) == known
    found = modular.solved(vectors, images, modulus)
    assert (found is not None) == (known == SHAPE.width)
    if found is not None:
        assert np.array_equal(modular.centred(found, modulus), words[PROMPT])


def test_negative_control_the_same_functions_of_pad_do_not_fit_together(model: Model) -> None:
    """The same functions of pad do not fit together."""
    modulus = model.groups[0].modulus
    ranked = [epoch(model, [PROMPT], Masking("rank", Fraction(1, 2))).view for _ in range(3)]
    vectors, _ = joined(ranked, modulus)
    padded = [epoch(model, [PROMPT]).view.rows(modulus) for _ in range(3)]
    width = vectors.shape[1] // 3
    images = [
        modular.product(rows, vectors[:, n * width : (n + 1) * width], modulus)
        for n, rows in enumerate(padded)
    ]
    assert modular.solved(*joined(ranked, modulus), modulus) is not None
    assert modular.solved(vectors, np.concatenate(images, axis=1), modulus) is None


# A worker and a seed that leaks later


def chain(seed: bytes, following: Callable[[bytes], bytes]) -> list[bytes]:
    """Return a seed and those that follow from it."""
    seeds = [seed]
    while len(seeds) < STEPS:
        seeds.append(following(seeds[-1]))
    return seeds


def opened_steps(made: Epoch, model: Model, seeds: Sequence[bytes]) -> set[int]:
    """Return the steps of which any of these seeds opens any row of any group."""
    return {
        step
        for step, seed in product(range(STEPS), seeds)
        if share_right(opened(made.view, model, {step: seed}), made.plain) > 0
    }


@pytest.mark.requirement("RMO-G8")
def test_a_worker_with_a_later_seed_opens_the_rows_from_there_on_and_no_earlier_one(model: Model) -> None:
    """The adversary tries every seed that follows from the leaked one on every step."""
    first = bytes(range(32))
    made = epoch(model, [[token] for token in PROMPT[:STEPS]], Masking(seed=first))
    seeds = chain(first, remo.ratchet)
    assert opened_steps(made, model, chain(seeds[LEAKED], remo.ratchet)) == set(range(LEAKED, STEPS))
    assert opened_steps(made, model, chain(bytes(32), remo.ratchet)) == set()


def test_negative_control_without_a_ratchet_a_later_seed_opens_every_row(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a ratchet a later seed opens every row."""
    monkeypatch.setattr(remo, "ratchet", bytes)
    made = epoch(model, [[token] for token in PROMPT[:STEPS]], Masking(seed=bytes(range(32))))
    assert opened_steps(made, model, [bytes(range(32))]) == set(range(STEPS))
