"""`veil import`: the integers of a small checkpoint, recomputed in Fractions, and what is refused."""

import json
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import family_models
from conftest import CONFIG, checkpoint_tensors, write_checkpoint
from veil import importer
from veil.checkpoint import open_checkpoint
from veil.families import FAMILIES, family_of
from veil.importer import import_model
from veil_optimized import decoder, model
from veil_reference import quantise
from veil_spec.architecture import INTEGER_FILE, DecoderShape, Precision, Rotation
from veil_spec.refusals import Refusal, Refused

GROUPS = {
    "layers.1.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "layers.1.gate_up": ["mlp.gate_proj", "mlp.up_proj"],
    "layers.0.down": ["mlp.down_proj"],
}
UP = "model.layers.0.mlp.up_proj.weight"


def refused(source: str | Path, target: Path) -> Refused:
    """Return how an import is refused, which must leave nothing behind."""
    before = set(target.parent.iterdir())
    with pytest.raises(Refused) as caught:
        import_model(source, target)
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    assert set(target.parent.iterdir()) == before
    return caught.value


@pytest.mark.parametrize("precision", Precision)
def test_every_weight_is_the_one_that_exact_rational_arithmetic_gives(
    checkpoint: Path, tmp_path: Path, precision: Precision
) -> None:
    tensors = load_file(import_model(checkpoint, tmp_path / "model", precision=precision))
    floats = checkpoint_tensors()
    for group, members in GROUPS.items():
        rows = torch.cat([floats[f"model.{group.rpartition('.')[0]}.{member}.weight"] for member in members])
        expected = [quantise.quantise_weights(row, precision) for row in rows.tolist()]
        assert tensors[f"{group}.weights"].tolist() == [list(row.values) for row in expected]
        assert tensors[f"{group}.mantissa"].tolist() == [row.mantissa for row in expected]
        assert tensors[f"{group}.exponent"].tolist() == [row.exponent for row in expected]
    gains, exponent = quantise.quantise_gains(floats["model.norm.weight"].tolist())
    assert tensors["final_norm.gains"].tolist() == list(gains)
    assert tensors["final_norm.exponent"].tolist() == [exponent]


def test_biases_of_stacked_maps_share_one_exponent(tmp_path: Path) -> None:
    sample = family_models.write(tmp_path / "source", "qwen2", 0)
    tensors = load_file(import_model(sample.folder, tmp_path / "model"))
    floats = load_file(sample.folder / "model.safetensors")
    parts = [floats[f"model.layers.0.self_attn.{part}_proj.bias"].float() for part in "qkv"]
    biases, exponent = quantise.quantise_gains(torch.cat(parts).tolist())
    assert tensors["layers.0.qkv.bias"].tolist() == list(biases)
    assert tensors["layers.0.qkv.bias_exponent"].tolist() == [exponent]


def test_the_integer_model_follows_the_float_model(checkpoint: Path, imported: Path) -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    loaded = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    with torch.no_grad():
        expected = loaded(torch.tensor([tokens])).logits[0]
    integer = decoder.logits(model.load(imported / INTEGER_FILE), tokens)
    error = float((integer.double() / 2**18 - expected).abs().max())
    assert error < 2**-8
    assert error > 0


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "stated",
    [
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000, **LLAMA3}, "rope_theta": 1.5},
        {
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3},
            "rope_scaling": None,
        },
        {
            "rope_parameters": {},
            "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", **LLAMA3},
        },
    ],
)
def test_older_and_newer_configurations_state_the_same_rotation(stated: dict[str, object]) -> None:
    config = {**CONFIG, "rope_theta": None} | stated
    shape = family_of(config).shape(config, {})
    assert isinstance(shape, DecoderShape)
    assert shape.rotation == Rotation(Fraction(500000), Fraction(8), Fraction(1), Fraction(4), 8192)


@pytest.mark.parametrize(
    ("family", "key", "default"),
    [("llama", "rms_norm_eps", Fraction(1, 10**6)), ("bert", "layer_norm_eps", Fraction(1, 10**12))],
)
def test_the_epsilon_of_a_norm_is_the_decimal_that_is_stated(
    family: str, key: str, default: Fraction
) -> None:
    config = CONFIG | {"model_type": family, "architectures": None, "hidden_act": None}
    shape = FAMILIES[family].shape
    assert shape(config | {key: 3e-6}, {}).norm_epsilon == Fraction(3, 10**6)
    assert shape(config | {key: None}, {}).norm_epsilon == default


