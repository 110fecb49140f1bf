"""What each profile costs a token, counted from a model's shapes: nothing here is timed."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from veil_optimized import lwe, wire
from veil_optimized.model import Group, Model
from veil_spec import constants
from veil_spec.refusals import Refused

RATIO = Fraction(1, 2)
"""m/d of profile `rank`."""


@dataclass(frozen=True, slots=True)
class ProfileCost:
    """Field multiplications of masking and bytes on the wire, for one token, and bytes once an epoch.

    Those of the check come on top and are alike in all profiles. A refused profile has no figures.
    """

    profile: str
    refused: str
    ahead: int = 0
    online: int = 0
    bytes: int = 0
    setup_bytes: int = 0


def profile_costs(model: Model) -> list[ProfileCost]:
    """Return what `pad` with a local minter, `rank` at m/d 1/2 and `lwe` take for this model."""
    return [_pad(model.groups), _rank(model.groups), _lwe(model.groups)]


def _sizes(group: Group) -> tuple[int, int, int]:
    """Return inner dimension, outputs and bytes of an element."""
    outputs, inner = group.weights.shape
    return int(inner), int(outputs), wire.element_bytes(group.modulus)


def _pad(groups: Sequence[Group]) -> ProfileCost:
    sizes = [_sizes(group) for group in groups]
    ahead = sum(inner * outputs for inner, outputs, _ in sizes)
    return ProfileCost("pad", "", ahead=ahead, bytes=sum((a + b) * size for a, b, size in sizes))


def _rank(groups: Sequence[Group]) -> ProfileCost:
    online = moved = setup = 0
    for inner, outputs, size in map(_sizes, groups):
        rows = int(RATIO * inner)
        online += rows * (inner + outputs)
        moved += (inner + outputs) * size
        setup += rows * (inner + outputs) * size
    return ProfileCost("rank", "", online=online, bytes=moved, setup_bytes=setup)


def _lwe(groups: Sequence[Group]) -> ProfileCost:
    size, online, moved, setup = wire.element_bytes(constants.LWE_MODULUS), 0, 0, 0
    try:
        for inner, outputs, _ in map(_sizes, groups):
            secrets = lwe.lwe_dimension(inner)
            online += secrets * (inner + 2 * outputs)
            moved += (inner + 2 * outputs) * size
            setup += secrets * (inner + 2 * outputs) * size
    except Refused as refused:
        return ProfileCost("lwe", refused.detail)
    return ProfileCost("lwe", "", online=online, bytes=moved, setup_bytes=setup)
