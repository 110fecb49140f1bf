"""A seeded model in both arithmetics: the integer file, and the same floats in plain torch."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional

from veil.families import FAMILIES
from veil.importer import Source, write_integers
from veil_optimized.model import Model, load
from veil_spec.architecture import DecoderShape, Precision, Rotation

SHAPE: Final = DecoderShape(
    vocabulary=4096,
    width=576,
    inner=1536,
    layers=4,
    heads=9,
    kv_heads=3,
    head_width=64,
    context=512,
    rotation=Rotation(Fraction(100_000)),
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""The layers of SmolLM2-135M, four of its thirty, with a small vocabulary."""
SPREAD: Final = 0.05
"""Standard deviation of a weight: near that of a trained layer of this width."""


@dataclass(frozen=True, slots=True)
class Small:
    """One model: its integer file, loaded, and its float32 weights by their Hugging Face names."""

    path: Path
    integer: Model
    floats: dict[str, torch.Tensor]


def small(folder: Path) -> Small:
    """Return the seeded model, its integer file written in a folder."""
    generator = torch.Generator().manual_seed(1)
    floats: dict[str, torch.Tensor] = {}

    def read(name: str) -> torch.Tensor:
        floats[name] = _drawn(name, generator)
        return floats[name]

    path = folder / "integer.safetensors"
    source = Source(SHAPE, FAMILIES["llama"].parts(SHAPE), read)
    write_integers(path, "seeded", source, Precision.W16A16)
    return Small(path, load(path), floats)


def _drawn(name: str, generator: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(SHAPE.width)
    attention, kv = SHAPE.heads * SHAPE.head_width, SHAPE.kv_heads * SHAPE.head_width
    sizes = {
        "embed_tokens": (SHAPE.vocabulary, SHAPE.width),
        "q_proj": (attention, SHAPE.width),
        "k_proj": (kv, SHAPE.width),
        "v_proj": (kv, SHAPE.width),
        "o_proj": (SHAPE.width, attention),
        "gate_proj": (SHAPE.inner, SHAPE.width),
        "up_proj": (SHAPE.inner, SHAPE.width),
        "down_proj": (SHAPE.width, SHAPE.inner),
    }
    size = sizes[name.split(".")[-2]]
    return torch.randn(size, generator=generator) * SPREAD


class FloatDecoder:
    """The same decoder in float32 torch: the same groups in one product each, the same cache, no frills."""

    def __init__(self, floats: dict[str, torch.Tensor]) -> None:
        self._embedding = floats["model.embed_tokens.weight"]
        self._layers = [_stacked(floats, f"model.layers.{number}") for number in range(SHAPE.layers)]
        self._keys = [torch.zeros(SHAPE.kv_heads, 0, SHAPE.head_width) for _ in self._layers]
        self._values = list(self._keys)
        self._position = 0

    def step(self, tokens: list[int]) -> torch.Tensor:
        """Return the logits after the last of these tokens [1, vocabulary]."""
        stream = self._embedding[tokens]
        turned = _angles(self._position, len(tokens))
        for number, (qkv, out, gate_up, down) in enumerate(self._layers):
            heads = functional.linear(_normed(stream), qkv).reshape(len(tokens), -1, SHAPE.head_width)
            stream = stream + functional.linear(self._attended(number, heads.transpose(0, 1), turned), out)
            gate, up = functional.linear(_normed(stream), gate_up).chunk(2, -1)
            stream = stream + functional.linear(functional.silu(gate) * up, down)
        self._position += len(tokens)
        return functional.linear(_normed(stream[-1:]), self._embedding)

    def _attended(self, number: int, heads: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        queries, keys, values = torch.split(heads, [SHAPE.heads, SHAPE.kv_heads, SHAPE.kv_heads])
        self._keys[number] = torch.cat((self._keys[number], _rotated(keys, turned)), 1)
        self._values[number] = torch.cat((self._values[number], values), 1)
        average = functional.scaled_dot_product_attention(
            _rotated(queries, turned).unsqueeze(0),
            self._keys[number].unsqueeze(0),
            self._values[number].unsqueeze(0),
            is_causal=self._position == 0,
            enable_gqa=True,
        )
        return average.squeeze(0).transpose(0, 1).reshape(heads.shape[1], -1)


def _stacked(floats: dict[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, ...]:
    grouped = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    return tuple(torch.cat([floats[f"{layer}.{name}.weight"] for name in names]) for names in grouped)


def _normed(rows: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(rows, (SHAPE.width,), eps=float(SHAPE.norm_epsilon))


def _angles(position: int, count: int) -> torch.Tensor:
    pairs = torch.arange(0, SHAPE.head_width, 2) / SHAPE.head_width
    places = torch.arange(position, position + count).unsqueeze(-1)
    return places * torch.tensor(float(SHAPE.rotation.theta)) ** -pairs


def _rotated(heads: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    left, right = heads.chunk(2, -1)
    cosine, sine = turned.cos(), turned.sin()
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), -1)
