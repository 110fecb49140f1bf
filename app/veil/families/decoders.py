"""What the decoder families have in common: sizes, rotation, and the modules' names."""

from collections.abc import Callable, Mapping
from fractions import Fraction

from veil.families.family import (
    Config,
    Family,
    Part,
    Sizes,
    check_only,
    number,
    rational,
    switch,
    table,
    unsupported,
)
from veil_spec.architecture import DecoderShape, ModelShape, Rotation

SILU = ("silu", "swish")
SCALED = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
"""The scaled rotations, and the numbers that each needs."""
NEUTRAL = {"partial_rotary_factor": (1, 1.0), "attention_factor": (1, 1.0)}
"""Values that change nothing, of keys that otherwise would."""
ROTATION_KEYS = {"rope_type", "type", "rope_theta", "original_max_position_embeddings"}


def rotation(config: Config, scalable: bool) -> Rotation:
    """Return the rotation of `rope_parameters`, or as older files put it, `rope_scaling` and `rope_theta`.

    Refuses: MODEL_UNSUPPORTED.
    """
    given = table(config, ("rope_parameters", "rope_scaling"))
    kind = str(given.get("rope_type", given.get("type", "default")))
    if kind != "default" and not (scalable and kind in SCALED):
        raise unsupported(f"config.json: the rotation {kind!r} is not supported for {config['model_type']}")
    check_only(config, {"partial_rotary_factor": (1, 1.0)})
    check_only(given, NEUTRAL)
    known = ROTATION_KEYS | set(NEUTRAL) | set(SCALED.get(kind, ()))
    unknown = sorted(key for key, value in given.items() if value is not None and key not in known)
    if unknown:
        raise unsupported(f"config.json: the rotation has {unknown[0]!r}, which is not supported")
    theta = given.get("rope_theta", config.get("rope_theta"))
    base = rational(10000.0 if theta is None else theta, "rope_theta")
    factor, low, high = (
        rational(given.get(key), key) if key in known else None
        for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = _trained_context(config, given) if kind == "llama3" else None
    return Rotation(base, factor or Fraction(1), low, high, context)


def _trained_context(config: Config, given: Config) -> int:
    """Return the context before it was stretched; a value outside the rotation's object comes first."""
    key = "original_max_position_embeddings"
    return number(config if config.get(key) else given, key, number(config, "max_position_embeddings"))


def shape(
    config: Config,
    *,
    head_width: int | None = None,
    window: int = 0,
    scaled_rotation: bool = False,
    qkv_biased: bool = False,
    o_biased: bool = False,
    mlp_biased: bool = False,
    head_norms: bool = False,
) -> DecoderShape:
    """Return a decoder's shape; `head_width` is the family's default. Refuses: MODEL_UNSUPPORTED."""
    check_only(config, {"hidden_act": SILU, "attn_logit_softcapping": (), "final_logit_softcapping": ()})
    heads, width = number(config, "num_attention_heads"), number(config, "hidden_size")
    epsilon = config.get("rms_norm_eps")
    return DecoderShape(
        vocabulary=number(config, "vocab_size"),
        width=width,
        inner=number(config, "intermediate_size"),
        layers=number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=number(config, "num_key_value_heads", heads),
        head_width=number(config, "head_dim", head_width or width // heads),
        context=number(config, "max_position_embeddings"),
        rotation=rotation(config, scaled_rotation),
        norm_epsilon=rational(1e-6 if epsilon is None else epsilon, "rms_norm_eps"),
        tied=switch(config, "tie_word_embeddings"),
        qkv_biased=qkv_biased,
        o_biased=o_biased,
        mlp_biased=mlp_biased,
        head_norms=head_norms,
        window=window,
    )


def check_full_attention(config: Config) -> None:
    """Refuse a configuration in which any layer attends to a part of the text only.

    Refuses: MODEL_UNSUPPORTED.
    """
    layers = number(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is not None:
        partly = not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    else:
        used = switch(config, "use_sliding_window") and config.get("sliding_window", 4096) is not None
        first = config.get("max_window_layers", 28)
        partly = used and not (isinstance(first, int) and first >= layers)
    if partly:
        raise unsupported(f"config.json: sliding attention is not supported for {config['model_type']}")


def _parts(shape: ModelShape) -> dict[str, list[Part]]:
    if not isinstance(shape, DecoderShape):
        raise unsupported("the model is no decoder")
    width, inner = shape.width, shape.inner
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    parts = {
        "embedding": [Part("model.embed_tokens", shape.vocabulary)],
        "head": [Part("lm_head", shape.vocabulary)],
        "final_norm": [Part("model.norm", width)],
    }
    for layer in range(shape.layers):
        source, name = f"model.layers.{layer}", f"layers.{layer}"
        rows = {"q": queries, "k": keys, "v": keys}
        parts |= {
            f"{name}.qkv": [Part(f"{source}.self_attn.{each}_proj", count) for each, count in rows.items()],
            f"{name}.o": [Part(f"{source}.self_attn.o_proj", width)],
            f"{name}.gate_up": [Part(f"{source}.mlp.{each}_proj", inner) for each in ("gate", "up")],
            f"{name}.down": [Part(f"{source}.mlp.down_proj", width)],
            f"{name}.attention_norm": [Part(f"{source}.input_layernorm", width)],
            f"{name}.mlp_norm": [Part(f"{source}.post_attention_layernorm", width)],
            f"{name}.q_norm": [Part(f"{source}.self_attn.q_norm", shape.head_width)],
            f"{name}.k_norm": [Part(f"{source}.self_attn.k_norm", shape.head_width)],
        }
    return parts


def _copies(shape: ModelShape) -> Mapping[str, str]:
    tied = isinstance(shape, DecoderShape) and shape.tied
    return {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}


def decoder_family(
    model_type: str, architecture: str, shape: Callable[[Config, Sizes], DecoderShape]
) -> Family:
    """Return a family of decoders."""
    return Family(model_type, (architecture,), shape, _parts, copies=_copies)
