"""Random checkpoints of every family as `transformers` writes them, and what it computes from them."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3", "bert")
CONTEXT: Final = 40
TOKENS: Final = 16
EMBEDDING: Final = 8
DECODERS: Final = {
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}
DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Sample:
    """A saved checkpoint, a text in tokens, and the float model's answer to it.

    `expected` is float64 [positions, columns]: logits of a decoder, or the last stream of an encoder.
    """

    folder: Path
    tokens: list[int]
    types: list[int] | None
    expected: torch.Tensor
    labels: torch.Tensor | None


def _decoder_sizes(draw: random.Random) -> dict[str, Any]:
    kv_heads, shared = draw.choice((1, 2, 3)), draw.choice((1, 2, 3))
    heads = kv_heads * shared
    return {
        "vocab_size": draw.randint(37, 97),
        "hidden_size": heads * draw.randint(3, 40 // heads),
        "intermediate_size": draw.randint(17, 61),
        "num_hidden_layers": draw.randint(1, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": draw.choice((4, 6, 10, 14)),
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": draw.choice((1e-6, 1e-5)),
        "tie_word_embeddings": draw.random() < 0.5,
    }


def _rotation(draw: random.Random, scalable: bool) -> dict[str, Any]:
    plain = {"rope_type": "default", "rope_theta": draw.choice((100.0, 10000.0, 1000000.0))}
    linear = plain | {"rope_type": "linear", "factor": draw.choice((2.0, 3.5))}
    slow = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    llama3 = plain | {"rope_type": "llama3", "factor": 8.0} | slow
    return draw.choice((plain, linear, llama3)) if scalable else plain


def _decoder_config(family: str, draw: random.Random) -> Any:
    sizes = _decoder_sizes(draw) | {"rope_parameters": _rotation(draw, family == "llama")}
    biased = draw.random() < 0.5
    if family == "llama":
        return LlamaConfig(**sizes, attention_bias=biased, mlp_bias=draw.random() < 0.5)
    if family == "mistral":
        return MistralConfig(**sizes, sliding_window=draw.choice((None, 1, 5, 11)))
    return Qwen2Config(**sizes) if family == "qwen2" else Qwen3Config(**sizes, attention_bias=biased)


def _encoder_config(draw: random.Random) -> Any:
    heads = draw.choice((1, 2, 3, 5))
    return BertConfig(
        vocab_size=draw.randint(37, 97),
        hidden_size=heads * draw.randint(3, 40 // heads),
        intermediate_size=draw.randint(17, 61),
        num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=heads,
        max_position_embeddings=CONTEXT,
        type_vocab_size=draw.choice((1, 2)),
        layer_norm_eps=draw.choice((1e-12, 1e-5)),
        num_labels=draw.randint(2, 5),
    )


def _fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every parameter a size at which it matters.

    Rows keep the scale of their input, norms are near 1, and embeddings are small beside what layers add, or
    a tied head would name the token that was read whatever the layers do.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(noise / (EMBEDDING if "embed" in name else parameter.shape[1] ** 0.5))
            else:
                parameter.copy_(("norm" in name.lower() and name.endswith("weight")) + 0.2 * noise)


def _tokenizer(folder: Path, count: int) -> None:
    words = {f"w{number}": number for number in range(count - 1)} | {"<unk>": count - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def write(folder: Path, family: str, seed: int, **changes: Any) -> Sample:
    """Return a new random checkpoint of a family; the same seed gives the same one.

    The model that answers is read from the checkpoint again: turning a model to a half precision rounds its
    rotation too, which no checkpoint holds.
    """
    draw = random.Random(f"{family} {seed}")
    config = _encoder_config(draw) if family == "bert" else _decoder_config(family, draw)
    for key, value in changes.items():
        setattr(config, key, value)
    kind = draw.choice((BertForSequenceClassification, BertModel)) if family == "bert" else DECODERS[family]
    bare = {"add_pooling_layer": False} if kind is BertModel and draw.random() < 0.5 else {}
    model = kind(config, **bare)
    _fill(model, torch.Generator().manual_seed(seed))
    model.to(draw.choice(DTYPES)).save_pretrained(folder)
    _tokenizer(folder, config.vocab_size)
    tokens = [draw.randrange(config.vocab_size) for _ in range(TOKENS)]
    types = [draw.randrange(config.type_vocab_size) for _ in tokens] if family == "bert" else None
    unanswered = Sample(folder, tokens, types, torch.empty(0), None)
    return _answered(unanswered, kind.from_pretrained(folder, dtype=torch.float64, **bare))


def answered(family: str, sample: Sample) -> Sample:
    """Return a sample of decoders with what its checkpoint gives now."""
    return _answered(sample, DECODERS[family].from_pretrained(sample.folder, dtype=torch.float64))


def _answered(sample: Sample, model: Any) -> Sample:
    inputs = {"input_ids": torch.tensor([sample.tokens])}
    with torch.no_grad():
        if sample.types is None:
            return replace(sample, expected=model.eval()(**inputs).logits[0])
        kinds = torch.tensor([sample.types])
        answer = model.eval()(**inputs, token_type_ids=kinds, output_hidden_states=True)
    labels = answer.logits[0] if "logits" in answer else None
    return replace(sample, expected=answer.hidden_states[-1][0], labels=labels)
