"""The benchmark's own figures against brute force and closed forms on vocabularies of a few entries."""

import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks.utility import mechanisms
from benchmarks.utility.__main__ import main
from benchmarks.utility.bench import Drawn, draw_texts
from benchmarks.utility.corpus import Labelled, full_sentences
from benchmarks.utility.mechanisms import Family, Kept, Listed, Mechanism, Santext
from benchmarks.utility.vocabulary import Floats, Ids, Vocabulary, log_odds, with_sentiment

from veil_optimized.partition import directions, paper_candidates

SIZE = 90
FIRST = 10
WORDS = tuple(f"w{number}" for number in range(SIZE))
VOCABULARY = Vocabulary(
    "toy",
    WORDS,
    np.random.default_rng(1).normal(size=(SIZE, 6)),
    {word: number for number, word in enumerate(WORDS)},
)
PRIOR = np.random.default_rng(2).integers(0, 50, SIZE).astype(np.float64)
FAMILIES = [mechanisms.custext, mechanisms.cmif_paper, mechanisms.santext]


def test_recovery_is_the_sum_of_the_largest_joint_probabilities(family: Family) -> None:
    law = dense(family.at(3.0))
    joint = PRIOR[FIRST:, None] * law / PRIOR[FIRST:].sum()
    assert family.at(3.0).recovery(PRIOR) == pytest.approx(joint.max(axis=0).sum(), rel=1e-5)


def test_recovery_depends_on_the_prior(family: Family) -> None:
    assert family.at(3.0).recovery(PRIOR) != pytest.approx(family.at(3.0).recovery(np.ones(SIZE)), rel=1e-3)


def test_epsilon_is_the_largest_log_ratio() -> None:
    law = np.log(dense(mechanisms.santext(VOCABULARY, FIRST).at(3.0)))
    found = mechanisms.santext(VOCABULARY, FIRST).at(3.0).epsilon()
    assert found == pytest.approx(np.ptp(law, axis=0).max(), rel=1e-4)


def test_custext_epsilon_is_the_largest_log_ratio_inside_a_part() -> None:
    mechanism = mechanisms.custext(VOCABULARY, FIRST).at(3.0)
    law = dense(mechanism)
    worst = max(math.log(a / b) for column in law.T for a in column[column > 0] for b in column[column > 0])
    assert mechanism.epsilon() == pytest.approx(worst)
    assert mechanism.epsilon() <= 3.0


def test_cmif_gives_an_output_that_another_entry_cannot_give() -> None:
    mechanism = mechanisms.cmif_paper(VOCABULARY, FIRST).at(3.0)
    law = dense(mechanism)
    assert not np.diag(law).any()
    assert ((law == 0).any(axis=0) & (law > 0).any(axis=0)).any()
    assert mechanism.epsilon() == math.inf


def test_the_nearest_others_are_those_of_the_product() -> None:
    rows = directions(VOCABULARY.vectors)
    nearest, _ = mechanisms.nearest_others(rows, 5)
    for entry in range(SIZE):
        assert set(nearest[entry]) == set(paper_candidates(rows, entry, 5)[0])


@pytest.mark.parametrize("gap", [0.0, 0.3, 2.0, 9.0])
def test_the_quadrature_gives_the_law_of_two_laplace_variables(gap: float) -> None:
    wins = 1 - math.exp(-gap) * (1 + gap / 2) / 2
    assert mechanisms.laplace_law(np.array([[0.0, gap / 4]]), 4.0)[0, 1] == pytest.approx(wins, abs=1e-3)
    assert mechanisms.laplace_law(np.array([[0.0, gap / 4]]), 4.0).sum() == pytest.approx(1)


def test_the_quadrature_notices_the_scale() -> None:
    law = [mechanisms.laplace_law(np.array([[0.0, 0.5]]), nominal)[0, 1] for nominal in (4.0, 2.0)]
    assert law[0] - law[1] > 0.1


def test_draws_follow_the_law(family: Family) -> None:
    counts = np.bincount(family.at(3.0).draw(np.full(20_000, 40), 7), minlength=SIZE)[FIRST:]
    law = dense(family.at(3.0))
    assert distance(counts, law[40 - FIRST]) < 0.05 < distance(counts, law[41 - FIRST])


