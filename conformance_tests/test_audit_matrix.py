"""The matrix's verdicts: what must fail them does, and every attack has the cells that it needs."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import sweeps
from veil_conformance.attacks import base, modular, sequential, targets
from veil_conformance.attacks.base import Attack, Public
from veil_conformance.attacks.registry import ATTACKS
from veil_conformance.attacks.targets import Setting
from veil_conformance.audit import costs, random_model, trials
from veil_conformance.audit.claims import attacks
from veil_conformance.audit.matrix import Bench, Cell, Matrix, Subject, Trial, remembered
from veil_conformance.audit.statistics import paired
from veil_optimized import wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.profiles import Masking
from veil_optimized.session import Channel
from veil_optimized.tape import SeededTape
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refused

TOKENS: Final = 2_000
MODEL: Final = random_model.random_model("random", replace(random_model.SMALL, layers=2, vocabulary=200), 7)
WORDS: Final = base.vocabulary(MODEL)
LOOK_UP: Final = next(attack for attack in ATTACKS if attack.name == "annihilator look-up")


def fresh() -> SeededTape:
    return SeededTape(os.urandom(constants.SEED_BYTES))


def subject(count: int = TOKENS) -> Subject:
    return trials.at_first_layer("random", MODEL, WORDS, count, np.random.default_rng(3))


def trial(target: str, expected: str, attack: Attack = LOOK_UP, share: float = 0.99) -> Trial:
    return Trial(attack, target, target, Setting(fresh()), expected, share)


def held(cell: Cell) -> bool:
    return Matrix([cell]).hold(lambda cell: True)


def test_pad_hides_and_rank_is_read() -> None:
    bench = Bench(subject(), fresh)
    assert held(bench.run(trial("pad", "hidden")))
    assert held(bench.run(trial("rank", "read")))


def test_negative_control_rank_in_the_place_of_pad_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "pad", targets.rank)
    cell = Bench(subject(), fresh).run(trial("pad", "hidden"))
    assert not held(cell)
    assert cell.comparison is not None and cell.comparison.p_value < 1e-100


@pytest.mark.parametrize("leak", [0.02, 1.0])
def test_negative_control_a_pad_that_is_left_out_now_and_then_is_noticed(
    monkeypatch: pytest.MonkeyPatch, leak: float
) -> None:
    def leaking(plain: targets.Plain, setting: Setting) -> base.View:
        hidden, shown = targets.pad(plain, setting), targets.unmasked(plain, setting)
        (one,), (other,) = hidden.sightings, shown.sightings
        bare = np.random.default_rng(1).random(len(one.masked)) < leak
        return base.View(
            hidden.tokens, (replace(one, masked=np.where(bare[:, None], other.masked, one.masked)),)
        )

    monkeypatch.setitem(targets.TARGETS, "pad", leaking)
    assert not held(Bench(subject(), fresh).run(trial("pad", "hidden")))


def test_negative_control_an_attack_that_finds_nothing_is_noticed() -> None:
    blind = replace(LOOK_UP, guess=lambda public, view: [0] * view.tokens)
    assert not held(Bench(subject(), fresh).run(trial("rank", "read", blind)))


@pytest.mark.parametrize(("target", "expected"), [("pad", "hidden"), ("rank", "read")])
def test_negative_control_too_few_tokens_decide_nothing(target: str, expected: str) -> None:
    assert not held(Bench(subject(TOKENS - 1), fresh).run(trial(target, expected)))


def test_negative_control_a_published_attack_that_reads_is_noticed() -> None:
    nearest = next(attack for attack in ATTACKS if attack.name == "nearest neighbour")
    shared = trial("real rank", "few", nearest, 0.1)
    bench = Bench(subject(), fresh)
    assert held(bench.run(shared))
    assert not held(bench.run(replace(shared, setting=Setting(fresh(), sigma=1.0))))


def test_negative_control_units_that_are_too_few_decide_nothing() -> None:
    right = tuple([True] * TOKENS)
    cell = Cell("m", "a", "pad", "pad", "hidden", 0, TOKENS, "", right)
    equal = replace(cell, comparison=paired(right, right, [0] * TOKENS))
    assert not held(equal)
    assert held(replace(equal, comparison=paired(right, right)))


def test_the_level_is_shared_by_all_comparisons() -> None:
    right = tuple([True] * TOKENS)
    compared = Cell("m", "a", "pad", "pad", "hidden", 0, TOKENS, "", right, comparison=paired(right, right))
    matrix = Matrix([compared] * 40 + [replace(compared, comparison=None)])
    assert (matrix.comparisons, matrix.level) == (40, 1e-3 / 40)
    assert not matrix.hold(lambda cell: False)


def test_an_attack_that_was_not_tried_is_named() -> None:
    done = [
        Cell("m", attack.name, "pad", target, "hidden", 0, 0, "")
        for attack in ATTACKS
        for target in (*attack.breaks, "pad", "lwe")
    ]
    assert Matrix(done).untried() == []
    left_out = [cell for cell in done if (cell.attack, cell.target) != (LOOK_UP.name, "lwe")]
    assert Matrix(left_out).untried() == [f"{LOOK_UP.name}: lwe"]
    refused = [replace(cell, expected="refused") if cell.target == "lwe" else cell for cell in done]
    assert len(Matrix(refused).untried()) == len(ATTACKS)
    assert {claim.id for claim in attacks(Matrix(left_out)) if claim.verdict == "fails"} >= {
        "every-attack-was-tried"
    }


def guesses_of(attack: Attack, prompts: list[list[int]], run: Callable[[], None] = lambda: None) -> object:
    public = Public(WORDS, MODEL)
    taps = trials.taps_of(MODEL.shape.layers)
    found = []
    for number, prompt in enumerate(prompts):
        plain = targets.plain_of(MODEL, prompt, (0, *taps))
        view = targets.rank(plain, Setting(SeededTape(bytes([number]) * 32)))
        found.append(attack.guess(public, view))
    return found


@pytest.mark.parametrize("name", ["sequential matching, head", "stacked bases", "annihilator look-up"])
def test_what_is_remembered_changes_no_guess(name: str) -> None:
    attack = next(attack for attack in ATTACKS if attack.name == name)
    prompts = [[3, 1, 4], [3, 1, 5]]
    before = guesses_of(attack, prompts)
    null_vectors, branches = modular.null_vectors, sequential.Branches
    with remembered():
        assert guesses_of(attack, prompts) == before == prompts
        assert sequential.Branches is not branches
    assert (modular.null_vectors, sequential.Branches) == (null_vectors, branches)


@pytest.mark.parametrize(("name", "masking"), [("pad", Masking()), ("rank", Masking("rank", costs.RATIO))])
def test_costs_are_what_an_epoch_takes(name: str, masking: Masking) -> None:
    stated = next(cost for cost in costs.profile_costs(MODEL) if cost.profile == name)
    worker = Worker(place(MODEL, "cpu"), MODEL.digest)
    with Channel(LocalTransport(worker.handle), bytes(16)) as channel:
        enclave = Enclave(MODEL, channel, replace(masking, check=False))
        enclave.open()
        setup = channel.bytes_sent + channel.bytes_received
        enclave.mint_ahead(0, 1)
        Decoder(MODEL, enclave.products).step([5])
        moved = channel.bytes_sent + channel.bytes_received - setup
    frames = 2 * len(MODEL.groups) * wire.HEADER_BYTES
    assert moved == stated.bytes + frames
    assert (enclave.cost.macs_offline, enclave.cost.macs_online) == (stated.ahead, stated.online)


def test_lwe_is_refused_by_number_on_narrow_layers() -> None:
    stated = next(cost for cost in costs.profile_costs(MODEL) if cost.profile == "lwe")
    assert "inner dimension" in stated.refused and not stated.online


def test_a_pool_of_processes_comes_to_the_cells_of_this_process(imported: Path) -> None:
    path = imported / INTEGER_FILE
    here = sweeps.cells(sweeps.Here(), path)
    with trials.own_executor() as pool:
        assert sweeps.cells(pool, path) == here
    assert {cell.subject for cell in here if isinstance(cell, Cell)} == {
        trials.REAL,
        trials.WIDE,
        trials.SMALL,
    }


def test_a_section_that_fails_fails_the_sweep(tmp_path: Path) -> None:
    with trials.own_executor() as pool, pytest.raises(Refused, match="MODEL_MALFORMED"):
        sweeps.cells(pool, tmp_path / "missing")
