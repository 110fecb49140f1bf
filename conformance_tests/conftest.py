"""Fixtures of the house's own tests; nothing here belongs to the shipped suite."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from veil.importer import import_model

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the tree under test."""
    return Path(__file__).resolve().parent.parent


def checkpoint_tensors() -> dict[str, torch.Tensor]:
    """Return the float tensors of a small random Llama by their Hugging Face names, float32."""
    generator = torch.Generator().manual_seed(7)
    width, inner, vocabulary, kv_width = 24, 44, 61, 8

    def weights(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator) * 0.2

    tensors = {
        "model.embed_tokens.weight": weights(vocabulary, width),
        "lm_head.weight": weights(vocabulary, width),
    }
    tensors["model.norm.weight"] = 1 + weights(width)
    for layer in ("model.layers.0", "model.layers.1"):
        tensors[f"{layer}.input_layernorm.weight"] = 1 + weights(width)
        tensors[f"{layer}.post_attention_layernorm.weight"] = 1 + weights(width)
        for name, size in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (kv_width, width),
            "self_attn.v_proj": (kv_width, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }.items():
            tensors[f"{layer}.{name}.weight"] = weights(*size)
    return tensors


def write_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], **changes: object) -> Path:
    """Return a new Hugging Face directory with these tensors, a configuration and a word tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file(tensors, folder / "model.safetensors")
    words = {f"w{number}": number for number in range(60)} | {"<unk>": 60}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small random Llama as Hugging Face writes it."""
    return write_checkpoint(tmp_path_factory.mktemp("float") / "tiny", checkpoint_tensors())


@pytest.fixture(scope="session")
def imported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory that `veil import` makes of the small Llama."""
    folder = tmp_path_factory.mktemp("integer") / "tiny"
    import_model(checkpoint, folder)
    return folder