@pytest.mark.parametrize(("stated", "window"), [({}, 4096), ({"sliding_window": None}, 0)])
def test_a_mistral_without_a_window_says_so(stated: dict[str, object], window: int) -> None:
    config = CONFIG | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]} | stated
    shape = family_of(config).shape(config, {})
    assert isinstance(shape, DecoderShape)
    assert shape.window == window


UNSUPPORTED: list[tuple[dict[str, object], str]] = [
    ({"model_type": "gpt2"}, "gpt2"),
    ({"model_type": None}, "None"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    ({"model_type": "mixtral"}, "mixture of experts"),
    ({"model_type": "qwen3_moe"}, "mixture of experts"),
    ({"num_local_experts": 8}, "num_local_experts is 8: a mixture of experts"),
    ({"num_experts": 60}, "num_experts is 60: a mixture of experts"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantised .gptq"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"attention_bias": "yes"}, "attention_bias must be true or false"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
    ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "'longrope'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": float("inf")}}, "factor must be a number"),
    ({"rope_scaling": 2.0}, "rope_scaling must be an object"),
    (
        {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_parameters and rope_scaling are both given",
    ),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding attention"),
    ({"hidden_size": "24"}, "hidden_size"),
    ({"num_attention_heads": 0}, "num_attention_heads"),
    ({"max_position_embeddings": 2**18}, "context"),
]


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(("changes", "named"), UNSUPPORTED, ids=lambda value: str(value)[:60])
def test_an_unsupported_configuration_is_refused_by_name_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changes))
    found = refused(source, tmp_path / "target")
    assert found.reason is Refusal.MODEL_UNSUPPORTED
    assert named in found.detail.replace("(", ".")


WINDOWED: dict[str, object] = {
    "use_sliding_window": True,
    "sliding_window": 4,
    "max_window_layers": 0,
    "layer_types": None,
}


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("qwen2", WINDOWED, "sliding attention"),
        ("qwen3", WINDOWED | {"layer_types": ["full_attention", "sliding_attention"]}, "sliding attention"),
        ("qwen2", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ("mistral", {"layer_types": ["sliding_attention", "chunked"]}, "different attention"),
        ("bert", {"hidden_act": "gelu_new"}, "gelu_new"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention"),
        ("bert", {"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification"),
    ],
)
def test_what_a_family_does_not_have_is_refused_by_name(
    tmp_path: Path, family: str, changes: dict[str, object], named: str
) -> None:
    source = family_models.write(tmp_path / "source", family, 0).folder
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changes))
    found = refused(source, tmp_path / "target")
    assert found.reason is Refusal.MODEL_UNSUPPORTED
    assert named in found.detail


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 3}, "lacks the tensor model.layers.2.self_attn.q_proj.weight"),
        ({"intermediate_size": 40}, "gate_proj.weight has shape [44, 24]; [40, 24] is expected"),
        ({"attention_bias": True}, "lacks the tensor model.layers.0.self_attn.q_proj.bias"),
        ({"model_type": "qwen3", "architectures": None, "head_dim": 4}, "q_norm.weight"),
    ],
)
def test_a_configuration_that_does_not_fit_its_tensors_is_refused_by_their_name(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors(), **changes)
    found = refused(source, tmp_path / "target")
    assert found.reason is Refusal.MODEL_MALFORMED
    assert named in found.detail


TENSORS: list[tuple[str, torch.Tensor | None, Refusal, str]] = [
    (UP, torch.ones(44, 24, dtype=torch.int8), Refusal.MODEL_UNSUPPORTED, "type I8"),
    (UP, None, Refusal.MODEL_MALFORMED, "lacks the tensor"),
    (UP, torch.full((44, 24), float("nan")), Refusal.WEIGHT_NOT_FINITE, "no finite float32"),
    (UP, torch.full((44, 24), 1e300, dtype=torch.float64), Refusal.WEIGHT_NOT_FINITE, "no finite float32"),
    (f"{UP}_scale", torch.ones(44, 1), Refusal.MODEL_UNSUPPORTED, "quantised checkpoint"),
    ("model.layers.0.mlp.experts.gate_up_proj", torch.ones(2, 3), Refusal.MODEL_UNSUPPORTED, "like experts"),
    ("model.layers.0.mlp.fused", torch.ones(2, 3, 4), Refusal.MODEL_UNSUPPORTED, "like experts"),
    ("model.layers.0.self_attn.q_proj.bias", torch.ones(24), Refusal.MODEL_UNSUPPORTED, "llama"),
    ("model.layers.1.self_attn.q_norm.weight", torch.ones(24), Refusal.MODEL_UNSUPPORTED, "llama"),
]


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(("name", "tensor", "reason", "named"), TENSORS, ids=lambda value: str(value)[:40])
def test_a_tensor_that_cannot_be_taken_is_refused_by_its_name(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, reason: Refusal, named: str
) -> None:
    kept = {each: value for each, value in checkpoint_tensors().items() if each != name}
    changed = kept if tensor is None else kept | {name: tensor}
    found = refused(write_checkpoint(tmp_path / "source", changed), tmp_path / "target")
    assert found.reason is reason
    assert name in found.detail
    assert named in found.detail


