"""Qwen2: q, k and v are biased, nothing else is."""

from veil.families import decoders
from veil.families.family import Config, Sizes
from veil_spec.architecture import DecoderShape


def _shape(config: Config, sizes: Sizes) -> DecoderShape:
    decoders.check_full_attention(config)
    return decoders.shape(config, qkv_biased=True)


FAMILY = decoders.decoder_family("qwen2", "Qwen2ForCausalLM", _shape)
