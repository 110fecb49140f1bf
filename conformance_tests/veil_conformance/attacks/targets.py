"""What a worker sees of given plaintext rows: Veil's profiles, uniform rows, and schemes that are broken.

Field masks are drawn by the product's own functions. Real-valued schemes mask rows in units of their root
mean square, so that a scale sigma compares with activations of about 1; results may be rounded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from veil_conformance.attacks import modular
from veil_conformance.attacks.base import GROUP, Sighting, View
from veil_conformance.attacks.modular import Elements, Floats
from veil_optimized import lwe, remo
from veil_optimized.decoder import Decoder
from veil_optimized.model import Group, Model, plain_products
from veil_optimized.tape import SeededTape, field_elements
from veil_spec import constants
from veil_spec.types import Domain

INDEPENDENT: Final = 3
"""Bases of one input: q, k and v."""
SPARE_SESSIONS: Final = 8
"""Earlier sessions beyond m that a static basis is learnt from."""
LAYER_STREAMS: Final = 2**20
"""Group numbers apart from any model's: bases and masks of broken schemes."""
ROUNDED: Final = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
"""What masked values of real-valued schemes are rounded to."""


@dataclass(frozen=True, slots=True)
class Plain:
    """What an enclave holds: for each tap the rows of all tokens, int64 [tokens, width], and its field."""

    rows: dict[int, NDArray[np.int64]]
    moduli: dict[int, int]

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(next(iter(self.rows.values())))


@dataclass(frozen=True, slots=True)
class Setting:
    """How a target masks: tape, m / width, the scale and rounding of real masks, copies, rows mixed at once.

    `dimension` is the number of LWE secrets of a row; None is m / width of the width.
    """

    tape: SeededTape
    ratio: Fraction = Fraction(1, 2)
    sigma: float = 10.0
    rounding: str = "float32"
    copies: int = 1
    mixed: int = 32
    dimension: int | None = None

    def rank(self, width: int) -> int:
        """Return m = floor(ratio * width)."""
        return int(self.ratio * width)

    def generator(self, use: int) -> np.random.Generator:
        """Return a generator of real numbers and uniform elements that follows from the tape."""
        return np.random.default_rng([self.tape.word(Domain.TEST, LAYER_STREAMS + use, n) for n in range(4)])


Target = Callable[[Plain, Setting], View]


def plain_of(model: Model, tokens: list[int], taps: Iterable[int]) -> Plain:
    """Return the inputs of some linear groups for every token of a prompt."""
    wanted, seen = set(taps), dict[int, NDArray[np.int64]]()

    def products(group: Group, rows: torch.Tensor) -> torch.Tensor:
        if group.number in wanted:
            seen[group.number] = rows.numpy()
        return plain_products(group, rows)

    Decoder(model, products).step(tokens, every_position=True)
    return Plain(seen, {tap: model.groups[tap].modulus for tap in wanted})


def plain_of_rows(rows: NDArray[np.integer], modulus: int, tap: int = GROUP) -> Plain:
    """Return rows of one tap [tokens, width]."""
    return Plain({tap: rows.astype(np.int64)}, {tap: modulus})


def _view(plain: Plain, sightings: Iterable[Sighting]) -> View:
    return View(plain.tokens, tuple(sightings))


def _masked(rows: NDArray[np.int64], pads: torch.Tensor, modulus: int) -> Elements:
    return np.asarray(remo.mask(torch.from_numpy(rows), pads, modulus).numpy())


def _positions(rows: NDArray[Any]) -> NDArray[np.int64]:
    return np.arange(len(rows))


def pad(plain: Plain, setting: Setting) -> View:
    """Return what profile `pad` sends."""

    def sighting(tap: int, rows: NDArray[np.int64]) -> Sighting:
        pads = remo.pad(setting.tape, tap, 0, len(rows), rows.shape[1], plain.moduli[tap])
        masked = _masked(rows, pads, plain.moduli[tap])
        return Sighting(tap, masked, _positions(rows), plain.moduli[tap])

    return _view(plain, (sighting(tap, rows) for tap, rows in plain.rows.items()))


def _ranked(
    rows: NDArray[np.int64], modulus: int, setting: Setting, group: int, step: int = 0
) -> tuple[Elements, Elements]:
    """Return rows masked by profile `rank` and the public basis."""
    basis = remo.rank_basis(setting.tape, group, setting.rank(rows.shape[1]), rows.shape[1], modulus)
    pads = remo.rank_pad(setting.tape, basis, group, step, len(rows), modulus)
    return _masked(rows, pads, modulus), basis.numpy()


