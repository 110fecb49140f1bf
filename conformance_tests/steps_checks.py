"""The compiled steps and draws, against torch's and numpy's on random words; `make kernel` runs this."""

from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from veil_optimized import tables
from veil_optimized.compiled_steps import CompiledSteps, agree
from veil_optimized.fixed_point import Rows
from veil_optimized.integrity import check_of, prepare
from veil_optimized.kernels.compiled import Compiled
from veil_optimized.native import draws
from veil_optimized.remo import multiply
from veil_optimized.steps import TORCH, Steps
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.architecture import Rotation
from veil_spec.refusals import Refusal, Refused

SEEDS = st.integers(0, 2**32)


def built() -> Steps:
    """Return the compiled steps, which have to be there."""
    steps = CompiledSteps.load()
    assert steps is not None, "nobody has built them: make kernel does"
    return steps


def chosen_draws() -> draws.Draw:
    """Return the compiled draws, which have to be there."""
    draw = draws.chosen()
    assert draw is not None, "nobody has built them: make kernel does"
    return draw


@pytest.fixture
def compiled() -> Steps:
    """Return the compiled steps."""
    return built()


def words(seed: int, limit: int, *shape: int) -> torch.Tensor:
    """Return random words of every size up to a limit."""
    generator = torch.Generator().manual_seed(seed)
    large = torch.randint(-limit, limit + 1, shape, generator=generator)
    return large >> torch.randint(0, limit.bit_length(), shape, generator=generator)


def same(left: Rows, right: Rows) -> bool:
    """Return whether rows have the same values and exponents."""
    return torch.equal(left.values, right.values) and torch.equal(left.exponent, right.exponent)


def test_they_agree_on_what_they_are_tried_with(compiled: Steps) -> None:
    assert agree(compiled, TORCH)


@given(SEEDS, st.integers(1, 4), st.integers(1, 90), st.integers(-20, 40))
def test_rows_are_normalised_and_quantised_alike(seed: int, count: int, width: int, exponent: int) -> None:
    ours = built()
    rows, gains = words(seed, constants.RESIDUAL_LIMIT, count, width), words(seed + 1, 2**24, width)
    about = (rows, gains, exponent, Fraction(1, 2**16 + seed % 1000))
    assert same(ours.rms_norm(*about), TORCH.rms_norm(*about))
    assert same(ours.quantise(rows, exponent), TORCH.quantise(rows, exponent))


@given(SEEDS, st.integers(1, 4), st.integers(1, 60), st.booleans(), st.booleans())
def test_products_settle_alike(seed: int, count: int, width: int, biased: bool, added: bool) -> None:
    ours = built()
    group = SimpleNamespace(
        mantissa=words(seed, 2**15 - 1, width).abs(),
        exponent=words(seed + 1, 40, width),
        bias=words(seed + 2, 2**24, width) if biased else None,
        bias_exponent=20,
    )
    products, exponents = words(seed + 3, 2**46, count, width), words(seed + 4, 40, count)
    limit = constants.RESIDUAL_LIMIT if added else constants.HIDDEN_LIMIT
    stream = words(seed + 5, limit, count, width) if added else None
    about = (products, group, exponents, 24 if added else 18, limit, stream)
    assert torch.equal(ours.settle(*about), TORCH.settle(*about))


@given(SEEDS, st.integers(1, 5), st.integers(1, 60))
def test_gates_and_rotations_are_alike(seed: int, count: int, width: int) -> None:
    ours, limit = built(), constants.HIDDEN_LIMIT
    rows = words(seed, limit, count, 2 * width)
    assert same(ours.gate(rows), TORCH.gate(rows))
    cos, sin = tables.rope(count, 2 * width, Rotation(Fraction(10_000)))
    heads = words(seed + 1, limit, count, 5, 2 * width)[:, 1:4]
    assert same(ours.place(heads, cos, sin), TORCH.place(heads, cos, sin))


@given(SEEDS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(0, 30), st.data())
def test_attention_is_alike(
    seed: int, groups: int, shared: int, count: int, before: int, data: st.DataObject
) -> None:
    ours, width = built(), data.draw(st.integers(1, 33))
    window, causal = data.draw(st.integers(0, 12)), data.draw(st.booleans())
    positions = before + count
    queries = words(seed, 32767, groups * shared, count, width), words(seed, 30, groups * shared, count)
    keys = words(seed + 1, 32767, groups, positions, width), words(seed + 2, 30, groups, positions)
    values = words(seed + 3, constants.HIDDEN_LIMIT, groups, positions, width)
    held = Rows(keys[0].to(torch.int16), keys[1].to(torch.int32)), values.to(torch.int32)
    about = (Rows(*queries), *held, before if causal else None, window if causal else 0)
    assert torch.equal(ours.attend(*about), TORCH.attend(*about))


def moduli() -> Iterator[int]:
    yield from (*constants.PRIMES, constants.LWE_MODULUS)


