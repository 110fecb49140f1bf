"""The experiment: which mechanism is drawn at which setting, and which classifier judges it."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from benchmarks.utility import mechanisms
from benchmarks.utility.bench import Bench, draw_texts
from benchmarks.utility.classifier import Classifier
from benchmarks.utility.corpus import Labelled
from benchmarks.utility.mechanisms import Family, Mechanism
from benchmarks.utility.settings import OURS, Result, Setting, title
from benchmarks.utility.vocabulary import Floats, Vocabulary, glove, with_sentiment

from veil_spec import __version__

WORDS: Final = 50_000
SHARES: Final = (0.9, 1.0, 0.8, 0.95, 0.5)
"""Shares of the vocabulary protected, the rarest words of it; in the order in which they are measured."""
BOTH_MATCHED: Final = (1.0, 0.9)
"""Shares at which baselines are matched by uniform recovery too, not by weighted recovery alone."""
EPSILONS: Final = ("1", "2", "3")


@dataclass(frozen=True, slots=True)
class Point:
    """A mechanism at a setting with what is known of it before any text is drawn."""

    setting: Setting
    mechanism: Mechanism
    exact_epsilon: float | None
    recovery_uniform: float
    recovery_weighted: float


@dataclass(frozen=True)
class Scene:
    """A vocabulary of which a share is protected, the entries from `first` on."""

    bench: Bench
    vocabulary: Vocabulary
    share: float

    @property
    def first(self) -> int:
        """Return the first protected entry."""
        return round((1 - self.share) * WORDS)

    @cached_property
    def priors(self) -> dict[str, Floats]:
        """Return what the attacker knows [V]: the counts of the training sentences, or nothing."""
        counts = token_counts(self.vocabulary, self.bench.corpus.sentences)
        return {"weighted": counts, "uniform": even_prior(counts, self.first)}

    @cached_property
    def given(self) -> list[str]:
        """Return what figures depend on, beside the setting: data and the code of the mechanisms."""
        source = Path(mechanisms.__file__).read_bytes()
        data = [self.vocabulary.vectors.tobytes(), self.priors["weighted"].tobytes(), source]
        hashes = [hashlib.sha256(part).hexdigest() for part in data]
        return [__version__, *hashes, *self.vocabulary.entries, str(self.first)]

    def tables(self, epsilons: Sequence[str], two_sided: bool) -> list[mechanisms.Ours]:
        """Return our mechanism at each epsilon."""
        return mechanisms.ours(
            self.vocabulary, self.first, epsilons, two_sided, self.bench.cache, self.bench.report
        )

    def point(self, name: str, nominal: float, mechanism: Mechanism, matched: str = "") -> Point:
        """Return the setting with its exact epsilon and both recoveries."""
        text = f"{nominal:.3g}" if math.isfinite(nominal) else "no noise"
        setting = Setting(self.vocabulary.name, name, self.share, text, matched)
        self.bench.report(f"measuring: {title(setting)}", 0, 1)

        given = [*self.given, name, repr(nominal), mechanism.digest()]

        def recovery(prior: str) -> float:
            kept = self.bench.kept("figures", [*given, prior], lambda: mechanism.recovery(self.priors[prior]))
            assert kept is not None
            return kept

        exact = self.bench.kept("figures", [*given, "epsilon"], lambda: _finite(mechanism.epsilon()))
        return Point(setting, mechanism, exact, recovery("uniform"), recovery("weighted"))

    def matching(self, family: Family, wanted: Mechanism, matched: str) -> float | None:
        """Return the family's nominal epsilon whose recovery is that of the wanted mechanism, or None."""
        self.bench.report(f"matching: {self.share:.0%}, {family.name}, {matched}", 0, 1)
        prior = self.priors[matched]
        return self.bench.kept(
            "figures",
            [*self.given, family.name, "matching", matched],
            lambda: mechanisms.matching(family, wanted.recovery(prior), prior),
        )

    def evaluated(self, point: Point, judge: Classifier, trained_on: str) -> Result:
        """Return accuracy and changed tokens over the seeds; without noise one draw is all there is."""
        drawn, accuracies = [], []
        for seed in range(1 if isinstance(point.mechanism, mechanisms.Kept) else self.bench.seeds):
            self.bench.report(f"judging: {title(point.setting)}", seed, self.bench.seeds)
            texts = self.bench.corpus.dev.texts
            drawn.append(draw_texts(texts, self.vocabulary, self.first, point.mechanism, seed))
            accuracies.append(self.bench.accuracy(judge, drawn[-1].texts))
        return Result(
            point.setting,
            trained_on,
            point.exact_epsilon,
            point.recovery_uniform,
            point.recovery_weighted,
            drawn[0].protected,
            fmean(one.changed for one in drawn),
            tuple(accuracies),
        )


