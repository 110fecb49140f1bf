"""Qwen3: q and k heads are normalised before their rotation, biases are as configured."""

from veil.families import decoders
from veil.families.family import Config, Sizes, switch
from veil_spec.architecture import DecoderShape

DEFAULT_HEAD_WIDTH = 128
"""The head width of a configuration that states none."""


def _shape(config: Config, sizes: Sizes) -> DecoderShape:
    biased = switch(config, "attention_bias")
    decoders.check_full_attention(config)
    return decoders.shape(
        config, head_width=DEFAULT_HEAD_WIDTH, qkv_biased=biased, o_biased=biased, head_norms=True
    )


FAMILY = decoders.decoder_family("qwen3", "Qwen3ForCausalLM", _shape)
