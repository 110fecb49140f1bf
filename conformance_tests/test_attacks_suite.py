"""Every attack reads the target that it must break, and names no token of `pad`, `lwe` or uniform rows."""

import operator
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veil_conformance import tiny_model
from veil_conformance.attacks import (
    base,
    modular,
    null_space,
    reused_mask,
    sequential,
    stacked_bases,
    targets,
)
from veil_conformance.attacks.base import Attack, Public, View
from veil_conformance.attacks.registry import ATTACKS
from veil_conformance.attacks.targets import BROKEN, PROFILES, TARGETS, Plain, Setting
from veil_optimized.model import load
from veil_optimized.tape import SeededTape
from veil_spec import constants

WIDTH, WORDS, TOKENS = 32, 2048, 160
MODULUS = constants.PRIMES[1]
SHAPE = replace(tiny_model.SMALL, vocabulary=64, width=12, layers=3, context=64)
TAPS = (0, 4, 8, 12)
PROMPT = 8
SETTING = Setting(SeededTape(bytes(range(32))), mixed=16)
TABLE = [attack for attack in ATTACKS if not attack.needs_model]
DEEP = [attack for attack in ATTACKS if attack.needs_model]
NEARLY_ALL = 0.99
UNLIKELY = 12
"""Hits of a blind guess among TOKENS of WORDS, 0.08 on average, stay below this but once in 10^20 runs."""
UNLIKELY_UNORDERED = 40
"""TOKENS blind guesses in no order hit at most 12.5 on average, and 40 or more once in 10^9 runs."""

Scene = tuple[Public, Plain, list[int]]


@pytest.fixture(scope="module")
def table() -> Scene:
    """Return a vocabulary of random 16-bit rows and a text of different tokens."""
    rows = np.random.default_rng(1).normal(0, 8000, (WORDS, WIDTH)).clip(-32767, 32767).astype(np.int16)
    tokens = random.Random(2).sample(range(WORDS), TOKENS)
    return Public(base.marked(rows)), targets.plain_of_rows(rows[tokens], MODULUS), tokens


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a small model's vocabulary and the inputs of four of its groups for a short prompt."""
    model = load(tiny_model.write(tmp_path_factory.mktemp("model") / "deep.safetensors", SHAPE, b"deep"))
    tokens = random.Random(3).choices(range(SHAPE.vocabulary), k=PROMPT)
    candidates = np.array(sorted({*tokens, *range(24)}))
    public = Public(base.vocabulary(model), model, candidates)
    return public, targets.plain_of(model, tokens, TAPS), tokens


def share(attack: Attack, scene: Scene, view: View) -> float:
    """Return the share of tokens that an attack has."""
    public, _, tokens = scene
    return float(attack.right(view, attack.guess(public, view), tokens).mean())


def at_chance(attack: Attack, scene: Scene, view: View) -> bool:
    """Return whether an attack has no more tokens than blind guesses may."""
    return share(attack, scene, view) * TOKENS < (UNLIKELY_UNORDERED if attack.unordered else UNLIKELY)


def named(attacks: list[Attack]) -> list[object]:
    """Return one case for each attack and target that it must break."""
    return [
        pytest.param(attack, target, id=f"{attack.name}: {target}")
        for attack in attacks
        for target in attack.breaks
    ]


@pytest.mark.parametrize(("attack", "target"), named(TABLE))
def test_an_attack_reads_its_target(attack: Attack, target: str, table: Scene) -> None:
    # A row of 32 elements has too little in it for sigma = 10; on 128 the audit measures that.
    setting = replace(SETTING, sigma=1.5) if target == "real full rank" else SETTING
    assert share(attack, table, TARGETS[target](table[1], setting)) >= NEARLY_ALL


@pytest.mark.parametrize(("attack", "target"), named(DEEP))
def test_an_attack_through_a_tap_reads_its_target(attack: Attack, target: str, deep: Scene) -> None:
    assert share(attack, deep, TARGETS[target](deep[1], SETTING)) == 1