@pytest.mark.requirement("MDL-P1")
def test_an_existing_target_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="exists already"):
        import_model(checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("MDL-P1")
def test_a_tied_model_may_repeat_its_embedding_but_not_differ_from_it(tmp_path: Path) -> None:
    tensors = checkpoint_tensors()
    embedding = tensors["model.embed_tokens.weight"]
    twice = tensors | {"lm_head.weight": embedding.clone()}
    tied = write_checkpoint(tmp_path / "tied", twice, tie_word_embeddings=True)
    assert "head.weights" not in load_file(import_model(tied, tmp_path / "model"))
    other = write_checkpoint(tmp_path / "other", tensors, tie_word_embeddings=True)
    assert "lm_head.weight differs" in refused(other, tmp_path / "target").detail


@pytest.mark.requirement("MDL-P1")
def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors())
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "pytorch_model.bin, a pickle, which is never opened" in refused(source, tmp_path / "t").detail


@pytest.mark.requirement("MDL-P1")
def test_shards_give_the_integers_of_a_single_file_and_a_missing_one_is_named(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole", checkpoint_tensors())
    parts = write_checkpoint(tmp_path / "parts", checkpoint_tensors())
    (parts / "model.safetensors").unlink()
    save_file({"unused": torch.ones(1)}, parts / "consolidated.safetensors")
    names = sorted(checkpoint_tensors())
    where: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: checkpoint_tensors()[name] for name in part}, parts / file)
        where |= dict.fromkeys(part, file)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    first, second = import_model(whole, tmp_path / "one"), import_model(parts, tmp_path / "two")
    assert same(load_file(first), load_file(second))
    (parts / "model-00002-of-00002.safetensors").unlink()
    assert "lacks the shard model-00002-of-00002" in refused(parts, tmp_path / "three").detail
    where["model.norm.weight"] = "../whole/model.safetensors"
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert "no file of the directory" in refused(parts, tmp_path / "three").detail


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"weight_map": [1]}', "cannot be read as a model"),
        ('{"weight_map": {"a": 1}}', "cannot be read as a model"),
        ('{"weight_map": 1}', "cannot be read as a model"),
        ("1", "cannot be read as a model"),
        ("[" * 10**5, "cannot be read as a model"),
        ('{"weight_map": {"a": ""}}', "no file of the directory"),
        ('{"weight_map": {"a": "x\\ny"}}', "no file of the directory"),
        ('{"weight_map": {"a": ".."}}', "lacks the shard"),
    ],
    ids=lambda value: value[:30],
)
def test_an_index_of_odd_content_is_refused_in_one_line(tmp_path: Path, content: str, named: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors.index.json").write_text(content)
    found = refused(source, tmp_path / "target")
    assert found.reason is Refusal.MODEL_MALFORMED
    assert named in found.detail


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_configuration_too_deep_to_read_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors())
    (source / name).write_text("[" * 10**5)
    assert refused(source, tmp_path / "target").reason is Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize("named", [("../../outside", "text"), ("inside", 1)], ids=str)
def test_a_chat_template_that_cannot_be_saved_is_refused_and_leaves_nothing(
    tmp_path: Path, named: tuple[str, object]
) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors())
    config = json.loads((source / "tokenizer_config.json").read_text())
    template = {"name": named[0], "template": named[1]}
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": [template]}))
    assert "a tokenizer that cannot be saved" in refused(source, tmp_path / "target").detail


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_every_float_type_gives_the_integers_of_the_same_numbers_in_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in checkpoint_tensors().items()}
    wide = {name: tensor.to(torch.float32) for name, tensor in narrow.items()}
    first = import_model(write_checkpoint(tmp_path / "narrow", narrow), tmp_path / "one")
    second = import_model(write_checkpoint(tmp_path / "wide", wide), tmp_path / "two")
    assert same(load_file(first), load_file(second))


@pytest.mark.requirement("MDL-P1")
def test_float64_is_rounded_to_float32(tmp_path: Path) -> None:
    rounded = checkpoint_tensors()
    exact = {name: tensor.double() * (1 + 2**-26) for name, tensor in rounded.items()}
    assert not torch.equal(exact[UP], rounded[UP].double())
    first = import_model(write_checkpoint(tmp_path / "exact", exact), tmp_path / "one")
    second = import_model(write_checkpoint(tmp_path / "rounded", rounded), tmp_path / "two")
    assert same(load_file(first), load_file(second))


