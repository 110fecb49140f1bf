"""The null-space look-up: it reads `rank`, and gets nothing from `pad`."""

import os
import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from veil_conformance import tiny_model
from veil_conformance.attacks import base, nearest, null_space, view
from veil_conformance.attacks.null_space import Vocabulary
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.model import Model, load
from veil_optimized.profiles import Masking
from veil_optimized.session import Channel
from veil_optimized.tape import SeededTape, field_elements
from veil_optimized.transcript import Header
from veil_optimized.transport import LocalTransport, RecordingTransport
from veil_optimized.worker import Worker, place
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain

SHAPE = replace(tiny_model.SMALL, vocabulary=200, width=16, context=512)
EPOCH = bytes(16)
RATIOS = (Fraction(1, 2), Fraction(9, 10), Fraction(15, 16))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "integer.safetensors", SHAPE, b"attacked")


@pytest.fixture(scope="module")
def model(model_file: Path) -> Model:
    return load(model_file)


def record(model: Model, masking: Masking, tokens: list[int], path: Path) -> Path:
    """Return the transcript of a prompt and two more tokens."""
    worker = Worker(place(model, "cpu"), model.digest)
    fields = tuple(group.modulus for group in model.groups)
    header = Header(__version__, model.digest, masking.profile, masking.rank, EPOCH, fields)
    transport = RecordingTransport(LocalTransport(worker.handle), path, header)
    with Channel(transport, EPOCH) as channel:
        enclave = Enclave(model, channel, masking)
        enclave.open()
        decoder = Decoder(model, enclave.products)
        for piece in (tokens[:-2], tokens[-2:-1], tokens[-1:]):
            decoder.step(piece)
    return path


def some_tokens(count: int) -> list[int]:
    return random.Random(count).choices(range(SHAPE.vocabulary), k=count)


@pytest.mark.requirement("RMO-G5")
@pytest.mark.parametrize("ratio", RATIOS)
def test_every_token_is_read_from_rank(
    model_file: Path, model: Model, ratio: Fraction, tmp_path: Path
) -> None:
    tokens = some_tokens(60)
    path = record(model, Masking("rank", ratio), tokens, tmp_path / "transcript")
    guesses = null_space.recover(path, model_file)
    assert [guess.token for guess in guesses] == tokens
    assert all(guess.exact for guess in guesses)


@pytest.mark.requirement("RMO-G1")
def test_the_look_up_names_no_token_of_pad(model_file: Path, model: Model, tmp_path: Path) -> None:
    tokens = some_tokens(300)
    basis = null_space.seen(record(model, Masking("rank", RATIOS[0]), tokens, tmp_path / "rank")).basis
    guesses = null_space.recover(record(model, Masking(), tokens, tmp_path / "pad"), model_file, basis)
    assert not any(guess.exact for guess in guesses)
    # A blind guess hits 1.5 of 300 on average; 20 or more happen once in 10**15 runs.
    assert sum(guess.token == token for guess, token in zip(guesses, tokens, strict=True)) < 20


def test_another_basis_reads_nothing_from_rank(model_file: Path, model: Model, tmp_path: Path) -> None:
    path = record(model, Masking("rank", RATIOS[0]), some_tokens(40), tmp_path / "rank")
    other = np.random.default_rng(7).integers(0, 2**31, (8, 16))
    assert not any(guess.exact for guess in null_space.recover(path, model_file, other))


def test_without_a_mask_the_nearest_row_is_the_token(model: Model) -> None:
    words, tokens = null_space.vocabulary(model), some_tokens(50)
    modulus = model.groups[0].modulus
    open_rows = words.rows[np.array(tokens)].astype(np.int64) % modulus
    worker = base.View(50, (null_space.Seen(modulus, open_rows, None).sighting,))
    assert nearest.guess(base.Public(words), worker) == tokens


def test_rows_of_the_vocabulary_are_what_the_enclave_masks(model: Model) -> None:
    sent: list[torch.Tensor] = []

    def products(group: object, rows: torch.Tensor) -> torch.Tensor:
        sent.append(rows)
        raise StopIteration

    with pytest.raises(StopIteration):
        Decoder(model, products).step([3, 1, 4])
    assert sent[0].tolist() == null_space.vocabulary(model).rows[[3, 1, 4]].tolist()