@pytest.mark.requirement("RMO-G1")
@pytest.mark.parametrize("profile", ["pad", "uniform"])
def test_no_attack_reads_rows_of_a_profile(profile: str, table: Scene) -> None:
    view = TARGETS[profile](table[1], SETTING)
    armed = view.armed(targets.rank(table[1], SETTING))
    for attack in TABLE:
        for seen in (view, armed):
            assert at_chance(attack, table, seen), attack.name


@pytest.mark.requirement("RMO-G6")
def test_no_attack_reads_rows_of_lwe(table: Scene) -> None:
    view = targets.noisy_lwe(table[1], SETTING)
    for attack in TABLE:
        assert at_chance(attack, table, view), attack.name


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_no_attack_reads_a_profile_through_taps(profile: str, deep: Scene) -> None:
    public, plain, tokens = deep
    view = TARGETS[profile](plain, SETTING)
    hits = [int(attack.right(view, attack.guess(public, view), tokens).sum()) for attack in DEEP]
    # Of 8 tokens and 24 or more candidates a blind guess has 0.3; 5 or more come once in 10^5 runs.
    assert max(hits) < 5


def test_every_broken_target_is_read_by_some_attack() -> None:
    """`real noise` is read at small scales alone; the curve of copies is in a test of its own."""
    assert {target for attack in ATTACKS for target in attack.breaks} == BROKEN.keys() - {"real noise"}
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.requirement("RMO-G5")
@pytest.mark.parametrize("ratio", [Fraction(1, 2), Fraction(9, 10), Fraction(WIDTH - 1, WIDTH)])
@pytest.mark.parametrize("modulus", constants.PRIMES)
def test_the_annihilator_reads_every_rank_and_field(ratio: Fraction, modulus: int, table: Scene) -> None:
    public, plain, tokens = table
    view = targets.rank(replace(plain, moduli={0: modulus}), replace(SETTING, ratio=ratio))
    assert next(attack for attack in ATTACKS if attack.name == "annihilator look-up").guess(
        public, view
    ) == list(tokens)


def test_stacked_bases_give_rows_of_any_layer(deep: Scene) -> None:
    _, plain, _ = deep
    for setting in (SETTING, replace(SETTING, ratio=Fraction(2, 3))):
        view = targets.independent_bases(plain, setting)
        for tap in TAPS:
            rows = stacked_bases.recovered(view.alike(tap)[0])
            assert rows is not None and np.array_equal(rows, plain.rows[tap])


def test_too_few_bases_give_no_rows_negative_control(deep: Scene) -> None:
    view = targets.independent_bases(deep[1], replace(SETTING, ratio=Fraction(3, 4)))
    assert stacked_bases.recovered(view.alike()[0]) is None
    other = targets.uniform(deep[1], SETTING)
    alike = [replace(seen, masked=next(other.of()).masked) for seen in view.alike()[0]]
    assert stacked_bases.recovered(alike) is None


def test_the_covariance_of_a_full_rank_mask_is_what_opens_it(table: Scene) -> None:
    view = targets.real_full_rank(table[1], replace(SETTING, sigma=1.5))
    blind = replace(view, sightings=tuple(replace(seen, basis=None) for seen in view.sightings))
    likely = next(attack for attack in ATTACKS if attack.name == "maximum likelihood")
    assert share(likely, table, blind) == share(ATTACKS[0], table, view) < 0.9


def test_copies_average_out_and_small_noise_hides_little(table: Scene) -> None:
    attack = next(attack for attack in ATTACKS if attack.name == "maximum likelihood")
    shares = [
        share(attack, table, targets.real_noise(table[1], replace(SETTING, sigma=10.0, copies=copies)))
        for copies in (1, 16, 256)
    ]
    assert shares[0] < 0.2 < shares[1] + 0.2 and shares[2] >= NEARLY_ALL
    assert shares == sorted(shares)