@pytest.mark.requirement("MDL-P1")
def test_bert_is_read_under_its_older_names_and_its_language_head_is_named_as_unused(tmp_path: Path) -> None:
    sample = family_models.write(tmp_path / "source", "bert", 0)
    kept = load_file(import_model(sample.folder, tmp_path / "new"))
    file = sample.folder / "model.safetensors"
    older = {_older(name): tensor for name, tensor in load_file(file).items()}
    save_file(
        older | {"cls.predictions.bias": torch.ones(3), "cls.seq_relationship.bias": torch.ones(2)}, file
    )
    lines: list[str] = []
    assert same(load_file(import_model(sample.folder, tmp_path / "old", lines.append)), kept)
    assert "not used: cls.predictions.bias and 1 more" in lines


def _older(name: str) -> str:
    name = name.removeprefix("bert.")
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name if name.startswith("classifier") else f"bert.{name}"


OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INNER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gguf_name(name: str) -> str:
    base, _, end = name.rpartition(".")
    if base in OUTER:
        return f"{OUTER[base]}.{end}"
    _, _, layer, inner = base.split(".", 3)
    return f"blk.{layer}.{INNER[inner]}.{end}"


def _pair_by_pair(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Return rows as GGUF files of Llama order them: the two of a pair side by side."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, source: Path, family: str, extra: dict[str, int | str] | None = None) -> Path:
    """Return a GGUF file of a checkpoint's tensors in float32, without a tokenizer."""
    config = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(path, family)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    for key, value in (extra or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    for name, tensor in load_file(source / "model.safetensors").items():
        rows = tensor.float().numpy()
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        count = next((heads[part] for part in heads if f".{part}." in name), None)
        paired = _pair_by_pair(rows, count) if count and family == "llama" else rows
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(paired))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def _integers(source: Path, path: Path) -> dict[str, torch.Tensor]:
    importer.write_integers(path, "model", importer.fitting(open_checkpoint(source)), Precision.W16A16)
    return dict(load_file(path))


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    ("family", "written"), [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")]
)
def test_a_gguf_file_gives_the_integers_of_the_same_safetensors(
    tmp_path: Path, family: str, written: str
) -> None:
    fixed = {"sliding_window": None} if family == "mistral" else {}
    shared = {"rope_parameters": PLAIN, "rms_norm_eps": 2**-20}
    source = family_models.write(tmp_path / "source", family, 0, **shared, **fixed).folder
    path = write_gguf(tmp_path / "model.gguf", source, written)
    assert same(_integers(path, tmp_path / "one"), _integers(source, tmp_path / "two"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.requirement("MDL-P1")
@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled rotations"),
        ({"llama.attention.sliding_window": 7}, "attention.sliding_window"),
        ({"llama.rope.dimension_count": 2}, "rope.dimension_count"),
        ({"split.count": 3}, "one of several"),
    ],
)
def test_a_gguf_file_with_what_is_not_read_is_refused_by_name(
    tmp_path: Path, extra: dict[str, int | str], named: str
) -> None:
    source = family_models.write(tmp_path / "source", "llama", 0, rope_parameters=PLAIN).folder
    found = refused(write_gguf(tmp_path / "model.gguf", source, "llama", extra), tmp_path / "target")
    assert found.reason is Refusal.MODEL_UNSUPPORTED
    assert named in found.detail


@pytest.mark.requirement("MDL-P1")
def test_files_that_are_cut_off_or_no_model_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    cut = write_checkpoint(tmp_path / "cut", checkpoint_tensors())
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[:-1])
    assert "model.safetensors cannot be read" in refused(cut, tmp_path / "target").detail
    (tmp_path / "model.gguf").write_bytes(content[:100])
    assert "model.gguf cannot be read" in refused(tmp_path / "model.gguf", tmp_path / "target").detail
    (tmp_path / "notes.txt").write_text("no model")
    assert "no .gguf file" in refused(tmp_path / "notes.txt", tmp_path / "target").detail
    (cut / "config.json").unlink()
    assert "lacks config.json" in refused(cut, tmp_path / "target").detail
    assert "does not exist" in refused(tmp_path / "nothing", tmp_path / "target").detail


@pytest.mark.requirement("MDL-P1")
def test_a_directory_without_a_tokenizer_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", checkpoint_tensors())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    assert "tokenizer" in refused(source, tmp_path / "target").detail