def rank(plain: Plain, setting: Setting) -> View:
    """Return what profile `rank` sends: a public basis for each group, fresh secrets."""

    def sighting(tap: int, rows: NDArray[np.int64]) -> Sighting:
        masked, basis = _ranked(rows, plain.moduli[tap], setting, tap)
        return Sighting(tap, masked, _positions(rows), plain.moduli[tap], basis)

    return _view(plain, (sighting(tap, rows) for tap, rows in plain.rows.items()))


def _lwe(plain: Plain, setting: Setting, noisy: bool) -> View:
    def sighting(tap: int, rows: NDArray[np.int64]) -> Sighting:
        width = rows.shape[1]
        dimension = setting.dimension or setting.rank(width)
        basis = lwe.lwe_basis(setting.tape, tap, dimension, width)
        masked = lwe.lwe_mask(setting.tape, basis, tap, 0, torch.from_numpy(rows), noisy)
        about = (tap, masked.numpy(), _positions(rows), constants.LWE_MODULUS, basis.numpy())
        return Sighting(*about, scale=lwe.lwe_levels(width)[1])

    return _view(plain, (sighting(tap, rows) for tap, rows in plain.rows.items()))


def noisy_lwe(plain: Plain, setting: Setting) -> View:
    """Return what profile `lwe` sends, at any dimension."""
    return _lwe(plain, setting, True)


def noiseless_lwe(plain: Plain, setting: Setting) -> View:
    """Return what profile `lwe` sends when its noise is left out."""
    return _lwe(plain, setting, False)


def simulated(view: View, setting: Setting) -> View:
    """Return a view of the same shapes and bases, its masked rows uniform, or normal where they are real.

    This is what a simulator that knows nothing but the leakage can write.
    """
    draw = setting.generator(1)

    def uniform(seen: Sighting) -> Sighting:
        if seen.modulus is None:
            return replace(seen, masked=draw.normal(0, np.std(seen.masked), seen.masked.shape))
        words = draw.integers(0, seen.modulus, seen.masked.shape, dtype=np.uint64)
        return replace(seen, masked=words.view(np.int64))

    return replace(view, sightings=tuple(uniform(seen) for seen in view.sightings))


def uniform(plain: Plain, setting: Setting) -> View:
    """Return uniform rows in the shapes of profile `pad`."""
    return simulated(pad(plain, setting), setting)


def unmasked(plain: Plain, setting: Setting) -> View:
    """Return the rows themselves as field elements: no mask at all."""
    return _view(
        plain,
        (
            Sighting(tap, modular.residues(rows, plain.moduli[tap]), _positions(rows), plain.moduli[tap])
            for tap, rows in plain.rows.items()
        ),
    )


def independent_bases(plain: Plain, setting: Setting) -> View:
    """Return one input masked three times, for q, k and v, each under a basis of its own."""

    def sighting(tap: int, rows: NDArray[np.int64], number: int) -> Sighting:
        masked, basis = _ranked(rows, plain.moduli[tap], setting, LAYER_STREAMS + INDEPENDENT * tap + number)
        return Sighting(tap, masked, _positions(rows), plain.moduli[tap], basis)

    each = ((tap, rows, number) for tap, rows in plain.rows.items() for number in range(INDEPENDENT))
    return _view(plain, (sighting(*about) for about in each))


def _one_field(plain: Plain) -> int:
    return max(plain.moduli.values())


def one_mask(plain: Plain, setting: Setting) -> View:
    """Return all layers of a width under one full-rank mask, in one field: Algorithm 1 at m = width."""
    modulus = _one_field(plain)

    def sighting(tap: int, rows: NDArray[np.int64]) -> Sighting:
        pads = remo.pad(setting.tape, rows.shape[1], 0, len(rows), rows.shape[1], modulus)
        return Sighting(tap, _masked(rows, pads, modulus), _positions(rows), modulus)

    return _view(plain, (sighting(tap, rows) for tap, rows in plain.rows.items()))


