"""The matrix of profiles and attacks: each cell is one attack on what a worker sees of at least 2,000 tokens.

Views are written by attacks/targets.py, with the product's own masks, from the activations of a plain model.
A profile that should hide is compared with uniform rows of the same shapes and bases: a simulator that knows
nothing writes them. If the profile hides, the two can be exchanged row by row. Where guesses of one prompt or
message depend on each other, whole prompts or messages are exchanged.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from veil_conformance.attacks import modular, sequential, targets
from veil_conformance.attacks.base import GROUP, Attack, Public, Sighting, View
from veil_conformance.attacks.modular import Elements
from veil_conformance.attacks.registry import ATTACKS
from veil_conformance.attacks.targets import Plain, Setting
from veil_conformance.audit.statistics import FALSE_ALARM, Interval, Paired, clopper_pearson, paired
from veil_optimized import lwe
from veil_optimized.model import Model
from veil_optimized.tape import SeededTape
from veil_spec.refusals import Refused

LEAST_TOKENS: Final = 2_000
"""Fewer tokens decide nothing, except where a cell states its own least number."""
RANK_READ: Final = 0.99
"""Profile `rank`, over a field or real-valued, counts as read from this share of tokens on."""
SCHEME_READ: Final = 0.9
"""Any other broken scheme."""
FEW: Final = 0.1
"""The published attack, nearest neighbour, names less than this share: single-digit percent, as published."""
SIGMA: Final = 10.0
"""Scale of real-valued masks in the cells."""
SCALES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Scales of real-valued masks in the curve, in units of the activations' root mean square."""
SESSIONS: Final = 296
"""Earlier sessions that the attack on a static basis is shown of a profile that hides."""
SPARE: Final = 128
"""Null vectors that are computed together: they serve every attack that wants fewer."""
HIDING: Final = ("pad", "lwe")
"""The columns whose cells must not be told from noise."""
COLUMNS: Final = ("rank", "real rank", "own target", "pad", "lwe")
"""The columns of the picture; an attack's own target is the scheme that it is made for."""
Fresh = Callable[[], SeededTape]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to attack: what is public about it, and tokens with the rows that they make at some taps.

    The rows are those of all prompts, one after the other; each prompt has `length` tokens.
    """

    name: str
    public: Public
    tokens: tuple[int, ...]
    plain: Plain
    length: int

    @property
    def chance(self) -> float:
        """Return the share that a blind guess names."""
        return 1 / self.public.words.distinct

    @property
    def width(self) -> int:
        """Return the width of a row."""
        return int(self.public.words.rows.shape[1])


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack on one target, what is expected of it, and the least share and number of tokens."""

    attack: Attack
    column: str
    target: str
    setting: Setting
    expected: str
    share: float = 0.0
    least: int = LEAST_TOKENS
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of a trial. Expected: "read", "few" (tokens named), "hidden" or "refused"."""

    subject: str
    attack: str
    column: str
    target: str
    expected: str
    share: float
    least: int
    detail: str
    right: tuple[bool, ...] = ()
    chance: float = 0.0
    uniform: float | None = None
    comparison: Paired | None = None

    @property
    def named(self) -> float:
        """Return the share of tokens that the attack named."""
        return sum(self.right) / max(1, len(self.right))

    @property
    def interval(self) -> Interval:
        """Return the exact interval of that share."""
        return clopper_pearson(sum(self.right), len(self.right)) if self.right else (0.0, 1.0)

    def holds(self, level: float) -> bool:
        """Return whether the attack did as expected, by a test at this level and on tokens enough."""
        if self.expected == "refused":
            return True
        if len(self.right) < self.least:
            return False
        if self.expected == "read":
            return self.named >= self.share
        if self.expected == "few":
            return self.named < self.share
        return (
            self.comparison is not None
            and self.comparison.decides(level)
            and self.comparison.p_value >= level
        )


@dataclass(frozen=True, slots=True)
class Point:
    """Shares of tokens named at one scale of real-valued masks."""

    sigma: float
    nearest: float
    null_space: float


@dataclass
class Matrix:
    """All cells, and the curve over the mask scale with the number of its tokens."""

    cells: list[Cell] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    curve_tokens: int = 0

    @property
    def comparisons(self) -> int:
        """Return the number of cells that are compared with noise."""
        return sum(cell.comparison is not None for cell in self.cells)

    @property
    def level(self) -> float:
        """Return the level of each comparison: a false alarm in all of them together has at most 1e-3."""
        return FALSE_ALARM / max(1, self.comparisons)

    def hold(self, chosen: Callable[[Cell], bool]) -> bool:
        """Return whether the chosen cells hold; there must be some."""
        cells = [cell for cell in self.cells if chosen(cell)]
        return bool(cells) and all(cell.holds(self.level) for cell in cells)

    def untried(self) -> list[str]:
        """Return "attack: column" for each attack that has no cell for `pad`, `lwe` or what it must break."""
        tried = {(cell.attack, cell.target) for cell in self.cells if cell.expected != "refused"}
        wanted = [(attack.name, name) for attack in ATTACKS for name in (*attack.breaks, *HIDING)]
        return [f"{attack}: {name}" for attack, name in wanted if (attack, name) not in tried]


@contextmanager
def remembered() -> Iterator[None]:
    """Compute once, inside the block, what attacks derive from public knowledge alone.

    These are the null vectors of a public basis and the rows of all candidates after a prefix.
    """
    null_vectors, branches = modular.null_vectors, sequential.Branches
    modular.null_vectors, sequential.Branches = _remembering(null_vectors), _Remembering.fresh()  # type: ignore[misc]
    try:
        yield
    finally:
        modular.null_vectors, sequential.Branches = null_vectors, branches  # type: ignore[misc]


def _remembering(null_vectors: Callable[[Elements, int, int], Elements]) -> Callable[..., Elements]:
    known: dict[tuple[bytes, int], Elements] = {}

    def once(basis: Elements, modulus: int, count: int = modular.NULL_VECTORS) -> Elements:
        key = hashlib.sha256(basis.tobytes()).digest(), modulus
        spare = max(0, basis.shape[1] - len(basis))
        if key not in known or known[key].shape[1] < min(count, spare):
            known[key] = null_vectors(basis, modulus, count if spare > SPARE else max(count, spare))
        return known[key][:, :count]

    return once


class _Remembering(sequential.Branches):
    """Branches that run no prefix twice."""

    known: dict[tuple[int, tuple[int, ...], tuple[int, ...], bytes], dict[int, Elements]]

    @classmethod
    def fresh(cls) -> type["_Remembering"]:
        """Return a class that knows nothing yet."""
        return type("Remembering", (cls,), {"known": {}})

    def __init__(self, model: Model, taps: tuple[int, ...]) -> None:
        self._model, self._taps_read = model, taps
        self._prefix: tuple[int, ...] = ()

    def tried(self, tokens: list[int]) -> dict[int, Elements]:
        """Return the inputs of each tap [tokens, width] if one of these tokens came next."""
        key = id(self._model), self._taps_read, self._prefix, np.array(tokens).tobytes()
        if key not in self.known:
            running = BRANCHES(self._model, self._taps_read)
            for token in self._prefix:
                running.accept(token)
            self.known[key] = running.tried(tokens)
        return self.known[key]

    def accept(self, token: int) -> None:
        """Return nothing: the token is the next of the prefix."""
        self._prefix += (token,)


BRANCHES: Final = sequential.Branches
"""The branches that run."""


def _messages(seen: Sighting, rows: int) -> Iterator[Sighting]:
    """Yield a sighting in messages of so many rows."""
    for start in range(0, len(seen.positions), rows):
        part = slice(start, start + rows)
        yield replace(seen, masked=seen.masked[part], positions=seen.positions[part])


def _prompts(view: View, length: int) -> Iterator[View]:
    """Yield the views of one prompt after the other."""
    pieces = zip(*(_messages(seen, length) for seen in view.sightings), strict=True)
    for sightings in pieces:
        count = len(sightings[0].positions)
        yield View(count, tuple(replace(seen, positions=np.arange(count)) for seen in sightings))


class Bench:
    """Runs trials on one subject; a target's view is made once and shown to every attack."""

    def __init__(self, subject: Subject, fresh: Fresh) -> None:
        self._subject, self._fresh = subject, fresh
        self._views: dict[str, tuple[View, View]] = {}

    def run(self, trial: Trial) -> Cell:
        """Return what came of a trial. Refusals of profile `lwe` make a cell that says so."""
        subject, attack = self._subject, trial.attack
        about = (subject.name, attack.name, trial.column, trial.target, trial.expected)
        cell = Cell(*about, trial.share, trial.least, trial.detail, chance=subject.chance)
        if trial.expected == "hidden":
            return self._compared(cell, trial)
        plain, tokens = self._taken(trial.least if attack.needs_model else len(subject.tokens))
        view = targets.TARGETS[trial.target](plain, replace(trial.setting, tape=self._fresh()))
        return replace(cell, right=tuple(self._right(attack, view, tokens).tolist()))

    def _taken(self, count: int) -> tuple[Plain, Sequence[int]]:
        """Return the first tokens and their rows, at least so many and whole prompts."""
        length = self._subject.length
        kept = -(-count // length) * length
        plain = self._subject.plain
        rows = {tap: rows[:kept] for tap, rows in plain.rows.items()}
        return Plain(rows, plain.moduli), self._subject.tokens[:kept]

    def _compared(self, cell: Cell, trial: Trial) -> Cell:
        """Return the cell of an attack on a profile and on noise in its place."""
        subject, attack = self._subject, trial.attack
        try:
            views = self._hidden(trial)
        except Refused as refused:
            return replace(cell, expected="refused", detail=refused.detail)
        right, noise = (self._right(attack, self._shown(trial, view), subject.tokens) for view in views)
        units = _units(attack, len(right), subject.length, trial.setting.mixed)
        return replace(
            cell,
            right=tuple(right.tolist()),
            uniform=float(noise.mean()),
            comparison=paired(right.tolist(), noise.tolist(), units),
        )

    def _hidden(self, trial: Trial) -> tuple[View, View]:
        """Return the view of a profile and that of noise in its place, earlier sessions after the prompt."""
        if trial.target not in self._views:
            subject, setting = self._subject, replace(trial.setting, tape=self._fresh())
            if trial.target == "lwe" and setting.dimension is None:
                setting = replace(setting, dimension=lwe.lwe_dimension(subject.width))
            rows = {
                tap: np.concatenate((rows, rows[:1].repeat(SESSIONS, 0)))
                for tap, rows in subject.plain.rows.items()
            }
            view = targets.TARGETS[trial.target](Plain(rows, subject.plain.moduli), setting)
            noise = targets.simulated(view, replace(setting, tape=self._fresh()))
            self._views[trial.target] = view, noise
        return self._views[trial.target]

    def _shown(self, trial: Trial, view: View) -> View:
        """Return what an attack is shown: the prompt, with more where it makes use of more."""
        attack, count = trial.attack, len(self._subject.tokens)
        prompt = [
            replace(seen, masked=seen.masked[:count], positions=seen.positions[:count])
            for seen in view.sightings
        ]
        bare = all(seen.basis is None for seen in prompt)
        if bare and "rank" in attack.breaks and not attack.needs_model:
            prompt = list(View(count, tuple(prompt)).armed(self._lent(trial.setting)).sightings)
        if attack.unordered:
            prompt = [part for seen in prompt for part in _messages(seen, trial.setting.mixed)]
        if "static basis" in attack.breaks:
            prompt += _sessions(next(view.of(GROUP)), count)
        return View(count, tuple(prompt))

    def _lent(self, setting: Setting) -> View:
        """Return a view under profile `rank`, whose bases are lent where there are none: always the same."""
        if "rank" not in self._views:
            view = targets.rank(self._taken(1)[0], replace(setting, tape=self._fresh()))
            self._views["rank"] = view, view
        return self._views["rank"][0]

    def _right(self, attack: Attack, view: View, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Return for each token whether the attack names it; with a model, prompt by prompt."""
        public, length = self._subject.public, self._subject.length
        if not attack.needs_model:
            return attack.right(view, attack.guess(public, view), tokens)
        found = [
            attack.right(part, attack.guess(public, part), tokens[length * number :][: part.tokens])
            for number, part in enumerate(_prompts(view, length))
        ]
        return np.concatenate(found)


def _sessions(seen: Sighting, first: int) -> Iterator[Sighting]:
    """Yield the rows from `first` on as first rows of earlier sessions."""
    for session, row in enumerate(seen.masked[first:], 1):
        yield replace(seen, masked=row[None], positions=np.zeros(1, dtype=np.int64), session=session)


def _units(attack: Attack, count: int, length: int, mixed: int) -> list[int] | None:
    if attack.needs_model:
        return [number // length for number in range(count)]
    return [number // mixed for number in range(count)] if attack.unordered else None
