"""Masked and plain inference return the same words: one token at a time or many, one sequence or a batch."""

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from inspect import getsource
from itertools import product
from pathlib import Path

import pytest
import torch

from veil_conformance import tiny_model
from veil_optimized import decoder as fast_decoder
from veil_optimized import encoder as fast_encoder
from veil_optimized import fixed_point as fast_point
from veil_optimized import steps
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.model import Model
from veil_optimized.model import load as fast_load
from veil_optimized.profiles import Masking
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_reference import decoder, encoder, masked, model, remo
from veil_spec import constants
from veil_spec.types import Row

SHAPES = (tiny_model.SMALL, tiny_model.SWITCHED)
TOKENS = (3, 1, 4, 1, 5)
PROFILES = (None, Fraction(1, 2))
SEED = bytes(range(constants.SEED_BYTES))


def small_models(folder: Path) -> Iterator[Path]:
    """Yield the files of four small models: two shapes, two seeds."""
    for number, (shape, seed) in enumerate(product(SHAPES, (b"a", b"b"))):
        yield tiny_model.write(folder / f"{number}.safetensors", shape, seed)


def uses(source: str, attribute: str) -> list[str]:
    """Return the methods and functions of a module that read an attribute of that name, in order."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if any(reads(node, attribute) for node in ast.walk(f))]


def reads(node: ast.AST, attribute: str) -> bool:
    """Return whether a node reads an attribute of that name."""
    return isinstance(node, ast.Attribute) and node.attr == attribute


@pytest.mark.requirement("MDL-G1")
def test_the_decoder_reaches_its_linear_weights_only_through_products() -> None:
    """Logits and streams are functions of the file, the tokens and what `products` returns.

    Given: the sources of the reference's models (by machine: their syntax trees).
    Then: weights are read by the look-up of a row, by the plain product and by the masked one, and `products`
    is called in one place. So two `products` that return equal integers give equal logits (argued: induction
    over the calls).
    Assuming: nothing.
    Proves: MDL-G1.
    Pins: veil_reference.model.Model 6877605f.
    """
    sources = [getsource(module) for module in (model, masked, decoder, encoder)]
    assert sorted(set(uses("\n".join(sources), "weights"))) == ["__call__", "accumulate", "look_up"]
    assert [uses(source, "products") for source in sources] == [["linear"], [], [], []]


Pair = tuple[model.Group, tuple[int, ...]]


def calls(path: Path) -> list[Pair]:
    """Return every group and row that plain inference of the tokens multiplies."""
    seen: list[Pair] = []

    def products(group: model.Group, row: Row) -> Sequence[int]:
        seen.append((group, tuple(row)))
        return model.accumulate(group, row)

    running = decoder.Decoder(replace(model.load(path), products=products))
    for token in TOKENS:
        running.step(token)
    return seen


def same_products(pairs: Sequence[Pair], through: model.Accumulate) -> bool:
    """Return whether masked products equal plain ones for each group and row."""
    return all(list(through(group, row)) == list(model.accumulate(group, row)) for group, row in pairs)


@pytest.mark.requirement("MDL-G1")
def test_masked_products_equal_plain_products(tmp_path: Path) -> None:
    """Every product of an inference comes back exactly through mask, multiply, verify and unmask.

    Given: RMO-G4 for every row and group (proved in prove_masking.py); here the composition in the reference
    on each call of four small models and on the largest rows, both profiles (checked).
    Then: `Masked` may replace `accumulate`.
    Assuming: nothing.
    Proves: MDL-G1.
    Pins: veil_reference.masked.Masked.__call__ f8cc08b0.
    Pins: veil_reference.model.accumulate 3776e8f7.
    """
    for path in small_models(tmp_path):
        pairs = calls(path)
        largest = [
            (group, tuple(constants.ACTIVATION_LIMIT * (-1) ** i for i in range(len(row))))
            for group, row in pairs
        ]
        for rank in PROFILES:
            assert same_products([*pairs, *largest], masked.Masked(SEED, rank))


@pytest.mark.requirement("MDL-G1")
def test_masked_logits_equal_plain_logits(tmp_path: Path) -> None:
    """The reference's logits through masks are its plain logits.

    Given: four small models, five tokens, profiles `pad` and `rank` (checked; in general by the two claims
    above).
    Then: masking changes no bit of an output.
    Assuming: nothing.
    Proves: MDL-G1.
    """
    for path, rank in product(small_models(tmp_path), PROFILES):
        assert decoder.masked_logits(path, TOKENS, SEED, rank) == decoder.logits(path, TOKENS)


def splits(tokens: Sequence[int]) -> Iterator[list[list[int]]]:
    """Yield every way to cut a sequence into consecutive pieces."""
    for cuts in product((False, True), repeat=len(tokens) - 1):
        pieces = [[tokens[0]]]
        for token, cut in zip(tokens[1:], cuts, strict=True):
            if cut:
                pieces.append([token])
            else:
                pieces[-1].append(token)
        yield pieces


def in_pieces(running: Decoder, pieces: Sequence[list[int]]) -> list[list[int]]:
    """Return the logits of every position, each piece computed at once."""
    logits = torch.cat([running.step(piece, every_position=True) for piece in pieces])
    rows: list[list[int]] = logits.tolist()
    return rows


def every_split_agrees(path: Path, expected: list[list[int]]) -> bool:
    """Return whether all 16 ways to cut the five tokens give the expected logits."""
    loaded = fast_load(path)
    return all(in_pieces(Decoder(loaded), pieces) == expected for pieces in splits(TOKENS))


@pytest.mark.requirement("MDL-G1")
def test_many_tokens_at_once_give_the_logits_of_one_at_a_time(tmp_path: Path) -> None:
    """A row's logits do not depend on which other rows are computed with it.

    Given: four small models, all 16 ways to cut five tokens (checked). In general every function but
    attention works row by row, attention gives a later position the weight 0 and a peak that ignores it, and
    every sum is exact (FXP-G1, RMO-G4), so that neither its order nor its neighbours matter (argued).
    Then: batches of the optimized code return the reference's words of one token at a time.
    Assuming: nothing.
    Proves: MDL-G1.
    Pins: veil_optimized.decoder.Decoder.through 68be12c5.
    Pins: veil_optimized.fixed_point.attend 71ae4701.
    Pins: veil_optimized.fixed_point.softmax_average 49e9b5df.
    """
    for path in small_models(tmp_path):
        assert every_split_agrees(path, decoder.logits(path, TOKENS))


@contextmanager
def opened(loaded: Model, rank: Fraction | None = None) -> Iterator[Enclave]:
    """Yield an enclave with a worker in this process."""
    worker = Worker(place(loaded, "cpu"), loaded.digest)
    masking = Masking("pad" if rank is None else "rank", rank, seed=SEED)
    with Channel(LocalTransport(worker.handle), bytes(constants.EPOCH_BYTES)) as channel:
        enclave = Enclave(loaded, channel, masking)
        enclave.open()
        yield enclave


def through_enclave(
    path: Path, rank: Fraction | None, pieces: Sequence[list[int]], in_turns: bool
) -> list[list[int]]:
    """Return the logits of every position by an enclave and a worker, pieces at once or by parts."""
    loaded = fast_load(path)
    with opened(loaded, rank) as enclave:
        return in_pieces(Decoder(loaded, enclave.products, enclave.together if in_turns else None), pieces)


@pytest.mark.requirement("MDL-G1")
def test_masked_batches_give_the_plain_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An enclave with a worker returns the plain logits for every cut of the tokens into batches.

    Given: one small model, all 16 cuts, profiles `pad` and `rank`, each batch at once and by parts that take
    turns (checked).
    Then: masks, batches and plain inference agree in every bit.
    Assuming: nothing.
    Proves: MDL-G1.
    Pins: veil_optimized.decoder.Decoder._stream 2813de10.
    """
    monkeypatch.setattr(fast_decoder, "PART", 1)
    path = next(small_models(tmp_path))
    expected = decoder.logits(path, TOKENS)
    for rank, pieces, in_turns in product(PROFILES, splits(TOKENS), (False, True)):
        assert through_enclave(path, rank, pieces, in_turns) == expected


