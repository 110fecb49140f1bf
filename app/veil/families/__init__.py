"""The families of models, each a file of its own that says how its checkpoints are read."""

from collections.abc import Mapping
from typing import Final

from veil.families import bert, llama, mistral, qwen2, qwen3
from veil.families.family import Config, Family, unsupported

FAMILIES: Final[Mapping[str, Family]] = {
    each.FAMILY.model_type: each.FAMILY for each in (bert, llama, mistral, qwen2, qwen3)
}
"""Every family by the `model_type` of its configurations."""
EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Keys that only a mixture of experts has."""
EXPERT_TYPES: Final = ("moe", "mixtral")
"""Parts of the names of model types that are mixtures of experts."""


def family_of(config: Config) -> Family:
    """Return the family that a configuration names.

    Refuses: MODEL_UNSUPPORTED.
    """
    kind = config.get("model_type")
    counted = next((key for key in EXPERTS if config.get(key)), None)
    if counted or any(part in str(kind) for part in EXPERT_TYPES):
        why = f"{counted} is {config[counted]!r}" if counted else f"model_type is {kind!r}"
        raise unsupported(f"config.json: {why}: a mixture of experts is not supported")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise unsupported(f"config.json: model_type {kind!r} is not supported; supported are {known}")
    family, named = FAMILIES[kind], config.get("architectures")
    other = set(map(str, named)) - set(family.architectures) if isinstance(named, list) else set()
    if other:
        known = ", ".join(family.architectures)
        raise unsupported(f"config.json: the architecture {min(other)} is not supported; supported: {known}")
    method = config.get("quantization_config")
    if method:
        name = method.get("quant_method") if isinstance(method, dict) else method
        raise unsupported(f"config.json: the checkpoint is quantised ({name}): give the one in float")
    return family
