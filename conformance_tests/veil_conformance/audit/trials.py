"""What the matrix tries: three models, every attack on the profiles, and each broken scheme by its attack."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch

from veil_conformance.attacks import base, targets
from veil_conformance.attacks.base import GROUP, Attack, Public, Vocabulary
from veil_conformance.attacks.registry import ATTACKS
from veil_conformance.attacks.sequential import TAPS
from veil_conformance.attacks.targets import Setting
from veil_conformance.audit import random_model
from veil_conformance.audit.matrix import (
    COLUMNS,
    FEW,
    HIDING,
    LEAST_TOKENS,
    RANK_READ,
    SCALES,
    SCHEME_READ,
    SIGMA,
    Bench,
    Fresh,
    Matrix,
    Point,
    Subject,
    Trial,
    remembered,
)
from veil_optimized.model import Model, load
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.architecture import DecoderShape

REAL: Final = "the model"
WIDE: Final = "random, wide"
SMALL: Final = "random, small"
FIELD_RATIOS: Final = (Fraction(1, 2), Fraction(9, 10))
"""m / d over a field, beside d - m = 1."""
MIXED: Final = 8
"""Rows of a message that is mixed, where profiles are told from noise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tried; tests try less.

    `few` tokens of real text are matched through the taps of the audited model, each against `candidates`;
    the small random model gets prompts of `steps` tokens, `prompts` of them different; `curve` tokens make a
    point of the curve; `least` tokens decide a cell; `dimension` replaces the number of LWE secrets of the
    wide model; `likelihood` is the mask scale for maximum likelihood.
    """

    tokens: int = 2_048
    few: int = 8
    candidates: int = 24
    steps: int = 2
    prompts: int = 256
    curve: int = 512
    wide: DecoderShape = random_model.WIDE
    small: DecoderShape = random_model.SMALL
    dimension: int | None = None
    likelihood: float = SIGMA
    least: int = LEAST_TOKENS


def taps_of(layers: int) -> tuple[int, ...]:
    """Return the linear groups that sequential matching goes through."""
    return tuple(sorted({tap(layers) for tap in TAPS.values()}))


def drawn(words: Vocabulary, count: int, draw: np.random.Generator) -> list[int]:
    """Return tokens that share their row with no other token."""
    return [int(token) for token in draw.choice(np.flatnonzero(~words.duplicate), count)]


def at_first_layer(
    name: str, model: Model, words: Vocabulary, tokens: int, draw: np.random.Generator
) -> Subject:
    """Return random tokens as the first linear group has them."""
    chosen = drawn(words, tokens, draw)
    plain = targets.plain_of_rows(words.rows[chosen], model.groups[GROUP].modulus)
    return Subject(name, Public(words), tuple(chosen), plain, tokens)


def through_model(model: Model, prompts: Sequence[Sequence[int]], public: Public, name: str) -> Subject:
    """Return prompts of one length as the first linear group and all taps have them."""
    taps = (GROUP, *taps_of(model.shape.layers))
    once = {prompt: targets.plain_of(model, list(prompt), taps) for prompt in set(map(tuple, prompts))}
    made = [once[tuple(prompt)] for prompt in prompts]
    rows = {tap: np.concatenate([each.rows[tap] for each in made]) for tap in made[0].rows}
    tokens = tuple(token for prompt in prompts for token in prompt)
    return Subject(name, public, tokens, targets.Plain(rows, made[0].moduli), len(prompts[0]))


def _setting(fresh: Fresh, **chosen: object) -> Setting:
    return replace(Setting(fresh(), sigma=SIGMA), **chosen)  # type: ignore[arg-type]


def hiding(
    fresh: Fresh, chosen: Callable[[Attack], bool], dimension: int | None, least: int
) -> Iterator[Trial]:
    """Yield every chosen attack on every profile that hides."""
    for target in HIDING:
        for attack in filter(chosen, ATTACKS):
            setting = _setting(fresh, dimension=dimension, mixed=MIXED)
            yield Trial(attack, target, target, setting, "hidden", least=least)


def ranked(fresh: Fresh, width: int, least: int) -> Iterator[Trial]:
    """Yield the look-up on profile `rank`, down to a null space of one dimension."""
    attack = next(attack for attack in ATTACKS if attack.name == "annihilator look-up")
    for ratio in (*FIELD_RATIOS, Fraction(width - 1, width)):
        shown = f"m/d {ratio}" if ratio in FIELD_RATIOS else "d - m = 1"
        setting = _setting(fresh, ratio=ratio)
        yield Trial(attack, "rank", "rank", setting, "read", RANK_READ, least, shown)


def real_valued(fresh: Fresh, least: int, published: bool) -> Iterator[Trial]:
    """Yield the published attack and the adaptive one on real-valued masks of one scale."""
    detail = f"sigma {SIGMA:g}"
    for attack in ATTACKS:
        if attack.name == "nearest neighbour" and published:
            yield Trial(attack, "real rank", "real rank", _setting(fresh), "few", FEW, least, detail)
        elif attack.name == "null-space nearest neighbour":
            yield Trial(attack, "real rank", "real rank", _setting(fresh), "read", RANK_READ, least, detail)


def tapped(fresh: Fresh, least: int) -> Iterator[Trial]:
    """Yield sequential matching on `rank` and on real-valued masks, at m/d 1/2."""
    for attack in filter(_sequential, ATTACKS):
        for target in attack.breaks:
            detail = "m/d 1/2" if target == "rank" else f"m/d 1/2, sigma {SIGMA:g}"
            yield Trial(attack, target, target, _setting(fresh), "read", RANK_READ, least, detail)


def schemes(
    fresh: Fresh, width: int, chosen: Callable[[Attack], bool], least: int, likelihood: float = SIGMA
) -> Iterator[Trial]:
    """Yield the chosen attacks on the schemes that they alone are made for."""
    for attack in filter(chosen, ATTACKS):
        for target in attack.breaks:
            if target not in COLUMNS:
                sigma = likelihood if attack.name == "maximum likelihood" else SIGMA
                setting = _setting(fresh, mixed=2 * width // 3, sigma=sigma)
                detail = f"sigma {sigma:g}" if target.startswith("real") else ""
                yield Trial(attack, "own target", target, setting, "read", SCHEME_READ, least, detail)


def curve(subject: Subject, fresh: Fresh, tokens: int) -> list[Point]:
    """Return the shares that both attacks on real-valued masks name, at every scale, on the first tokens."""
    nearest, null_space = ATTACKS[0], ATTACKS[1]
    kept = subject.plain.rows[GROUP][:tokens]
    plain = targets.plain_of_rows(kept, subject.plain.moduli[GROUP])
    points = []
    for sigma in SCALES:
        view = targets.real_rank(plain, Setting(fresh(), sigma=sigma))
        named = [
            float(attack.right(view, attack.guess(subject.public, view), subject.tokens[:tokens]).mean())
            for attack in (nearest, null_space)
        ]
        points.append(Point(sigma, *named))
    return points


def fresh_tape() -> SeededTape:
    """Return a tape that nobody has seen."""
    return SeededTape(os.urandom(constants.SEED_BYTES))


@dataclass(frozen=True, slots=True)
class Sweep:
    """What every section of a matrix is made from; it can be sent to another process.

    `model` is an integer file, `text` real text for the taps. In tests `seed` makes a section come out the
    same again.
    """

    plan: Plan
    model: Path
    text: tuple[int, ...]
    seed: int | None = None

    def run(self, executor: Executor, progress: Callable[[str], None]) -> Matrix:
        """Return the matrix, its sections computed by an executor and joined in their order."""
        sections = {executor.submit(section, name, self): name for name in SECTIONS}
        progress(f"attacking, in sections: {', '.join(SECTIONS)}")
        made: dict[str, Matrix] = {}
        for done in as_completed(sections):
            name = sections[done]
            made[name] = done.result()
            progress(f"attacked, section {name}: {len(made[name].cells)} cells")
        whole = made[SECTIONS[0]]
        for name in SECTIONS[1:]:
            whole.cells.extend(made[name].cells)
        return whole


@contextmanager
def own_executor() -> Iterator[Executor]:
    """Yield a pool of one process for each processor, each of one thread; it ends with the block."""
    count, context = os.cpu_count() or 1, get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


ALONE: Final = threading.Lock()
"""Held by a section: what is remembered of public knowledge is the process's."""