SEQUENCES = ([3, 1, 4, 1, 5], [2], [7, 1, 8])


def encoder_file(folder: Path) -> Path:
    """Return the file of a small encoder with labels."""
    return tiny_model.write(folder / "encoder.safetensors", tiny_model.ENCODER, b"a")


@pytest.mark.requirement("MDL-G1")
def test_a_batch_gives_each_sequence_what_it_gets_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences of a ragged batch get the reference's words of each of them alone, plain and masked.

    Given: two small decoders and an encoder, three sequences of five, one and three tokens, at once and by
    parts that take turns (checked). In
    general each sequence attends to itself alone, and all else works row by row with exact sums (argued).
    Then: batches agree with single sequences in every bit.
    Assuming: nothing.
    Proves: MDL-G1.
    Pins: veil_optimized.encoder.Encoder.through 4af79ffa.
    """
    for module in (fast_decoder, fast_encoder):
        monkeypatch.setattr(module, "PART", 1)
    for path in small_models(tmp_path):
        with opened(loaded := fast_load(path)) as enclave:
            for running in (Decoder(loaded), Decoder(loaded, enclave.products, enclave.together)):
                caches = [running.new_cache() for _ in SEQUENCES]
                assert running.advance(caches, SEQUENCES).tolist() == [
                    decoder.logits(path, tokens)[-1] for tokens in SEQUENCES
                ]
    path = encoder_file(tmp_path)
    with opened(loaded := fast_load(path)) as enclave:
        plain = fast_encoder.Encoder(loaded).streams(SEQUENCES)
        in_turns = fast_encoder.Encoder(loaded, enclave.products, enclave.together).streams(SEQUENCES)
        assert enclave.channel.round_trips == 4 * loaded.shape.layers
    for tokens, stream, other in zip(SEQUENCES, plain, in_turns, strict=True):
        assert stream.tolist() == other.tolist() == [list(row) for row in encoder.stream(path, tokens)]
        assert stream.tolist() == [list(row) for row in encoder.masked_stream(path, tokens, SEED)]


def test_negative_control_a_small_field_or_a_look_ahead_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same checks reject masks over a field in which products wrap, and attention to later positions.

    Controls: MDL-G1.
    """
    path = next(small_models(tmp_path))
    expected = decoder.logits(path, TOKENS)
    small: Callable[[object], int] = lambda weights: 251  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(constants, "PRIMES", (251,))
        patch.setattr(remo, "choose_modulus", small)
        assert not same_products(calls(path), masked.Masked(SEED))
        assert decoder.masked_logits(path, TOKENS, SEED, None) != expected
    seen = fast_point._sight

    def everything(
        new: slice, positions: int, first: int | None, window: int, device: torch.device
    ) -> tuple[slice, torch.Tensor | None]:
        return seen(new, positions, None, window, device)

    monkeypatch.setattr(steps, "chosen", lambda: steps.TORCH)
    monkeypatch.setattr(fast_point, "_sight", everything)
    assert not every_split_agrees(path, expected)