def test_tokens_that_share_a_row_are_marked(model: Model, tmp_path: Path) -> None:
    made = tiny_model.tensors(SHAPE, b"attacked")
    weights = made["embedding.weights"]
    rows = weights.rows()
    rows[9] = rows[5]
    values = tuple(value for row in rows for value in row)
    made["embedding.weights"] = replace(weights, values=values)
    for part in ("mantissa", "exponent"):
        column = list(made[f"embedding.{part}"].values)
        column[9] = column[5]
        made[f"embedding.{part}"] = replace(made[f"embedding.{part}"], values=tuple(column))
    path = tmp_path / "integer.safetensors"
    path.write_bytes(tiny_model.file_bytes(tiny_model.metadata(SHAPE), made))
    words: Vocabulary = null_space.vocabulary(load(path))
    assert np.flatnonzero(words.duplicate).tolist() == [5, 9]
    assert words.distinct == SHAPE.vocabulary - 1


@given(st.sampled_from(constants.PRIMES), st.lists(st.tuples(st.integers(0), st.integers(0)), min_size=1))
def test_products_of_elements_are_exact(modulus: int, pairs: list[tuple[int, int]]) -> None:
    edges = [(modulus - 1, modulus - 1), (modulus - 1, 1), (0, modulus - 1)]
    left, right = (np.array(column) % modulus for column in zip(*edges, strict=True))
    assert null_space.multiplied(left, right, modulus).tolist() == [a * b % modulus for a, b in edges]
    reduced = [(a % modulus, b % modulus) for a, b in pairs]
    left, right = (np.array(column, dtype=np.int64) for column in zip(*reduced, strict=True))
    assert null_space.multiplied(left, right, modulus).tolist() == [a * b % modulus for a, b in reduced]


@given(
    modulus=st.sampled_from(constants.PRIMES),
    rank=st.integers(1, 6),
    spare=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    singular=st.booleans(),
)
def test_null_vectors_are_annihilated(modulus: int, rank: int, spare: int, seed: int, singular: bool) -> None:
    draw = random.Random(seed)
    rows = [[draw.randrange(modulus) for _ in range(rank + spare)] for _ in range(rank)]
    if singular:
        rows[-1] = rows[0]
        rows = [[0, *row[1:]] for row in rows]
    vectors = null_space.null_vectors(np.array(rows, dtype=np.int64), modulus)
    columns = vectors.T.tolist()
    assert len(columns) >= min(spare, 4) and all(any(column) for column in columns)
    for column in columns:
        assert [sum(a * b for a, b in zip(row, column, strict=True)) % modulus for row in rows] == [0] * rank


def test_a_simulated_transcript_differs_in_its_elements_alone(model: Model, tmp_path: Path) -> None:
    source = record(model, Masking(), some_tokens(50), tmp_path / "pad")
    null_space.simulate(source, tmp_path / "uniform", SeededTape(bytes(32)))
    frames = [list(view.frames(path, 0)) for path in (source, tmp_path / "uniform")]
    assert [replace(frame, payload=b"") for frame in frames[0]] == [
        replace(f, payload=b"") for f in frames[1]
    ]
    assert all(a.payload != b.payload for a, b in zip(*frames, strict=True))
    modulus = model.groups[0].modulus
    first = null_space.seen(tmp_path / "uniform").masked[0].tolist()
    assert first == field_elements(SeededTape(bytes(32)), Domain.TEST, 0, 0, len(first), modulus).tolist()


def test_another_models_transcript_is_refused(model_file: Path, model: Model, tmp_path: Path) -> None:
    path = record(model, Masking(), some_tokens(5), tmp_path / "pad")
    other = tiny_model.write(tmp_path / "integer.safetensors", SHAPE, b"another")
    with pytest.raises(Refused) as refused:
        null_space.recover(path, other)
    assert refused.value.reason is Refusal.MODEL_MISMATCH


@pytest.mark.parametrize("kept", [0, 4, 11, 40, -3])
def test_a_cut_transcript_is_refused(model: Model, tmp_path: Path, kept: int) -> None:
    path = record(model, Masking(), some_tokens(5), tmp_path / "pad")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Refused) as refused:
        list(view.heads(path))
        null_space.seen(path)
    assert refused.value.reason in (Refusal.FRAME_MALFORMED, Refusal.FRAME_TRUNCATED)


def test_a_random_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(300))
    with pytest.raises(Refused) as refused:
        null_space.seen(tmp_path / "noise")
    assert refused.value.reason is Refusal.FRAME_MALFORMED
