"""BERT and MiniLM: with or without a pooler, and a classifier of whole sequences.

The heads of masked language models (`cls.*`) are not used: such a checkpoint gives its embeddings alone.
"""

from veil.families.family import (
    INFERRED,
    Config,
    Family,
    Part,
    Sizes,
    check_only,
    number,
    rational,
    unsupported,
)
from veil_spec.architecture import EncoderShape, ModelShape

PREFIX = "bert."
OLDER = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Ends of the names that early checkpoints use."""
HEADS = "cls."
ONLY: dict[str, tuple[object, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
}


def _canonical(name: str) -> str:
    name = name.removeprefix(PREFIX)
    for old, new in OLDER.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _unused(name: str) -> bool:
    return name.startswith(HEADS) or name.endswith(INFERRED)


def _shape(config: Config, sizes: Sizes) -> EncoderShape:
    check_only(config, ONLY)
    epsilon = config.get("layer_norm_eps")
    labels = sizes.get("classifier.weight", [0])
    if len(labels) == 2 and "pooler.dense.weight" not in sizes:
        raise unsupported("the classifier has no pooler: a classifier of single tokens is not supported")
    return EncoderShape(
        vocabulary=number(config, "vocab_size"),
        width=number(config, "hidden_size"),
        inner=number(config, "intermediate_size"),
        layers=number(config, "num_hidden_layers"),
        heads=number(config, "num_attention_heads"),
        context=number(config, "max_position_embeddings"),
        types=number(config, "type_vocab_size", 2),
        norm_epsilon=rational(1e-12 if epsilon is None else epsilon, "layer_norm_eps"),
        pooled="pooler.dense.weight" in sizes,
        labels=labels[0],
    )


def _parts(shape: ModelShape) -> dict[str, list[Part]]:
    if not isinstance(shape, EncoderShape):
        raise unsupported("the model is no encoder")
    width = shape.width
    parts = {
        "embedding": [Part("embeddings.word_embeddings", shape.vocabulary)],
        "positions": [Part("embeddings.position_embeddings", shape.context)],
        "types": [Part("embeddings.token_type_embeddings", shape.types)],
        "embedding_norm": [Part("embeddings.LayerNorm", width)],
        "pooler": [Part("pooler.dense", width)],
        "classifier": [Part("classifier", shape.labels)],
    }
    for layer in range(shape.layers):
        source, name = f"encoder.layer.{layer}", f"layers.{layer}"
        heads = ("query", "key", "value")
        parts |= {
            f"{name}.qkv": [Part(f"{source}.attention.self.{each}", width) for each in heads],
            f"{name}.o": [Part(f"{source}.attention.output.dense", width)],
            f"{name}.up": [Part(f"{source}.intermediate.dense", shape.inner)],
            f"{name}.down": [Part(f"{source}.output.dense", width)],
            f"{name}.attention_norm": [Part(f"{source}.attention.output.LayerNorm", width)],
            f"{name}.mlp_norm": [Part(f"{source}.output.LayerNorm", width)],
        }
    return parts


ARCHITECTURES = ("BertModel", "BertForSequenceClassification", "BertForMaskedLM", "BertForPreTraining")
FAMILY = Family("bert", ARCHITECTURES, _shape, _parts, _canonical, _unused)