def test_plain_nearest_neighbour_gets_little_from_real_masks(table: Scene) -> None:
    attack = ATTACKS[0]
    assert share(attack, table, targets.real_rank(table[1], SETTING)) < 0.1
    assert share(attack, table, targets.real_rank(table[1], replace(SETTING, sigma=0.1))) >= NEARLY_ALL


def test_bfloat16_hides_no_moderate_mask(table: Scene) -> None:
    view = targets.real_rank(table[1], replace(SETTING, rounding="bfloat16"))
    assert share(null_space_attack(), table, view) >= NEARLY_ALL
    far = targets.real_rank(table[1], replace(SETTING, rounding="bfloat16", sigma=1e5))
    assert share(null_space_attack(), table, far) < 0.5


def null_space_attack() -> Attack:
    return null_space.ATTACK


def test_pairs_are_found_by_their_difference_alone(table: Scene) -> None:
    rows = table[0].words.rows
    search = reused_mask.PairSearch(rows)
    difference = rows[5].astype(np.int64) - rows[900]
    assert search.pair(difference) == (5, 900)
    difference[0] += 1
    assert search.pair(difference) is None
    assert search.pair(np.zeros(WIDTH, dtype=np.int64)) is None


def test_branches_compute_what_a_decoder_computes(deep: Scene) -> None:
    public, _, tokens = deep
    assert public.model is not None
    branches = sequential.Branches(public.model, TAPS)
    for token in tokens[:3]:
        branches.accept(token)
    tried = branches.tried([7, 11, 7])
    for place, token in enumerate([7, 11, 7]):
        plain = targets.plain_of(public.model, [*tokens[:3], token], TAPS)
        for tap in TAPS:
            assert np.array_equal(tried[tap][place], plain.rows[tap][-1])


def test_a_prefix_that_is_not_shown_ends_the_matching(deep: Scene) -> None:
    public, plain, tokens = deep
    view = targets.rank(plain, SETTING)
    cut = [replace(seen, masked=seen.masked[2:], positions=seen.positions[2:]) for seen in view.sightings]
    guess = next(attack for attack in ATTACKS if attack.name.endswith("head")).guess
    assert guess(public, replace(view, sightings=tuple(cut))) == [None] * len(tokens)


MODULI = (*constants.PRIMES, constants.LWE_MODULUS)


def elements(values: list[int]) -> modular.Elements:
    return np.array(values, dtype=np.uint64).view(np.int64)


@given(st.sampled_from(MODULI), st.lists(st.tuples(st.integers(0), st.integers(0)), min_size=1))
def test_arithmetic_of_the_attacker_is_exact(modulus: int, pairs: list[tuple[int, int]]) -> None:
    edges = [(modulus - 1, modulus - 1), (modulus - 1, 1), (0, modulus - 1), (2**32, 2**32)]
    values = [(a % modulus, b % modulus) for a, b in (*edges, *pairs)]
    left, right = (elements(list(column)) for column in zip(*values, strict=True))
    for found, exact in (
        (modular.multiplied, operator.mul),
        (modular.added, operator.add),
        (modular.subtracted, operator.sub),
    ):
        wanted = [int(exact(a, b)) % modulus for a, b in values]
        assert found(left, right, modulus).view(np.uint64).tolist() == wanted
    lifted = modular.centred(left, modulus).tolist()
    assert lifted == [a if 2 * a < modulus else a - modulus for a, _ in values]
    assert np.array_equal(modular.residues(np.array(lifted), modulus), left)


@given(st.sampled_from(MODULI), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32))
def test_null_vectors_are_annihilated_past_a_block(modulus: int, rank: int, spare: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    basis = draw.integers(0, modulus, (rank, rank + spare), dtype=np.uint64).view(np.int64)
    vectors = modular.null_vectors(basis, modulus)
    assert vectors.shape[1] >= min(spare, modular.NULL_VECTORS) and vectors.any(axis=0).all()
    exact = basis.view(np.uint64).astype(object) @ vectors.view(np.uint64).astype(object) % modulus
    assert not exact.any()
