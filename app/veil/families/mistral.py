"""Mistral: one window for all layers, or none."""

from veil.families import decoders
from veil.families.family import Config, Sizes, number, unsupported
from veil_spec.architecture import DecoderShape

DEFAULT_WINDOW = 4096
"""The window of a configuration that says nothing; null is none."""


def _shape(config: Config, sizes: Sizes) -> DecoderShape:
    key, kinds = "sliding_window", config.get("layer_types")
    windowed = key not in config or config[key] is not None
    only = "sliding_attention" if windowed else "full_attention"
    if isinstance(kinds, list) and any(kind != only for kind in kinds):
        raise unsupported("config.json: layers with different attention are not supported for mistral")
    return decoders.shape(config, window=number(config, key, DEFAULT_WINDOW) if windowed else 0)


FAMILY = decoders.decoder_family("mistral", "MistralForCausalLM", _shape)
