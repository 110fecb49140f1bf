"""The figures on examples worked out by hand, and the commands on checkpoints of two small layers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.fidelity import decoding, measures, sanitized, sources
from benchmarks.fidelity.__main__ import main
from benchmarks.fidelity.measures import Parting
from benchmarks.utility.packages import Unusable
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertForSequenceClassification

import tiny_checkpoint
from family_models import write
from veil.importer import import_model
from veil.vectors import UNKNOWN
from veil_optimized.model import load
from veil_optimized.sanitizer import Recipe, Sanitizer, build
from veil_spec.architecture import Precision

REFERENCE = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.996, 0.0], [0.0, 5.0, 1.0]], dtype=torch.float64)
SUBJECT = torch.tensor([[2.0, 1.0, 0.0], [1.996, 2.0, 0.0], [0.0, 5.0, 1.0]], dtype=torch.float64)
PROSE = "The quick brown fox jumps over the lazy dog. " * 20
ENCODER_SEED = 10


def test_the_figures_are_those_of_an_example_worked_out_by_hand() -> None:
    found = measures.compare(SUBJECT, REFERENCE, [])
    assert (found.positions, found.logits, found.largest_error) == (3, 9, 1.0)
    assert found.rms_error == pytest.approx(math.sqrt((1 + 2 * 0.004**2) / 9))
    assert [flip.position for flip in found.flips] == [1]
    assert (found.flips[0].top_two, found.flips[0].lost) == pytest.approx((0.004, 0.004))
    assert found.reference_gaps == pytest.approx((2, 0.004, 4))
    assert found.subject_gaps == pytest.approx((1, 0.004, 4))
    assert found.faithful


def test_perplexities_are_those_of_the_tokens_that_follow() -> None:
    even = torch.zeros(3, 4, dtype=torch.float64)
    sure = torch.tensor([[math.log(3), 0, 0, 0]] * 3, dtype=torch.float64)
    record = measures.compare(even, sure, [0, 1]).record()
    assert record["subject_perplexity"] == pytest.approx(4)
    assert record["reference_perplexity"] == pytest.approx(math.sqrt(2 * 6))


def test_negative_control_a_nonsense_token_at_a_near_tie_of_two_others_is_unfaithful() -> None:
    """The gap that is judged is that to the token chosen, not to the runner-up."""
    reference = torch.tensor([[2.0, 1.999, -7.0]], dtype=torch.float64)
    found = measures.compare(reference.flip(-1), reference, [])
    assert found.flips[0].top_two == pytest.approx(0.001)
    assert found.widest == pytest.approx(9)
    assert not found.faithful


@pytest.mark.parametrize(("gap", "faithful"), [(0.0099, True), (0.01, False), (0.5, False)])
def test_a_flip_at_a_gap_of_a_hundredth_is_unfaithful(gap: float, faithful: bool) -> None:
    reference = torch.tensor([[gap, 0.0]], dtype=torch.float64)
    assert measures.compare(reference.flip(-1), reference, []).faithful is faithful


def test_joined_comparisons_number_their_positions_on() -> None:
    part = measures.compare(SUBJECT, REFERENCE, [0, 1])
    both = measures.joined([part, part])
    assert [flip.position for flip in both.flips] == [1, 4]
    assert (both.positions, both.logits, both.followed) == (6, 18, 4)
    assert both.rms_error == pytest.approx(part.rms_error)
    assert both.reference_loss == pytest.approx(2 * part.reference_loss)


def test_a_text_parts_where_its_tokens_first_differ() -> None:
    assert measures.parting(7, [0, 0, 1], REFERENCE) is None
    parted = measures.parting(7, [0, 2, 1], REFERENCE)
    assert parted is not None
    assert (parted.prompt, parted.token, parted.lost) == (7, 1, 2.0)
    assert parted.top_two == pytest.approx(0.004)


@pytest.mark.parametrize(("lost", "met"), [(0.0099, True), (0.01, False)])
def test_a_text_that_parts_at_a_gap_of_a_hundredth_misses_the_target(lost: float, met: bool) -> None:
    forced, texts = (
        measures.compare(REFERENCE, REFERENCE, []),
        decoding.Texts(1, 9, (Parting(0, 3, 0.0, lost),)),
    )
    assert decoding.Result("integers", "original", forced, texts, judged=True).met is met
    assert decoding.Result("integers", "original", forced, texts, judged=False).met


def test_cosine_distances_are_those_of_known_angles() -> None:
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    other = torch.tensor([[4.0, 3.0], [0.0, 9.0], [5.0, 5.0]], dtype=torch.float64)
    assert measures.cosine_distances(one, other).tolist() == pytest.approx([1 / 25, 1, 0])


def test_words_are_shown_as_the_reals_that_they_stand_for() -> None:
    assert measures.shown(torch.tensor([2**18, -(2**17)])).tolist() == [1.0, -0.5]


def test_windows_spread_over_the_text_and_do_not_overlap() -> None:
    assert decoding.windows(range(100), 30, 10) == [[*range(10)], [*range(45, 55)], [*range(90, 100)]]
    with pytest.raises(Unusable, match="30 are needed"):
        decoding.windows(range(29), 30, 10)


def test_mode_split_is_held_to_every_label_and_every_word_is_counted() -> None:
    plain = torch.tensor([[5, 1], [2, 3], [9, 8]])
    split = torch.tensor([[5, 1], [2, 4], [9, 8]])
    found = sanitized.compared("w16a16", 2, split, plain, plain.flip(-1), [0, 1, 1])
    assert (found.unlike, found.other_words, found.met) == (0, 1, True)
    assert found.split_accuracy == found.plain_accuracy == pytest.approx(2 / 3)
    assert found.unsanitized_accuracy == pytest.approx(1 / 3)


def test_negative_control_mode_split_with_one_other_label_misses_its_target() -> None:
    """Equal accuracies do not hide unlike labels."""
    plain, split = torch.tensor([[5, 1], [2, 3]]), torch.tensor([[1, 5], [3, 2]])
    found = sanitized.compared("w16a16", 2, split, plain, plain, [0, 0])
    assert found.split_accuracy == found.plain_accuracy
    assert (found.unlike, found.met) == (2, False)


@pytest.mark.parametrize(("precision", "limit"), [("w16a16", 32639), ("w8a16", 127)])
def test_rounded_weights_are_those_of_the_integer_file(
    llama: Path, integers: Callable[[Path, str], Path], precision: str, limit: int
) -> None:
    original = sources.floats(llama, AutoModelForCausalLM)
    made = sources.rounded(load(integers(llama, precision) / "integer.safetensors"), original)
    for name, weights in original.named_parameters():
        other, peak = made.get_parameter(name), weights.abs().amax(-1, keepdim=True)
        assert bool(((other - weights).abs() <= 0.51 * peak / limit).all()), name
    assert not torch.equal(made.lm_head.weight, original.lm_head.weight)


def test_a_decoder_is_faithful_to_its_checkpoint(
    llama: Path, prose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["decoder", str(llama), "--text", str(prose), "--positions", "300", "--new-tokens", "3"]
    status = main([*given, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "decoder.json").read_text())["results"]
    assert status == 0
    assert [result["judged"] for result in results] == [True, False, False, False]
    exact, short, same_weights, rounding = (result["forced"] for result in results)
    assert exact["positions"] == 512
    assert 5 * max(exact["rms_error"], same_weights["rms_error"]) < short["rms_error"]
    assert rounding["rms_error"] == pytest.approx(short["rms_error"], rel=0.1)
    assert exact["subject_perplexity"] == pytest.approx(exact["reference_perplexity"], rel=1e-3)
    assert results[0]["texts"]["prompts"] == len(decoding.PROMPTS)
    assert (tmp_path / "decoder.md").read_text().endswith(capsys.readouterr().out)
    assert (tmp_path / "gaps.png").stat().st_size > 10_000


def test_negative_control_a_decoder_with_one_perturbed_layer_misses_its_target(
    llama: Path, prose: Path, integers: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    """A layer that is 5 % off is reported as unfaithful."""
    other = perturbed(llama, tmp_path / "other", "model.layers.1.mlp.down_proj.weight")
    given = ["decoder", str(llama), "--integer", str(integers(other, "w16a16")), "--positions", "256"]
    given += ["--new-tokens", "3"]
    assert main([*given, "--text", str(prose), "--out", str(tmp_path)]) == 1
    (result,) = json.loads((tmp_path / "decoder.json").read_text())["results"]
    assert (result["judged"], result["met"]) == (True, False)
    assert max(flip["lost"] for flip in result["forced"]["flips"]) >= 0.01
    assert "MISSED" in (tmp_path / "decoder.md").read_text()


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_an_encoder_is_faithful_to_its_checkpoint(kind: str, bert: Path, given: Any, tmp_path: Path) -> None:
    assert main([kind, str(bert), *given[kind], "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / f"{kind}.json").read_text())["results"]
    assert [result["judged"] for result in results] == [True, False, False]
    figures = [result["largest" if kind == "encoder" else "rms_error"] for result in results]
    assert figures[0] < 1e-3
    assert figures[2] < figures[1]


def test_a_classifier_in_mode_split_gives_the_labels_of_plain_integers(
    bert: Path, given: Any, words: Path, tmp_path: Path
) -> None:
    arguments = [*given["classifier"], "--table", str(words), "--precision", "w8a16", "--out", str(tmp_path)]
    assert main(["classifier", str(bert), *arguments]) == 0
    split = json.loads((tmp_path / "classifier.json").read_text())["results"][-1]
    assert (split["sentences"], split["unlike"], split["other_words"]) == (60, 0, 0)
    assert split["changed"] > 50
    assert "mode split" in (tmp_path / "classifier.md").read_text()


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_negative_control_an_encoder_with_one_perturbed_layer_misses_its_target(
    kind: str, bert: Path, given: Any, integers: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    """A layer whose output has the other sign is reported as unfaithful."""
    other = perturbed(bert, tmp_path / "other", "bert.encoder.layer.0.output.dense.weight", -1.0)
    folder = integers(other, "w16a16")
    assert main([kind, str(bert), *given[kind], "--integer", str(folder), "--out", str(tmp_path)]) == 1
    assert "MISSED" in (tmp_path / f"{kind}.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decoder", "{nothing}", "--text", "{prose}"], "does not exist"),
        (["decoder", "{llama}", "--text", "{nothing}"], "No such file"),
        (["decoder", "{llama}", "--text", "{prose}", "--positions", "9999"], "give more text"),
        (["encoder", "{llama}", "--sentences", "{prose}", "--count", "1"], "command decoder"),
        (["decoder", "{bert}", "--text", "{prose}"], "command encoder or classifier"),
        (["encoder", "{bert}", "--sentences", "{prose}", "--count", "2"], "give more files"),
        (["classifier", "{bert}", "--tsv", "{prose}"], "sentence, tab, 0 or 1"),
    ],
)
def test_unusable_input_is_named_in_one_line(
    arguments: list[str],
    said: str,
    llama: Path,
    bert: Path,
    prose: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"llama": llama, "bert": bert, "prose": prose, "nothing": tmp_path / "nothing"}
    status = main([*(argument.format(**places) for argument in arguments), "--out", str(tmp_path)])
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("benchmarks.fidelity: ")]
    assert (status, len(last), said in last[0]) == (2, 1, True)


def perturbed(checkpoint: Path, target: Path, name: str, factor: float = 1.05) -> Path:
    """Return a copy of a checkpoint, one of whose tensors is multiplied."""
    target.mkdir()
    for path in checkpoint.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(target / "model.safetensors")
    tensors[name] = tensors[name] * factor
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEIL_CACHE", str(tmp_path_factory.getbasetemp() / "fidelity-cache"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama checkpoint whose logits are far apart."""
    return tiny_checkpoint.write(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random BERT classifier of two labels."""
    folder = tmp_path_factory.mktemp("bert")
    write(folder, "bert", ENCODER_SEED, num_labels=2)
    named = json.loads((folder / "config.json").read_text())["architectures"]
    assert named == [BertForSequenceClassification.__name__]
    return folder


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of text, with one sentence again and again."""
    path = tmp_path_factory.mktemp("prose") / "prose.md"
    path.write_text(PROSE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what the commands for encoders need beside the checkpoint: sentences with labels."""
    drawn = torch.Generator().manual_seed(1)
    rows = [" ".join(f"w{n}" for n in torch.randint(30, (9,), generator=drawn).tolist()) for _ in range(60)]
    path = tmp_path_factory.mktemp("given") / "rows.tsv"
    path.write_text(
        "\n".join(["sentence\tlabel", *(f"{row}\t{place % 2}" for place, row in enumerate(rows))])
    )
    return {"encoder": ["--sentences", str(path), "--count", "50"], "classifier": ["--tsv", str(path)]}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of the words in the sentences, all protected."""
    entries = [*(f"w{number}" for number in range(30)), UNKNOWN]
    vectors = np.random.default_rng(1).standard_normal((len(entries), 4)).astype(np.float32)
    recipe = Recipe("words", "words", part_size=4, epsilons=("0.1",), verbatim=frozenset({30}))
    path = tmp_path_factory.mktemp("words") / "table"
    Sanitizer(build(entries, vectors, recipe)).save(path)
    return path


@pytest.fixture
def integers(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Return what gives the folder with a checkpoint's integers."""

    def imported(checkpoint: Path, precision: str) -> Path:
        return import_model(checkpoint, tmp_path / precision, precision=Precision(precision)).parent

    return imported
