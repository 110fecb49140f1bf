"""`veil import`: the integers of a small checkpoint, recomputed in Fractions, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from conftest import checkpoint_tensors, write_checkpoint
from veil.importer import INTEGER_FILE, import_model
from veil_optimized import model
from veil_reference import quantise
from veil_spec.refusals import Refusal, Refused

GROUPS = {
    "layers.1.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "layers.1.gate_up": ["mlp.gate_proj", "mlp.up_proj"],
    "layers.0.down": ["mlp.down_proj"],
}


def test_every_weight_is_the_one_that_exact_rational_arithmetic_gives(imported: Path) -> None:
    tensors = model.load(imported / INTEGER_FILE).tensors
    floats = checkpoint_tensors()
    for group, members in GROUPS.items():
        rows = torch.cat([floats[f"model.{group.rpartition('.')[0]}.{member}.weight"] for member in members])
        expected = [quantise.quantise_weights(row) for row in rows.tolist()]
        assert tensors[f"{group}.weights"].tolist() == [list(row.values) for row in expected]
        assert tensors[f"{group}.mantissa"].tolist() == [row.mantissa for row in expected]
        assert tensors[f"{group}.exponent"].tolist() == [row.exponent for row in expected]
    gains, exponent = quantise.quantise_gains(floats["model.norm.weight"].tolist())
    assert tensors["final_norm.gains"].tolist() == list(gains)
    assert tensors["final_norm.exponent"].tolist() == [exponent]


def test_the_integer_model_follows_the_float_model(checkpoint: Path, imported: Path) -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    loaded = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    with torch.no_grad():
        expected = loaded(torch.tensor([tokens])).logits[0]
    integer = model.Decoder(model.load(imported / INTEGER_FILE)).step(tokens, every_position=True)
    error = float((integer.double() / 2**18 - expected).abs().max())
    assert error < 2**-8
    assert error > 0


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"model_type": "qwen2"}, Refusal.MODEL_UNSUPPORTED),
        ({"attention_bias": True}, Refusal.MODEL_UNSUPPORTED),
        ({"hidden_act": "gelu"}, Refusal.MODEL_UNSUPPORTED),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, Refusal.MODEL_UNSUPPORTED),
        ({"hidden_size": "24"}, Refusal.MODEL_UNSUPPORTED),
        ({"num_attention_heads": 0}, Refusal.MODEL_UNSUPPORTED),
        ({"num_hidden_layers": 3}, Refusal.MODEL_MALFORMED),
        ({"intermediate_size": 40}, Refusal.MODEL_MALFORMED),
    ],
)
def test_an_unsupported_configuration_is_refused_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, object], refusal: Refusal
) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors(), **changes)
    with pytest.raises(Refused) as refused:
        import_model(source, tmp_path / "target")
    assert refused.value.reason is refusal
    assert refused.value.detail
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.requirement("MDL-P1")
def test_a_wrong_type_a_missing_tensor_and_a_nan_are_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    for number, (tensor, refusal) in enumerate(
        [
            (torch.ones(44, 24, dtype=torch.int8), Refusal.MODEL_UNSUPPORTED),
            (None, Refusal.MODEL_MALFORMED),
            (torch.full((44, 24), float("nan")), Refusal.WEIGHT_NOT_FINITE),
        ]
    ):
        tensors = checkpoint_tensors() | ({} if tensor is None else {name: tensor})
        if tensor is None:
            del tensors[name]
        source = write_checkpoint(tmp_path / f"source{number}", tensors)
        with pytest.raises(Refused) as refused:
            import_model(source, tmp_path / "target")
        assert refused.value.reason is refusal
        assert not (tmp_path / "target").exists()


@pytest.mark.requirement("MDL-P1")
def test_an_existing_target_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="exists already"):
        import_model(checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    "spare", ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.q_norm.weight"]
)
def test_a_tensor_that_a_plain_llama_lacks_is_refused_by_name(tmp_path: Path, spare: str) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors() | {spare: torch.ones(24)})
    with pytest.raises(Refused, match=spare) as refused:
        import_model(source, tmp_path / "target")
    assert refused.value.reason is Refusal.MODEL_UNSUPPORTED
    assert not (tmp_path / "target").exists()