def section(name: str, sweep: Sweep) -> Matrix:
    """Return the cells of one section, and with those of the model itself the curve."""
    with ALONE, remembered():
        trials = Trials(sweep)
        getattr(trials, name)()
    return trials.matrix


SECTIONS: Final = ("real", "taps", "wide", "small")
"""The audited model, its taps, a random model wide enough for `lwe`, a small one for every tap."""


class Trials:
    """Fills the sections of a matrix."""

    def __init__(self, sweep: Sweep) -> None:
        self._plan, self._sweep = sweep.plan, sweep
        self._draw = np.random.default_rng(sweep.seed)
        self.matrix = Matrix()

    def _fresh(self) -> SeededTape:
        seeded = self._sweep.seed is not None
        return SeededTape(self._draw.bytes(constants.SEED_BYTES)) if seeded else fresh_tape()

    def _add(self, subject: Subject, trials: Iterator[Trial]) -> None:
        bench = Bench(subject, self._fresh)
        self.matrix.cells.extend(bench.run(trial) for trial in trials)

    def _audited(self) -> tuple[Model, Vocabulary]:
        model = load(self._sweep.model)
        return model, base.vocabulary(model)

    def real(self) -> None:
        """Attack the first layer of the audited model, and draw the curve."""
        model, words = self._audited()
        subject = at_first_layer(REAL, model, words, self._plan.tokens, self._draw)
        least = self._plan.least
        self._add(subject, ranked(self._fresh, subject.width, least))
        self._add(subject, real_valued(self._fresh, least, published=True))
        self._add(subject, schemes(self._fresh, subject.width, _single, least, self._plan.likelihood))
        self._add(subject, hiding(self._fresh, _rowwise, None, least))
        self.matrix.curve_tokens = min(self._plan.curve, self._plan.tokens)
        self.matrix.curve = curve(subject, self._fresh, self.matrix.curve_tokens)

    def taps(self) -> None:
        """Match real text through the taps of the audited model."""
        model, words = self._audited()
        prompt = list(self._sweep.text[: self._plan.few])
        pool = np.setdiff1d(np.flatnonzero(~words.duplicate), prompt)
        count = min(len(pool), max(1, self._plan.candidates - len(set(prompt))))
        others = self._draw.choice(pool, count, replace=False).tolist()
        candidates = np.array(sorted({*prompt, *others}))
        public = Public(words, model, candidates)
        subject = through_model(model, [prompt], public, REAL)
        trials = tapped(self._fresh, len(prompt))
        on_rank = (trial for trial in trials if trial.target == "rank")
        stated = f", {len(candidates)} candidates"
        self._add(subject, (replace(trial, detail=trial.detail + stated) for trial in on_rank))

    def wide(self) -> None:
        """Attack a model that is wide enough for `lwe`."""
        model = random_model.random_model(WIDE, self._plan.wide, self._sweep.seed)
        subject = at_first_layer(WIDE, model, base.vocabulary(model), self._plan.tokens, self._draw)
        self._add(subject, real_valued(self._fresh, self._plan.least, published=False))
        self._add(subject, hiding(self._fresh, _rowwise, self._plan.dimension, self._plan.least))

    def small(self) -> None:
        """Attack a small model through every tap."""
        model = random_model.random_model(SMALL, self._plan.small, self._sweep.seed)
        words = base.vocabulary(model)
        steps, prompts = self._plan.steps, self._plan.prompts
        different = np.array(drawn(words, prompts * steps, self._draw)).reshape(prompts, steps)
        chosen = self._draw.choice(different, self._plan.tokens // steps)
        subject = through_model(model, chosen.tolist(), Public(words, model), SMALL)
        self._add(subject, ranked(self._fresh, subject.width, self._plan.least))
        self._add(subject, tapped(self._fresh, self._plan.least))
        self._add(subject, schemes(self._fresh, subject.width, _modelled, self._plan.least))
        self._add(subject, hiding(self._fresh, _grouped, subject.width // 2, self._plan.least))


def _single(attack: Attack) -> bool:
    return not attack.needs_model


def _rowwise(attack: Attack) -> bool:
    """Return whether an attack takes the rows of the first group one by one."""
    return not attack.needs_model and not attack.unordered


def _sequential(attack: Attack) -> bool:
    return attack.name.startswith("sequential")


def _modelled(attack: Attack) -> bool:
    return attack.needs_model


def _grouped(attack: Attack) -> bool:
    return attack.needs_model or attack.unordered