def mask_of_two_tokens(plain: Plain, setting: Setting) -> View:
    """Return rows under full pads, each used for two neighbouring tokens."""

    def sighting(tap: int, rows: NDArray[np.int64]) -> Sighting:
        modulus = plain.moduli[tap]
        pads = remo.pad(setting.tape, tap, 0, -(-len(rows) // 2), rows.shape[1], modulus)
        twice = pads.repeat_interleave(2, 0)[: len(rows)]
        return Sighting(tap, _masked(rows, twice, modulus), _positions(rows), modulus)

    return _view(plain, (sighting(tap, rows) for tap, rows in plain.rows.items()))


def mask_of_two_layers(plain: Plain, setting: Setting) -> View:
    """Return layers of a width under one private S and public full-rank bases of their own, m = width."""
    modulus = _one_field(plain)

    def drawn(domain: Domain, stream: int, rows: int, width: int) -> Elements:
        return field_elements(setting.tape, domain, stream, 0, rows * width, modulus).reshape(rows, width)

    def sighting(tap: int, rows: NDArray[np.int64]) -> Sighting:
        width = rows.shape[1]
        basis = drawn(Domain.RANK_BASIS, LAYER_STREAMS + tap, width, width)
        secret = drawn(Domain.RANK_MASK, LAYER_STREAMS + width, len(rows), width)
        pads = torch.from_numpy(modular.product(secret, basis, modulus))
        return Sighting(tap, _masked(rows, pads, modulus), _positions(rows), modulus, basis)

    return _view(plain, (sighting(tap, rows) for tap, rows in plain.rows.items()))


def static_basis(plain: Plain, setting: Setting) -> View:
    """Return a prompt and the first rows of m + 8 earlier sessions under one secret basis of rank m."""
    rows, modulus = plain.rows[GROUP], plain.moduli[GROUP]
    masked, _ = _ranked(rows, modulus, setting, GROUP)
    sightings = [Sighting(GROUP, masked, _positions(rows), modulus)]
    for session in range(1, setting.rank(rows.shape[1]) + SPARE_SESSIONS + 1):
        first, _ = _ranked(rows[:1], modulus, setting, GROUP, step=session)
        sightings.append(Sighting(GROUP, first, _positions(first), modulus, session=session))
    return _view(plain, sightings)


def row_mixing(plain: Plain, setting: Setting) -> View:
    """Return messages of `mixed` rows and an eighth as many shields, mixed by a secret matrix mod p."""
    rows, modulus = plain.rows[GROUP], plain.moduli[GROUP]
    draw, sightings = setting.generator(2), list[Sighting]()
    for start in range(0, len(rows), setting.mixed):
        part = rows[start : start + setting.mixed]
        shields = draw.integers(0, modulus, (1 + len(part) // 8, rows.shape[1]), dtype=np.int64)
        held = np.concatenate((modular.residues(part, modulus), shields))
        mixer = draw.integers(0, modulus, (len(held), len(held)), dtype=np.int64)
        masked = modular.product(mixer, held, modulus)
        sightings.append(Sighting(GROUP, masked, start + _positions(part), modulus))
    return _view(plain, sightings)


def _rounded(values: Floats, setting: Setting) -> Floats:
    return np.asarray(torch.from_numpy(values).to(ROUNDED[setting.rounding]).to(torch.float64).numpy())


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows of one tap in units of their root mean square, and how to mask them."""

    tap: int
    setting: Setting
    values: Floats
    scale: float

    @classmethod
    def of(cls, tap: int, rows: NDArray[np.int64], setting: Setting) -> "_Unit":
        scale = 1 / float(np.sqrt(np.square(rows.astype(np.float64)).mean()))
        return cls(tap, setting, rows.astype(np.float64) * scale, scale)

    def basis(self, draw: np.random.Generator, rank: int) -> Floats:
        """Return a normal basis [rank, width] whose masks have about the spread of the secret."""
        return draw.normal(0, 1 / np.sqrt(rank), (rank, self.values.shape[1]))

    def under(
        self, draw: np.random.Generator, basis: Floats, public: bool = True, session: int = 0
    ) -> Sighting:
        """Return the rows under S A, S normal of spread sigma, and rounded."""
        secret = draw.normal(0, self.setting.sigma, (len(self.values), len(basis)))
        return self.plus(secret @ basis, basis if public else None, session)

    def plus(self, mask: Floats, basis: Floats | None = None, session: int = 0) -> Sighting:
        """Return the rows plus a mask, rounded."""
        masked = _rounded(self.values + mask, self.setting)
        about = (self.tap, masked, _positions(masked), None, basis, self.scale, self.setting.sigma)
        return Sighting(*about, session=session)


def _units(plain: Plain, setting: Setting) -> Iterable[_Unit]:
    return (_Unit.of(tap, rows, setting) for tap, rows in plain.rows.items())


def real_rank(plain: Plain, setting: Setting) -> View:
    """Return rows under real masks S A of rank m, as published: A public, S fresh, of scale sigma."""
    draw = setting.generator(3)
    return _view(
        plain,
        (
            unit.under(draw, unit.basis(draw, setting.rank(unit.values.shape[1])))
            for unit in _units(plain, setting)
        ),
    )


def real_full_rank(plain: Plain, setting: Setting) -> View:
    """Return `copies` of each row under real masks S A with A public and of full rank, m = width."""
    draw, sightings = setting.generator(4), list[Sighting]()
    for unit in _units(plain, setting):
        basis = unit.basis(draw, unit.values.shape[1])
        sightings.extend(unit.under(draw, basis) for _ in range(setting.copies))
    return _view(plain, sightings)


def real_noise(plain: Plain, setting: Setting) -> View:
    """Return `copies` of each row under independent normal noise of scale sigma in every element."""
    draw, sightings = setting.generator(5), list[Sighting]()
    for unit in _units(plain, setting):
        for _ in range(setting.copies):
            sightings.append(unit.plus(draw.normal(0, setting.sigma, unit.values.shape)))
    return _view(plain, sightings)


def real_independent_bases(plain: Plain, setting: Setting) -> View:
    """Return each input under real masks of three bases of its own."""
    draw, sightings = setting.generator(6), list[Sighting]()
    for unit in _units(plain, setting):
        rank = setting.rank(unit.values.shape[1])
        sightings.extend(unit.under(draw, unit.basis(draw, rank)) for _ in range(INDEPENDENT))
    return _view(plain, sightings)


def real_one_mask(plain: Plain, setting: Setting) -> View:
    """Return all layers of a width under one real mask of full rank."""
    masks: dict[int, Floats] = {}
    draw, sightings = setting.generator(7), list[Sighting]()
    for unit in _units(plain, setting):
        width = unit.values.shape[1]
        if width not in masks:
            masks[width] = draw.normal(0, setting.sigma, unit.values.shape)
        sightings.append(unit.plus(masks[width]))
    return _view(plain, sightings)


def real_static_basis(plain: Plain, setting: Setting) -> View:
    """Return a prompt and the first rows of m + 8 earlier sessions under one secret real basis."""
    draw = setting.generator(8)
    unit = _Unit.of(GROUP, plain.rows[GROUP], setting)
    rank = setting.rank(unit.values.shape[1])
    basis = unit.basis(draw, rank)
    first = replace(unit, values=unit.values[:1])
    sightings = [unit.under(draw, basis, public=False)]
    for session in range(1, rank + SPARE_SESSIONS + 1):
        sightings.append(first.under(draw, basis, public=False, session=session))
    return _view(plain, sightings)


def real_row_mixing(plain: Plain, setting: Setting) -> View:
    """Return messages of `mixed` rows and an eighth as many shields, mixed by a secret orthogonal matrix."""
    draw, sightings = setting.generator(9), list[Sighting]()
    unit = _Unit.of(GROUP, plain.rows[GROUP], setting)
    for start in range(0, len(unit.values), setting.mixed):
        part = unit.values[start : start + setting.mixed]
        shields = draw.normal(0, setting.sigma, (1 + len(part) // 8, part.shape[1]))
        held = np.concatenate((part, shields))
        mixer = np.linalg.qr(draw.normal(size=(len(held), len(held))))[0]
        masked = _rounded(mixer @ held, setting)
        sightings.append(Sighting(GROUP, masked, start + _positions(part), None, scale=unit.scale))
    return _view(plain, sightings)


PROFILES: Final[dict[str, Target]] = {"pad": pad, "lwe": noisy_lwe, "uniform": uniform}
"""What no attack may read: Veil's profiles, and what a simulator writes."""
BROKEN: Final[dict[str, Target]] = {
    "no mask": unmasked,
    "rank": rank,
    "independent bases": independent_bases,
    "one mask": one_mask,
    "mask of two tokens": mask_of_two_tokens,
    "mask of two layers": mask_of_two_layers,
    "static basis": static_basis,
    "row mixing": row_mixing,
    "lwe without noise": noiseless_lwe,
    "real rank": real_rank,
    "real full rank": real_full_rank,
    "real noise": real_noise,
    "real independent bases": real_independent_bases,
    "real one mask": real_one_mask,
    "real static basis": real_static_basis,
    "real row mixing": real_row_mixing,
}
"""What at least one attack must read."""
TARGETS: Final[dict[str, Target]] = {**PROFILES, **BROKEN}