@pytest.mark.parametrize("modulus", constants.PRIMES)
def test_what_is_refused_is_refused_alike(compiled: Steps, modulus: int) -> None:
    def refusal(ours: Steps, rows: int, pad: int, answer: int) -> list[Refusal | None]:
        found = list[Refusal | None]()
        row, pads, product = (torch.tensor([[0, 1, each]]) for each in (rows, pad, answer))
        for run in (
            lambda: ours.mask(row, pads.clone(), modulus),
            lambda: ours.unmask(product, pads.clone(), modulus),
            lambda: ours.pack(product, modulus),
            lambda: ours.verifies(
                check_of(torch.ones_like(row), torch.ones_like(row), modulus), pads, product
            ),
            lambda: ours.mask(row, pads[:, :2], modulus),
            lambda: ours.mask(row[:0], pads[:0], modulus),
            lambda: ours.pack(product, modulus - 1),
        ):
            try:
                run()
                found.append(None)
            except Refused as refused:
                found.append(refused.reason)
        return found

    for given_ in ((32767, modulus - 1, modulus - 1), (32768, 1, 1), (-32768, 1, -1), (1, modulus, modulus)):
        assert refusal(compiled, *given_) == refusal(TORCH, *given_)


@given(SEEDS, st.integers(1, 5), st.integers(1, 40), st.sampled_from(list(moduli())), st.booleans())
def test_bytes_and_elements_are_alike(
    seed: int, rows: int, columns: int, modulus: int, outside: bool
) -> None:
    ours = built()
    generator = torch.Generator().manual_seed(seed)
    elements = torch.randint(0, min(modulus, 2**63 - 1), (rows, columns), generator=generator)
    data = TORCH.pack(elements, modulus)
    assert ours.pack(elements, modulus) == data
    assert torch.equal(ours.unpack(data, rows, columns, modulus), elements)
    assert torch.equal(ours.unpack(bytearray(data), rows, columns, modulus), elements)
    if outside:
        spoilt = bytearray(data)
        width = len(data) // elements.numel()
        spoilt[-width:] = b"\xff" * width
        for each in (ours, TORCH):
            with pytest.raises(Refused) as refused:
                each.unpack(spoilt, rows, columns, modulus)
            assert refused.value.reason is Refusal.NOT_IN_FIELD
    with pytest.raises(Refused):
        ours.unpack(data[1:], rows, columns, modulus)


@example(1, 1, 1, 50_000, constants.PRIMES[-1])
@given(SEEDS, st.integers(1, 3), st.integers(1, 70), st.integers(1, 4200), st.sampled_from(constants.PRIMES))
def test_products_are_checked_alike(seed: int, rows: int, inner: int, outputs: int, modulus: int) -> None:
    generator, ours = torch.Generator().manual_seed(seed), built()
    masked = torch.randint(0, modulus, (rows, inner), generator=generator)
    masked[0], masked[:, 0] = modulus - 1, modulus - 1
    weights = torch.randint(-(2**15) + 1, 2**15, (outputs, inner), generator=generator).to(torch.int16)
    check, right = prepare(SeededTape(bytes(32)), 0, weights, modulus), multiply(masked, weights, modulus)
    wrong = right.clone()
    wrong[seed % rows, -1] = (wrong[seed % rows, -1] + 1) % modulus
    for product, verdict in ((right, True), (wrong, False)):
        assert ours.verifies(check, masked, product) is TORCH.verifies(check, masked, product) is verdict


@given(SEEDS, st.integers(1, 3), st.integers(1, 1100), st.sampled_from(constants.PRIMES))
def test_masked_rows_come_with_their_bytes(seed: int, rows: int, columns: int, modulus: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pads = torch.randint(0, modulus, (rows, columns), generator=generator)
    masked, data = built().mask(words(seed, constants.ACTIVATION_LIMIT, rows, columns), pads, modulus)
    assert data == TORCH.pack(masked, modulus)


def test_a_secret_that_c_cannot_overwrite_is_not_used(compiled: Steps) -> None:
    words_, apart = torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64).T
    for run in (compiled.mask, compiled.unmask):
        with pytest.raises(ValueError, match="copy of a secret"):
            run(words_, apart, constants.PRIMES[0])


@given(SEEDS, st.integers(1, 30), st.integers(1, 9))
def test_draws_are_alike(seed: int, count: int, columns: int) -> None:
    draw, generator = chosen_draws(), np.random.default_rng(seed)
    limits = np.sort(generator.integers(0, 2**64 - 1, (7, columns), dtype=np.uint64, endpoint=True), axis=1)
    ids, words = generator.integers(0, 7, count), generator.choice(limits.ravel(), count)
    about = (ids, words + np.uint64(seed % 2), limits, np.arange(7), np.arange(100)[::-1])
    assert np.array_equal(draw(*about), draws.portable(*about))


def test_what_c_would_misread_is_not_passed_on() -> None:
    ours = built()
    rows, gains = words(1, 2**20, 2, 8), words(2, 2**20, 7)
    with pytest.raises(ValueError, match="not int64"):
        ours.rms_norm(rows, gains, 20, Fraction(1, 2**20))
    with pytest.raises(ValueError, match="not int64"):
        ours.quantise(rows.to(torch.int32), 20)
    made = Compiled.load()
    assert made is not None
    with pytest.raises(ValueError, match="rows of 8"):
        made.exact(rows, torch.ones(3, 7, dtype=torch.int16))
    with pytest.raises(ValueError, match="int32"):
        made.exact(rows, torch.ones(3, 8, dtype=torch.int32))
