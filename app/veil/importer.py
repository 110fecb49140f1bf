"""`veil import`: from a Hugging Face or GGUF Llama to one integer file, beside its tokenizer."""

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from veil_optimized.model import tensor_shapes
from veil_optimized.quantise import quantise_gains, quantise_weights
from veil_spec import __version__
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import ModelShape

INTEGER_FILE: Final = "integer.safetensors"
FLOAT_TYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
ALLOWED_SPARE: Final = ("rotary_emb.inv_freq", "rotary_emb.original_inv_freq")
"""Ends of the names of tensors that a configuration implies."""
Config = dict[str, object]
Read = Callable[[str], torch.Tensor]
Progress = Callable[[str], None]


def _unsupported(detail: str) -> Refused:
    return Refused(Refusal.MODEL_UNSUPPORTED, detail)


def _number(config: Config, key: str, default: object = None) -> int:
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise _unsupported(f"config.json: {key} must be a positive integer")
    return value


def _rational(value: object, key: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unsupported(f"config.json: {key} must be a number")
    return Fraction(repr(value))


def _rope_theta(config: Config) -> Fraction:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise _unsupported("config.json: scaled RoPE is not supported yet")
    return _rational(rope.get("rope_theta", config.get("rope_theta", 10000.0)), "rope_theta")


def shape_of(config: Config) -> ModelShape:
    """Return the shape that a Llama configuration states. Refuses: MODEL_UNSUPPORTED."""
    if config.get("model_type") != "llama":
        raise _unsupported(
            f"architecture {config.get('model_type')!r} is not supported; this edition runs llama"
        )
    for key, allowed in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, allowed) != allowed:
            raise _unsupported(f"config.json: {key} must be {allowed!r}")
    heads, width = _number(config, "num_attention_heads"), _number(config, "hidden_size")
    return ModelShape(
        vocabulary=_number(config, "vocab_size"),
        width=width,
        inner=_number(config, "intermediate_size"),
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", heads),
        head_width=width // heads if config.get("head_dim") is None else _number(config, "head_dim"),
        context=_number(config, "max_position_embeddings"),
        rope_theta=_rope_theta(config),
        norm_epsilon=_rational(config.get("rms_norm_eps", 1e-6), "rms_norm_eps"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _linear(name: str, parts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    rows = quantise_weights(torch.cat(parts))
    return {
        f"{name}.weights": rows.values,
        f"{name}.mantissa": rows.mantissa,
        f"{name}.exponent": rows.exponent,
    }


def _norm(name: str, gains: torch.Tensor) -> dict[str, torch.Tensor]:
    values, exponent = quantise_gains(gains)
    return {f"{name}.gains": values, f"{name}.exponent": torch.tensor([exponent], dtype=torch.int32)}


def _layer(number: int, read: Read) -> dict[str, torch.Tensor]:
    source, name = f"model.layers.{number}", f"layers.{number}"
    grouped = {
        "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "o": ["self_attn.o_proj"],
        "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
        "down": ["mlp.down_proj"],
    }
    tensors: dict[str, torch.Tensor] = {}
    for group, members in grouped.items():
        tensors |= _linear(f"{name}.{group}", [read(f"{source}.{member}.weight") for member in members])
    tensors |= _norm(f"{name}.attention_norm", read(f"{source}.input_layernorm.weight"))
    return tensors | _norm(f"{name}.mlp_norm", read(f"{source}.post_attention_layernorm.weight"))


def integer_tensors(shape: ModelShape, read: Read, progress: Progress) -> dict[str, torch.Tensor]:
    """Return every tensor of the integer file; `read` returns a float tensor by its Hugging Face name."""
    tensors = _linear("embedding", [read("model.embed_tokens.weight")])
    if not shape.tied:
        tensors |= _linear("head", [read("lm_head.weight")])
    for number in range(shape.layers):
        progress(f"quantising layer {number + 1} of {shape.layers}")
        tensors |= _layer(number, read)
    return tensors | _norm("final_norm", read("model.norm.weight"))


def write_integer_file(path: Path, name: str, shape: ModelShape, tensors: dict[str, torch.Tensor]) -> None:
    """Write the integer file that everything else reads."""
    stated = {
        key: str(value) if isinstance(value, Fraction) else value for key, value in asdict(shape).items()
    }
    metadata = json.dumps({"spec_version": __version__, "name": name, "shape": stated}, sort_keys=True)
    save_file(dict(sorted(tensors.items())), path, {"veil": metadata})


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in FLOAT_TYPES:
        raise _unsupported(
            f"tensor {name} has type {tensor.dtype}; export it as float32, float16 or bfloat16"
        )
    return tensor.to(torch.float32)


def _names(file: safe_open) -> list[str]:
    return list(file.keys())  # type: ignore[no-untyped-call]


@dataclass
class Source:
    """An open checkpoint that notes which of its tensors were read."""

    config: Config
    names: set[str]
    get: Read

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as float32 by its name. Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED."""
        if name not in self.names:
            raise Refused(Refusal.MODEL_MALFORMED, f"the checkpoint lacks the tensor {name}")
        self.names.remove(name)
        return _checked(name, self.get(name))

    def check_spent(self, tied: bool) -> None:
        """Refuse tensors that a plain Llama does not have. Refuses: MODEL_UNSUPPORTED."""
        spare = {name for name in self.names if not name.endswith(ALLOWED_SPARE)} - (
            {"lm_head.weight"} if tied else set()
        )
        if spare:
            raise _unsupported(f"the tensor {min(spare)} does not belong to a plain llama")


def _open_folder(folder: Path) -> Source:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refused(Refusal.MODEL_MALFORMED, f"{folder} holds no .safetensors file")
    opened = [safe_open(path, framework="pt") for path in files]
    where = {name: file for file in opened for name in _names(file)}

    def get(name: str) -> torch.Tensor:
        tensor: torch.Tensor = where[name].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    return Source(json.loads((folder / "config.json").read_text()), set(where), get)


def _open_gguf(path: Path) -> Source:
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    state: dict[str, torch.Tensor] = model.state_dict()
    return Source(model.config.to_dict(), set(state), state.__getitem__)


def open_checkpoint(source: Path) -> Source:
    """Return the open checkpoint of a directory or .gguf file. Refuses: MODEL_MALFORMED."""
    try:
        return _open_gguf(source) if source.is_file() else _open_folder(source)
    except (OSError, SafetensorError, ValueError, struct.error) as error:
        raise Refused(
            Refusal.MODEL_MALFORMED, f"{source} cannot be read as a model: {_first_line(error)}"
        ) from error


def _save_tokenizer(source: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    arguments = (source.parent, {"gguf_file": source.name}) if source.is_file() else (source, {})
    AutoTokenizer.from_pretrained(arguments[0], **arguments[1]).save_pretrained(target)


def import_model(source: Path, target: Path, progress: Progress = lambda line: None) -> Path:
    """Return the new integer file in directory `target`; the directory appears whole or not at all.

    Implements: MDL-P1.
    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, WEIGHT_NOT_FINITE.
    """
    if target.exists():
        raise Refused(Refusal.MODEL_MALFORMED, f"{target} exists already: remove it or choose another name")
    if not source.exists():
        raise Refused(
            Refusal.MODEL_MALFORMED, f"{source} does not exist: give a model directory or a .gguf file"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".veil-import-", dir=target.parent))
    try:
        checkpoint = open_checkpoint(source)
        shape = shape_of(checkpoint.config)
        name = source.stem if source.is_file() else source.resolve().name
        tensors = integer_tensors(shape, checkpoint.read, progress)
        checkpoint.check_spent(shape.tied)
        if {key: (value.dtype, list(value.shape)) for key, value in tensors.items()} != tensor_shapes(shape):
            raise Refused(
                Refusal.MODEL_MALFORMED, f"{source}: the tensors do not have the configuration's shapes"
            )
        write_integer_file(scratch / INTEGER_FILE, name, shape, tensors)
        _save_tokenizer(source, scratch)
        scratch.chmod(0o755)
        scratch.rename(target)
    except (OSError, SafetensorError, ValueError) as error:
        raise Refused(
            Refusal.MODEL_MALFORMED, f"{source} cannot be read as a model: {_first_line(error)}"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target / INTEGER_FILE


def _first_line(error: Exception) -> str:
    lines: Iterator[str] = iter(str(error).splitlines())
    return next(lines, type(error).__name__)
