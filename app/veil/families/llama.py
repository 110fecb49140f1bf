"""Llama 1 to 3 and SmolLM2: biases as configured, rotations plain, linear or llama3."""

from veil.families import decoders
from veil.families.family import Config, Sizes, switch
from veil_spec.architecture import DecoderShape


def _shape(config: Config, sizes: Sizes) -> DecoderShape:
    attention = switch(config, "attention_bias")
    decoders.check_full_attention(config)
    return decoders.shape(
        config,
        scaled_rotation=True,
        qkv_biased=attention,
        o_biased=attention,
        mlp_biased=switch(config, "mlp_bias"),
    )


FAMILY = decoders.decoder_family("llama", "LlamaForCausalLM", _shape)
