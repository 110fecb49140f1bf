"""A GGUF file as a checkpoint: tensors are dequantised one at a time, and carry the names of Hugging Face.

Keys that are not read are refused, since any of them may change what the model computes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from veil.checkpoint import Checkpoint, Entry, malformed, reading
from veil.families.family import Config, number, unsupported

if TYPE_CHECKING:
    from gguf import GGUFReader

FAMILIES: Final = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Model types by `general.architecture`; files of Mistral say llama, and such a file has no window."""
PERMUTED: Final = ("llama", "mistral")
"""Architectures whose q and k rows are stored pair by pair."""
KEYS: Final = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "expert_count": "num_experts",
}
"""What metadata call the values of a configuration."""
CHECKED: Final = ("vocab_size", "rope.dimension_count", "attention.value_length", "rope.scaling.type")
"""Keys that must agree with the others."""
NEUTRAL: Final = ("tensor_data_layout", "expert_used_count")
"""Keys that change nothing, or nothing in a model without experts."""
OUTER: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INNER: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def open_gguf(path: Path) -> Checkpoint:
    """Return the open checkpoint of a GGUF file. Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED."""
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as error:
        raise malformed("reading .gguf files needs the package gguf: install veil[import]") from error
    with reading(path):
        reader = GGUFReader(path)
        tensors = {_renamed(tensor.name): tensor for tensor in reader.tensors}
        entries = {
            name: Entry("F32", [int(count) for count in reversed(tensor.shape)])
            for name, tensor in tensors.items()
        }
        metadata = _metadata(reader)
    config = _config(metadata, entries)
    heads = _paired_heads(str(metadata["general.architecture"]), config)

    def get(name: str) -> torch.Tensor:
        stored = tensors[name]
        with reading(path):
            try:
                floats = torch.tensor(dequantize(stored.data, stored.tensor_type))
            except NotImplementedError as error:
                raise unsupported(f"tensor {name} has the type {stored.tensor_type.name}") from error
            count = next((count for part, count in heads.items() if f".{part}." in name), None)
            return _in_halves(floats, count) if count else floats

    return Checkpoint(config, entries, get)


def _paired_heads(architecture: str, config: Config) -> dict[str, int]:
    """Return the head counts of the projections whose rows are stored pair by pair."""
    if architecture not in PERMUTED:
        return {}
    heads = number(config, "num_attention_heads")
    return {"q_proj": heads, "k_proj": number(config, "num_key_value_heads", heads)}


def _metadata(reader: "GGUFReader") -> dict[str, object]:
    kept = (field for field in reader.fields.values() if not field.name.startswith("tokenizer."))
    return {field.name: field.contents() for field in kept}


def _renamed(name: str) -> str:
    base, _, end = name.rpartition(".")
    if base in OUTER:
        return f"{OUTER[base]}.{end}"
    found = LAYER.fullmatch(name)
    return f"model.layers.{found[1]}.{INNER.get(found[2], found[2])}.{found[3]}" if found else name


def _config(metadata: Mapping[str, object], entries: Mapping[str, Entry]) -> Config:
    """Return the configuration that a file's metadata state."""
    if metadata.get("split.count", 1) not in (0, 1):
        raise unsupported("the GGUF file is one of several: merge them with `gguf-split --merge`")
    architecture = metadata.get("general.architecture")
    prefix = f"{architecture}."
    given = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    if architecture not in FAMILIES and not given.get("expert_count"):
        raise unsupported(f"architecture {architecture!r} of a GGUF file is not supported")
    config = {KEYS[key]: value for key, value in given.items() if key in KEYS}
    unread = set(given) - set(KEYS) - set(CHECKED) - set(NEUTRAL)
    if not given.get("expert_count"):
        _check(given, unread, set(entries), config)
    embedding = entries.get("model.embed_tokens.weight")
    biased = any(name.endswith("q_proj.bias") for name in entries)
    return config | {
        "model_type": FAMILIES.get(str(architecture), architecture),
        "vocab_size": embedding.size[0] if embedding else given.get("vocab_size"),
        "tie_word_embeddings": "lm_head.weight" not in entries,
        "attention_bias": biased,
        "mlp_bias": any(name.endswith("up_proj.bias") for name in entries),
        "sliding_window": None,
    }


def _check(
    given: Mapping[str, object], unread: set[str], names: set[str], config: Mapping[str, object]
) -> None:
    scaled = given.get("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in names
    if scaled or any(key.startswith("rope.scaling") for key in unread):
        raise unsupported(
            "scaled rotations of GGUF files are not supported: import the safetensors checkpoint"
        )
    if unread:
        raise unsupported(f"the GGUF file has {min(unread)!r}, which is not supported")
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(heads, int) and isinstance(width, int) and heads > 0:
        head_width = config.get("head_dim", width // heads)
        for key in ("rope.dimension_count", "attention.value_length"):
            if given.get(key, head_width) != head_width:
                raise unsupported(f"the GGUF file's {key} differs from the head width {head_width}")


def _in_halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows with the first of all pairs of a head before the second, as rotations take them."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
