"""One decoding step of a seeded model with four layers of SmolLM2-135M's shapes, worker in this process."""

from typing import Final

import torch
from benchmarks.conftest import Measure
from benchmarks.models import FloatDecoder, Small, enclave_of
from benchmarks.ratios import ROUNDS, Work

from veil_optimized.decoder import Decoder
from veil_optimized.sampling import greedy
from veil_spec import constants

PROMPT: Final = list(range(64))
TOKEN: Final = 7
AHEAD: Final = 32
"""Steps minted at once when minting ahead is timed."""


def stepping(decoder: Decoder | FloatDecoder) -> Work:
    """Return one step of a decoder that has read the prompt; each side of a figure makes as many steps."""
    decoder.step(PROMPT)
    decoder.step([TOKEN])
    return Work(lambda: decoder.step([TOKEN]), single=True)


def masked(model: Small, ahead: bool) -> Work:
    """Return one masked step, its pads minted ahead or when used."""
    enclave = enclave_of(model.integer)
    work = stepping(Decoder(model.integer, enclave.products))
    if ahead:
        enclave.mint_ahead(2, ROUNDS)
    return work


def bench_same_tokens(small_model: Small) -> None:
    """Every decoder that is timed below computes the same thing: masked equals plain, and float32 is near."""
    plain = Decoder(small_model.integer).step(PROMPT)
    assert torch.equal(
        Decoder(small_model.integer, enclave_of(small_model.integer).products).step(PROMPT), plain
    )
    floats = FloatDecoder(small_model.floats).step(PROMPT)
    assert int(floats.argmax()) == greedy(plain[-1])
    exact = plain.to(torch.float64) / 2**constants.HIDDEN_FRACTION
    assert float((floats - exact).abs().max()) < 0.01 * float(exact.abs().max())


def bench_plain_to_float32(measure: Measure, small_model: Small) -> None:
    """The price of integers alone."""
    plain, floats = Decoder(small_model.integer), FloatDecoder(small_model.floats)
    measure("decode step: plain integers / float32", stepping(plain), stepping(floats))


def bench_masked_to_plain(measure: Measure, small_model: Small) -> None:
    """The price of masks and checks, minted ahead."""
    plain = stepping(Decoder(small_model.integer))
    measure("decode step: masked, minted ahead / plain integers", masked(small_model, True), plain)


def bench_masked_minting_to_plain(measure: Measure, small_model: Small) -> None:
    """The price of masks and checks, each pad minted when it is used."""
    plain = stepping(Decoder(small_model.integer))
    measure("decode step: masked, minting included / plain integers", masked(small_model, False), plain)


def bench_masked_to_float32(measure: Measure, small_model: Small) -> None:
    """The whole price, minted ahead."""
    floats = stepping(FloatDecoder(small_model.floats))
    measure("decode step: masked, minted ahead / float32", masked(small_model, True), floats)


def bench_masked_minting_to_float32(measure: Measure, small_model: Small) -> None:
    """The whole price, each pad minted when it is used."""
    floats = stepping(FloatDecoder(small_model.floats))
    measure("decode step: masked, minting included / float32", masked(small_model, False), floats)


def bench_minting_ahead(measure: Measure, small_model: Small) -> None:
    """What a step's pads cost when many steps are minted at once."""
    enclave = enclave_of(small_model.integer)
    mint = Work(lambda: enclave.mint_ahead(enclave.next_step, AHEAD), AHEAD, single=True)
    plain = stepping(Decoder(small_model.integer))
    measure(f"minting a step, {AHEAD} at once / plain decode step", mint, plain)
