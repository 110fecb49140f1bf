"""Checkpoints that `transformers` makes of random configurations, imported and run against its float64 model.

The error of a position is stated as at most 32 (layers + 1) units of 2**-15 of its largest float64 value, a
unit being the rounding of a 16-bit activation. Where the two largest values are further apart than twice the
bound, the integer model must choose the same one.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import family_models
from family_models import Sample
from veil.importer import import_model
from veil_optimized import decoder, encoder
from veil_optimized.model import load
from veil_spec.architecture import Precision

CONFIGURATIONS = int(os.environ.get("VEIL_FAMILY_CONFIGS", "3"))
UNITS = 32
ACTIVATION_STEP = 2**-15
Change = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """How an integer model compares: its largest error over the bound, positions judged, and those wrong."""

    ratio: float
    positions: int
    judged: int
    wrong: int


def judge(found: torch.Tensor, expected: torch.Tensor, layers: int) -> Judgement:
    """Compare values with the float64 model's [positions, columns]."""
    bound = UNITS * (layers + 1) * ACTIVATION_STEP * expected.abs().amax(-1)
    errors = (found - expected).abs().amax(-1)
    first, second = expected.topk(2).values.unbind(-1)
    clear = first - second > 2 * bound
    differs = found.argmax(-1) != expected.argmax(-1)
    return Judgement(
        float((errors / bound).max()), len(bound), int(clear.sum()), int((clear & differs).sum())
    )


def judged(sample: Sample, target: Path, precision: Precision = Precision.W16A16) -> list[Judgement]:
    """Import a checkpoint and compare all that it computes."""
    model = load(import_model(sample.folder, target, precision=precision))
    layers = model.shape.layers
    if sample.types is None:
        return [judge(decoder.logits(model, sample.tokens).double() / 2**18, sample.expected, layers)]
    stream = encoder.stream(model, sample.tokens, sample.types).double() / 2**24
    found = [judge(stream, sample.expected, layers)]
    if sample.labels is not None:
        labels = encoder.labels(model, sample.tokens, sample.types).double() / 2**18
        found.append(judge(labels.reshape(1, -1), sample.labels.reshape(1, -1), layers))
    return found


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize("family", family_models.FAMILIES)
def test_a_random_checkpoint_of_each_family_computes_what_its_float64_model_does(
    tmp_path: Path, family: str
) -> None:
    every: list[Judgement] = []
    for seed in range(CONFIGURATIONS):
        sample = family_models.write(tmp_path / f"source{seed}", family, seed)
        found = judged(sample, tmp_path / f"target{seed}")
        assert 2 * found[0].judged >= found[0].positions, f"seed {seed}: {found}"
        every += found
    judged_in_all, worst = sum(each.judged for each in every), max(each.ratio for each in every)
    print(f"{family}: {judged_in_all} judged, largest error {worst:.3f} of the bound")
    assert worst <= 1
    assert sum(each.wrong for each in every) == 0


def _swap_keys_and_values(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".k_proj." in name or ".key." in name]:
        other = name.replace(".k_proj.", ".v_proj.").replace(".key.", ".value.")
        tensors[name], tensors[other] = tensors[other], tensors[name]
    save_file(tensors, folder / "model.safetensors")


def _change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _slow_rotation(folder: Path) -> None:
    _change_config(folder, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})


def _wider_window(folder: Path) -> None:
    _change_config(folder, sliding_window=12)


def _no_head_norms(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    even = {name: torch.ones_like(gains) for name, gains in tensors.items() if name.endswith("q_norm.weight")}
    save_file(tensors | even, folder / "model.safetensors")


def _shifted_positions(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("position_embeddings.weight"))
    save_file(tensors | {name: tensors[name].roll(1, 0)}, folder / "model.safetensors")


PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("family", "change", "fixed"),
    [
        ("llama", _swap_keys_and_values, {}),
        ("llama", _slow_rotation, {"rope_parameters": PLAIN}),
        ("mistral", _wider_window, {"sliding_window": 3}),
        ("qwen2", _swap_keys_and_values, {}),
        ("qwen3", _no_head_norms, {}),
        ("bert", _swap_keys_and_values, {}),
        ("bert", _shifted_positions, {}),
    ],
)
def test_negative_control_a_checkpoint_that_was_read_wrongly_fails_the_comparison(
    tmp_path: Path, family: str, change: Change, fixed: dict[str, object]
) -> None:
    sample = family_models.write(tmp_path / "source", family, 0, **fixed)
    assert judged(sample, tmp_path / "right")[0].ratio <= 1
    change(sample.folder)
    found = judged(sample, tmp_path / "wrong")[0]
    assert found.ratio > 1
    assert found.wrong > 0


def test_weights_of_eight_bits_follow_the_same_model_with_its_weights_rounded(tmp_path: Path) -> None:
    sample = family_models.write(tmp_path / "source", "llama", 2)
    coarse = judged(sample, tmp_path / "target", Precision.W8A16)[0]
    assert coarse.ratio > 1
    _round_weights(sample.folder)
    rounded = family_models.answered("llama", sample)
    assert judged(rounded, tmp_path / "rounded", Precision.W8A16)[0].ratio <= 1


def _round_weights(folder: Path) -> None:
    """Replace each row of a linear map by the values that 8-bit weights stand for."""
    from veil_optimized.quantise import quantise_weights

    tensors = load_file(folder / "model.safetensors")
    for name, weights in tensors.items():
        if weights.dim() == 2:
            rows = quantise_weights(weights, Precision.W8A16)
            unit = torch.ldexp(rows.mantissa.double(), -rows.exponent)
            tensors[name] = (rows.values.double() * unit.unsqueeze(-1)).float()
        else:
            tensors[name] = weights.float()
    save_file(tensors, folder / "model.safetensors")
    _change_config(folder, dtype="float32")