def run(bench: Bench) -> Iterator[Result]:
    """Yield every result: ours with own vectors, the baselines with them, then what matters less.

    Where every word is protected, each setting is also judged by a classifier trained on sanitized text.
    """
    plain = glove(WORDS)
    clean, trained = bench.clean(), dict[tuple[str, str], Classifier]()
    own = with_sentiment(plain, bench.corpus.train, bench.verdicts(clean, plain.entries))
    for vocabulary, points, shares in (
        (own, one_sided, SHARES[:2]),
        (own, baselines, SHARES[:1]),
        (own, one_sided, SHARES[2:]),
        (own, baselines, SHARES[1:]),
        (own, two_sided, SHARES),
        (plain, one_sided, SHARES),
    ):
        for share in shares:
            scene = Scene(bench, vocabulary, share)
            for point in points(scene):
                yield scene.evaluated(point, clean, "clean text")
                name = training_text(point.setting)
                if share == 1.0 and name:
                    key = (vocabulary.name, name)
                    if key not in trained:
                        trained[key] = bench.sanitized(
                            title(point.setting), vocabulary, scene.first, point.mechanism
                        )
                    yield scene.evaluated(point, trained[key], f"text sanitized by {name}")


def training_text(setting: Setting) -> str:
    """Return whose sanitized text trains the classifier of this setting, or nothing for clean text alone.

    CUSTEXT+ draws from our parts by nearly our law, so it shares ours. A baseline at its published epsilon is
    judged on clean training alone: only its matched settings are compared with ours.
    """
    if setting.mechanism in OURS or setting.mechanism == "CUSTEXT+":
        return "ours"
    return f"{setting.mechanism} matched {setting.matched}" if setting.matched else ""


def one_sided(scene: Scene) -> Iterator[Point]:
    """Yield ours with one-sided noise at each epsilon, and without noise."""
    for nominal, mechanism in zip(EPSILONS, scene.tables(EPSILONS, two_sided=False), strict=True):
        yield scene.point(OURS[0], float(nominal), mechanism)
    yield scene.point(OURS[0], math.inf, mechanisms.Kept(scene.first))


def two_sided(scene: Scene) -> Iterator[Point]:
    """Yield ours with two-sided noise at epsilon 1."""
    yield scene.point(OURS[1], float(EPSILONS[0]), scene.tables(EPSILONS[:1], two_sided=True)[0])


def baselines(scene: Scene) -> Iterator[Point]:
    """Yield each baseline where its recovery is ours at epsilon 1, if it can be, and as published."""
    ours = scene.tables(EPSILONS, two_sided=False)[0]
    for make in (mechanisms.santext, mechanisms.cmif_paper, mechanisms.custext):
        family = make(scene.vocabulary, scene.first)
        for matched in ("weighted", "uniform") if scene.share in BOTH_MATCHED else ("weighted",):
            nominal = scene.matching(family, ours, matched)
            if nominal is not None:
                yield scene.point(family.name, nominal, family.at(nominal), matched)
        yield scene.point(family.name, 1.0, family.at(1.0))


def token_counts(vocabulary: Vocabulary, labelled: Labelled) -> Floats:
    """Return how often each entry [V] occurs in the texts; 0 for UNKNOWN, which is no word to recover."""
    ids = vocabulary.ids([word for text in labelled.texts for word in text.split()])
    counts = np.bincount(ids, minlength=len(vocabulary.entries)).astype(np.float64)
    counts[-1] = 0
    return counts


def even_prior(prior: Floats, first: int) -> Floats:
    """Return 1 for every protected word and 0 for the others and for UNKNOWN [V]."""
    even = (np.arange(len(prior)) >= first).astype(np.float64)
    even[-1] = 0
    return even


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
