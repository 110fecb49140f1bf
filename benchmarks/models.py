"""Seeded models in both arithmetics: the integer file, and the same floats in plain torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional

from veil.families import FAMILIES
from veil.importer import Source, write_integers
from veil_optimized.enclave import Enclave
from veil_optimized.model import Model, load
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_spec import constants
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
    """One model: its integer file, loaded, its float32 weights by their Hugging Face names, and its shape."""

    path: Path
    integer: Model
    floats: dict[str, torch.Tensor]
    shape: DecoderShape


def small(folder: Path, shape: DecoderShape = SHAPE) -> Small:
    """Return the seeded model of a shape, its integer file written in a folder."""
    generator = torch.Generator().manual_seed(1)
    floats: dict[str, torch.Tensor] = {}

    def read(name: str) -> torch.Tensor:
        floats[name] = _drawn(name, shape, generator)
        return floats[name]

    path = folder / "integer.safetensors"
    source = Source(shape, FAMILIES["llama"].parts(shape), read)
    write_integers(path, "seeded", source, Precision.W16A16)
    return Small(path, load(path), floats, shape)


def _drawn(name: str, shape: DecoderShape, generator: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape.width)
    attention, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    sizes = {
        "embed_tokens": (shape.vocabulary, shape.width),
        "q_proj": (attention, shape.width),
        "k_proj": (kv, shape.width),
        "v_proj": (kv, shape.width),
        "o_proj": (shape.width, attention),
        "gate_proj": (shape.inner, shape.width),
        "up_proj": (shape.inner, shape.width),
        "down_proj": (shape.width, shape.inner),
    }
    size = sizes[name.split(".")[-2]]
    return torch.randn(size, generator=generator) * SPREAD


def enclave_of(model: Model) -> Enclave:
    """Return an open enclave whose worker is in this process."""
    worker = Worker(place(model, "cpu"), model.digest)
    enclave = Enclave(model, Channel(LocalTransport(worker.handle), os.urandom(constants.EPOCH_BYTES)))
    enclave.open()
    return enclave


class FloatDecoder:
    """The same decoder in float32 torch: the same groups in one product each, the same cache, no frills.

    It keeps as many sequences of one length as its first tokens have.
    """

    def __init__(self, floats: dict[str, torch.Tensor], shape: DecoderShape = SHAPE) -> None:
        self._shape = shape
        self._embedding = floats["model.embed_tokens.weight"]
        self._layers = [_stacked(floats, f"model.layers.{number}") for number in range(shape.layers)]
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._position = 0

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the logits after the last of one sequence's next tokens [1, vocabulary]."""
        return self.advance([tokens])

    def advance(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits after the last of every sequence's next tokens [sequences, vocabulary]."""
        stream = self._embedding[torch.tensor(tokens)]
        turned = _angles(self._shape, self._position, stream.shape[1])
        for number, (qkv, out, gate_up, down) in enumerate(self._layers):
            heads = functional.linear(self._normed(stream), qkv)
            heads = heads.view(*stream.shape[:2], -1, self._shape.head_width)
            stream = stream + functional.linear(self._attended(number, heads.transpose(1, 2), turned), out)
            gate, up = functional.linear(self._normed(stream), gate_up).chunk(2, -1)
            stream = stream + functional.linear(functional.silu(gate) * up, down)
        self._position += stream.shape[1]
        return functional.linear(self._normed(stream[:, -1]), self._embedding)

    def _attended(self, number: int, heads: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        queries, keys, values = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], 1)
        placed = _kept(self._keys, number, _rotated(keys, turned))
        average = functional.scaled_dot_product_attention(
            _rotated(queries, turned),
            placed,
            _kept(self._values, number, values),
            is_causal=self._position == 0,
            enable_gqa=True,
        )
        return average.transpose(1, 2).flatten(2)

    def _normed(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(rows, (self._shape.width,), eps=float(self._shape.norm_epsilon))


def _kept(held: list[torch.Tensor], number: int, new: torch.Tensor) -> torch.Tensor:
    """Return a layer's keys or values with the new ones, which are kept."""
    if number == len(held):
        held.append(new)
    else:
        held[number] = torch.cat((held[number], new), 2)
    return held[number]


def _stacked(floats: dict[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, ...]:
    grouped = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    return tuple(torch.cat([floats[f"{layer}.{name}.weight"] for name in names]) for names in grouped)


def _angles(shape: DecoderShape, position: int, count: int) -> torch.Tensor:
    pairs = torch.arange(0, shape.head_width, 2) / shape.head_width
    places = torch.arange(position, position + count).unsqueeze(-1)
    return places * torch.tensor(float(shape.rotation.theta)) ** -pairs


def _rotated(heads: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    left, right = heads.chunk(2, -1)
    cosine, sine = turned.cos(), turned.sin()
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), -1)
