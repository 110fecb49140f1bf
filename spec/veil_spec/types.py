"""Values that cross an interface: frozen, checked where they have an invariant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import NewType

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

Word = NewType("Word", int)
"""A tape word, 0 <= word < 2**64."""
TokenIndex = NewType("TokenIndex", int)
"""Position of a candidate in its part, from 0."""
Row = Sequence[int]
"""Integers of one token, in column order."""
Rows = Sequence[Row]
"""[rows, columns]"""


class Domain(StrEnum):
    """What a tape word is for; each has its own key (TAP-R1)."""

    NOISE = "nmx.noise"
    DRAW = "nmx.draw"
    PAD = "rmo.pad"
    RANK_BASIS = "rmo.rank.basis"
    RANK_MASK = "rmo.rank.mask"
    LWE_BASIS = "rmo.lwe.basis"
    LWE_SECRET = "rmo.lwe.secret"
    LWE_NOISE = "rmo.lwe.noise"
    RATCHET = "rmo.ratchet"
    CHALLENGE = "int.challenge"
    SAMPLING = "mdl.sampling"
    TEST = "test"


Address = tuple[Domain, int, int]
"""(domain, stream, index) of one tape word."""


@dataclass(frozen=True, slots=True)
class ListedTape:
    """A finite tape that holds the listed words and refuses every other address. Implements: TAP-R7."""

    words: Mapping[Address, int]

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return the listed word. Refuses: TAPE_EXHAUSTED."""
        if (domain, stream, index) not in self.words:
            raise Refused(Refusal.TAPE_EXHAUSTED)
        return self.words[domain, stream, index]


def _checked_alpha(alpha: Fraction) -> None:
    if not isinstance(alpha, Fraction) or not 0 < alpha < 1:
        raise Refused(Refusal.ALPHA_OUT_OF_RANGE, "alpha must be a Fraction between 0 and 1")
    if alpha.denominator > constants.ALPHA_DENOMINATOR_LIMIT:
        raise Refused(Refusal.ALPHA_OUT_OF_RANGE, "alpha's denominator must be at most 65536")


@dataclass(frozen=True, slots=True)
class Geometric:
    """One-sided noise k >= 0 with probability (1 - alpha) * alpha**k.

    Implements: NMX-R7.
    Refuses: ALPHA_OUT_OF_RANGE.
    """

    alpha: Fraction

    def __post_init__(self) -> None:
        _checked_alpha(self.alpha)


@dataclass(frozen=True, slots=True)
class TwoSidedGeometric:
    """Noise k with probability proportional to alpha**abs(k).

    Implements: NMX-R7.
    Refuses: ALPHA_OUT_OF_RANGE.
    """

    alpha: Fraction

    def __post_init__(self) -> None:
        _checked_alpha(self.alpha)


Noise = Geometric | TwoSidedGeometric


@dataclass(frozen=True, slots=True)
class Selection:
    """The one thing that a noisy max lets out: the index of the winner."""

    index: TokenIndex


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that may replace one another; scores[x][y] is the score of output y for private token x."""

    tokens: tuple[str, ...]
    scores: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A frozen sanitizer table: a public partition of a vocabulary, with integer scores inside each part."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class TabulatedPart:
    """A part whose law is written down: weights[x][y] * 2**-64 is the probability of output y for token x."""

    tokens: tuple[str, ...]
    scores: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TabulatedTable:
    """A frozen sanitizer table that is drawn from directly; `epsilon` is the claim, a decimal string."""

    name: str
    epsilon: str
    parts: tuple[TabulatedPart, ...]


@dataclass(frozen=True, slots=True)
class WorstPair:
    """Where the largest probability ratio is reached: output `output` of `token` against `other`."""

    token: str
    other: str
    output: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a table with a noise guarantees; epsilon figures are ln(bound) and ln(exact), rounded up."""

    range_distance: int
    bound: Fraction
    exact: Fraction
    worst: WorstPair
    epsilon_bound: str
    epsilon_exact: str
    adjacency: str
    part_bits: str
    bayes_recovery: Fraction
    verbatim: tuple[str, ...]
    not_covered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PaperCertificate:
    """What profile `cmif-paper` guarantees; a witness is an output that one of two tokens never gives."""

    adjacency: str
    epsilon: str
    witness: WorstPair


@dataclass(frozen=True, slots=True)
class Quantised:
    """A row as 16-bit integers and one exponent: value i is values[i] * 2**-exponent."""

    values: tuple[int, ...]
    exponent: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn: temperature from 1/64 to 64, at most `count` tokens, the top `share` of weight.

    Refuses: SAMPLING_OUT_OF_RANGE.
    """

    temperature: Fraction = Fraction(1)
    count: int | None = None
    share: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        limit, heat = constants.TEMPERATURE_LIMIT, self.temperature
        if isinstance(heat, float) or isinstance(self.share, float):
            raise Refused(Refusal.SAMPLING_OUT_OF_RANGE, "temperature and top_p must be rationals")
        if max(heat.numerator, heat.denominator) > constants.RATIO_LIMIT:
            raise Refused(Refusal.SAMPLING_OUT_OF_RANGE, "temperature must be a ratio of 32-bit numbers")
        if not Fraction(1, limit) <= self.temperature <= limit:
            detail = f"temperature must be from 1/{limit} to {limit}; 0 is greedy"
            raise Refused(Refusal.SAMPLING_OUT_OF_RANGE, detail)
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise Refused(Refusal.SAMPLING_OUT_OF_RANGE, "top_k must be at least 1")
        if not 0 < self.share <= 1:
            raise Refused(Refusal.SAMPLING_OUT_OF_RANGE, "top_p must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class WeightRow:
    """One output channel: weight i is values[i] * mantissa * 2**-exponent."""

    values: tuple[int, ...]
    mantissa: int
    exponent: int


class FrameKind(IntEnum):
    """What a frame carries."""

    HELLO = 1
    WELCOME = 2
    MULTIPLY = 3
    PRODUCT = 4
    REFUSAL = 5
    ASK = 6
    SEED = 7
    EMBEDDED = 8
    ANSWER = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """One message, or one piece of it, as spec/wire.md lays it out."""

    kind: FrameKind
    epoch: bytes
    group: int
    step: int
    first_row: int
    rows: int
    total_rows: int
    columns: int
    element_bytes: int
    payload: bytes
