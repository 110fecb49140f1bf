"""What a family tells the importer, and how a configuration's values are read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import cast

from veil_spec.architecture import ModelShape
from veil_spec.refusals import Refusal, Refused

Config = Mapping[str, object]
"""A Hugging Face config.json."""
Sizes = Mapping[str, list[int]]
"""The shapes of a checkpoint's tensors by their canonical names."""
INFERRED = ("rotary_emb.inv_freq", "rotary_emb.original_inv_freq", "embeddings.position_ids")
"""Ends of the names of tensors that a configuration implies."""


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the checkpoint, whose `weight` and `bias` fill this many rows of an integer tensor."""

    module: str
    rows: int


def _same(name: str) -> str:
    return name


def _inferred(name: str) -> bool:
    return name.endswith(INFERRED)


@dataclass(frozen=True, slots=True)
class Family:
    """How the checkpoints of one `model_type` are read.

    `parts` names, for each linear map and norm of spec/model.md, the modules that are stacked in it.
    `canonical` gives a tensor's current name for an older one, `unused` says which tensors may be left,
    and `copies` which tensors may be there if they equal another.
    """

    model_type: str
    architectures: tuple[str, ...]
    shape: Callable[[Config, Sizes], ModelShape]
    parts: Callable[[ModelShape], Mapping[str, list[Part]]]
    canonical: Callable[[str], str] = _same
    unused: Callable[[str], bool] = _inferred
    copies: Callable[[ModelShape], Mapping[str, str]] = lambda shape: {}


def unsupported(detail: str) -> Refused:
    """Return the refusal of a model outside the specification."""
    return Refused(Refusal.MODEL_UNSUPPORTED, detail)


def number(config: Config, key: str, default: int | None = None) -> int:
    """Return a positive integer; null or a missing key is the default. Refuses: MODEL_UNSUPPORTED."""
    value = default if config.get(key) is None else config[key]
    if type(value) is not int or value < 1:
        raise unsupported(f"config.json: {key} must be a positive integer")
    return value


def rational(value: object, key: str) -> Fraction:
    """Return the shortest decimal that gives this number. Refuses: MODEL_UNSUPPORTED."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise unsupported(f"config.json: {key} must be a number")
    return Fraction(repr(value))


def switch(config: Config, key: str, default: bool = False) -> bool:
    """Return true or false; null or a missing key is the default. Refuses: MODEL_UNSUPPORTED."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise unsupported(f"config.json: {key} must be true or false")
    return value


def table(config: Config, keys: Iterable[str]) -> Config:
    """Return the one object that is given under these keys, or an empty one. Refuses: MODEL_UNSUPPORTED."""
    given = {key: config[key] for key in keys if config.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, Mapping):
            raise unsupported(f"config.json: {key} must be an object")
    filled = [key for key, value in given.items() if value]
    if len(filled) > 1:
        raise unsupported(f"config.json: {' and '.join(filled)} are both given: keep the one that is meant")
    return cast(Config, given[filled[0]]) if filled else {}


def check_only(config: Config, allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse a value other than those allowed for its key; null and missing keys pass.

    Refuses: MODEL_UNSUPPORTED.
    """
    for key, values in allowed.items():
        value = config.get(key)
        if value is not None and value not in values:
            expected = " or ".join(repr(each) for each in values) or "absent"
            raise unsupported(f"config.json: {key} is {value!r}; only {expected} is supported")