def test_draws_repeat_under_a_seed_and_differ_between_seeds(family: Family) -> None:
    ids = np.arange(SIZE)
    drawn = [family.at(3.0).draw(ids, seed).tolist() for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][:FIRST] == list(range(FIRST))


def test_matching_finds_the_epsilon_of_a_recovery(family: Family) -> None:
    wanted = family.at(20.0).recovery(PRIOR)
    found = mechanisms.matching(family, wanted, PRIOR)
    assert found is not None
    assert family.at(found).recovery(PRIOR) == pytest.approx(wanted, rel=0.03)
    assert mechanisms.matching(family, 1e-9, PRIOR) is None


def test_only_protected_words_change_and_unknown_words_are_protected() -> None:
    swap = Listed(FIRST, np.full((SIZE - FIRST, 1), 20), np.ones((SIZE - FIRST, 1)), 0.0)
    drawn = draw_texts(["w1 w20", "w30 new w2"], VOCABULARY, FIRST, swap, 0)
    assert drawn == Drawn(("w1 w20", "w20 w20 w2"), protected=3 / 5, changed=2 / 5)


def test_without_noise_only_unknown_words_change() -> None:
    assert draw_texts(["w1 w20 new"], VOCABULARY, FIRST, Kept(FIRST), 0).texts == (f"w1 w20 {WORDS[-1]}",)


def test_full_sentences_are_no_part_of_a_longer_text() -> None:
    labelled = Labelled(("a b", "a b c", "b", "d", "c a"), (1, 0, 1, 0, 1))
    assert full_sentences(labelled) == Labelled(("a b c", "d", "c a"), (0, 0, 1))


def test_words_of_positive_texts_get_higher_log_odds() -> None:
    labelled = Labelled(("w1 w2", "w1 w3", "w4 w3", "w4"), (1, 1, 0, 0))
    found = log_odds(VOCABULARY, labelled)
    assert found[1] > found[3] > found[4]


def test_own_vectors_part_words_of_unlike_sentiment() -> None:
    labelled = Labelled(("w1 w3", "w2 w4"), (1, 0))
    verdicts = np.where(np.arange(SIZE) % 2, 1.0, -1.0)
    own = with_sentiment(VOCABULARY, labelled, verdicts).vectors[:-1]
    cosines = own @ own.T
    alike = cosines[1::2, 1::2].mean(), cosines[::2, ::2].mean()
    assert min(alike) - cosines[1::2, ::2].mean() > 0.2
    assert np.allclose(np.diag(cosines), 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"sentence\tlabel\nno label\n", "'no label'"), (b"\xff", "utf-8")],
)
def test_an_unusable_folder_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "train.tsv").write_bytes(content)
    status = main(["--sst2", str(tmp_path), "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o")])
    shown = capsys.readouterr().err
    assert (status, shown.count("\n"), said in shown, "--sst2" in shown) == (2, 1, True, True)
    assert not (tmp_path / "o").exists()


@pytest.fixture(params=FAMILIES, ids=["custext", "cmif", "santext"])
def family(request: pytest.FixtureRequest) -> Family:
    """Return each family over the toy vocabulary."""
    made: Family = request.param(VOCABULARY, FIRST)
    return made


def dense(mechanism: Mechanism) -> Floats:
    """Return the law as a matrix [protected entries, protected entries]."""
    if isinstance(mechanism, Santext):
        vectors = VOCABULARY.vectors[FIRST:]
        weights = np.exp(-np.linalg.norm(vectors[:, None] - vectors[None], axis=2) * mechanism.nominal / 2)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))
    assert isinstance(mechanism, Listed)
    table = np.zeros((SIZE - FIRST, SIZE - FIRST))
    for row, (outputs, law) in enumerate(zip(mechanism.outputs, mechanism.law, strict=True)):
        np.add.at(table[row], outputs[law > 0] - FIRST, law[law > 0])
    return table


def distance(counts: Ids, law: Floats) -> float:
    """Return the total variation distance of frequencies from a law, 0 to 1."""
    return float(np.abs(counts / counts.sum() - law).sum() / 2)
