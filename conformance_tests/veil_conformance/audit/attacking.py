"""The attacks, run on transcripts of real prompts: what `rank` gives away, and that `pad` gives nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from veil_conformance.attacks import null_space, view
from veil_conformance.attacks.null_space import Guess, Vocabulary
from veil_conformance.audit.statistics import SIGNIFICANCE, Interval, Paired, clopper_pearson, paired
from veil_optimized import transcript, wire
from veil_optimized.enclave import Masking, epoch
from veil_optimized.generate import steps
from veil_optimized.model import Decoder, Model
from veil_optimized.transcript import Direction
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.types import Frame, FrameKind

NAME: Final = "null-space look-up"
RATIOS: Final = (Fraction(1, 2), Fraction(9, 10))
"""m/d of the published profile."""
DECODED: Final = 2
"""Decoding steps on record after the prompt."""
LEAST_TOKENS: Final = 300
"""Fewer tokens decide nothing."""
BROKEN: Final = 0.99
"""A profile counts as broken if at least this share of the tokens is recovered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack on one transcript; tokens that share their quantised row with another are not scored."""

    profile: str
    m_over_d: Fraction
    right: tuple[bool, ...]
    chance: float
    expected: str
    comparison: Paired | None = None

    @property
    def recovered(self) -> float:
        """Return the share of scored tokens that the attack named."""
        return sum(self.right) / max(1, len(self.right))

    @property
    def interval(self) -> Interval:
        """Return the exact interval of that share."""
        return clopper_pearson(sum(self.right), len(self.right))

    @property
    def holds(self) -> bool:
        """Return whether the attack did as expected: broke `rank`, or did no better than on uniform rows."""
        if self.expected == "broken":
            enough = self.recovered >= BROKEN
        else:
            enough = self.comparison is None or self.comparison.p_value >= SIGNIFICANCE
        return enough and len(self.right) >= LEAST_TOKENS


@dataclass(frozen=True, slots=True)
class Scene:
    """One prompt as enclave, worker and attacker have it: [tokens, columns] integers and centred elements."""

    m_over_d: Fraction
    modulus: int
    tokens: list[int]
    integers: list[list[int]]
    elements: dict[str, list[list[int]]]
    guesses: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a worker is sent: field elements, and bytes that follow from model, lengths and epoch name."""

    frames: int
    bytes: int
    steps: int
    as_predicted: bool


@dataclass(frozen=True, slots=True)
class Attacked:
    """Every outcome, a scene for the picture, and what the worker was sent."""

    outcomes: tuple[Outcome, ...]
    scene: Scene
    exposure: Exposure


def _sent(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield, of each frame to the worker, all bytes but field elements, and the frame's length."""
    with path.open("rb") as file:
        file.seek(len(constants.TRANSCRIPT_MAGIC))
        (size,) = transcript.LENGTH.unpack(file.read(transcript.LENGTH.size))
        file.seek(size, 1)
        for head in view.heads(path):
            start = file.tell() + transcript.RECORD.size
            if head.direction is Direction.TO_WORKER:
                file.seek(start)
                told = wire.HEADER_BYTES if head.kind == FrameKind.MULTIPLY else head.bytes
                yield file.read(told), head.bytes
            file.seek(start + head.bytes)


class Attacker:
    """Runs a prompt under each profile with a worker at an address, and attacks the transcripts.

    `fresh` returns a new tape for each simulated transcript.
    """

    def __init__(
        self, model: Model, address: str, prompt: list[int], folder: Path, fresh: Callable[[], Tape]
    ) -> None:
        self._model, self._address, self._prompt = model, address, prompt
        self._folder, self._fresh = folder, fresh
        self._words: Vocabulary = null_space.vocabulary(model)
        self._scored = [not self._words.duplicate[token] for token in prompt]
        self._chance = 1 / self._words.distinct

    def record(self, masking: Masking, name: str) -> Path:
        """Return the transcript of the prompt's step and DECODED more. Refuses: as Enclave does."""
        path = self._folder / f"{name}.transcript"
        with epoch(self._model, self._address, masking, path) as enclave:
            for _ in steps(Decoder(self._model, enclave.products), self._prompt, 1 + DECODED):
                pass
        return path

    def exposure(self, path: Path) -> Exposure:
        """Return whether all that a `pad` transcript shows but field elements is as predicted."""
        sent, expected = list(_sent(path)), []
        for frame in self._predicted(view.header(path).epoch):
            data = wire.encode(frame)
            told = wire.HEADER_BYTES if frame.kind is FrameKind.MULTIPLY else len(data)
            expected.append((data[:told], len(data)))
        return Exposure(len(sent), sum(length for _, length in sent), 1 + DECODED, sent == expected)

    def _predicted(self, name: bytes) -> Iterator[Frame]:
        """Yield the frames of an epoch of this name, zeros in place of field elements."""
        yield Frame(FrameKind.HELLO, name, *(0,) * 7, self._model.digest)
        head = self._model.groups[-1]
        for step in range(1 + DECODED):
            for group in self._model.groups:
                # The head runs on the last position alone.
                count = 1 if step or group is head else len(self._prompt)
                width, size = group.weights.shape[1], wire.element_bytes(group.modulus)
                about = (FrameKind.MULTIPLY, name, group.number, step, width, size)
                yield from wire.split(*about, bytes(count * width * size))

    def _right(self, guesses: Sequence[Guess]) -> tuple[bool, ...]:
        pairs = zip(guesses, self._prompt, self._scored, strict=True)
        return tuple(guess.token == token for guess, token, scored in pairs if scored)

    def run(self, progress: Callable[[str], None]) -> Attacked:
        """Return the attack on `rank`, `pad` and uniform transcripts, for each m/d, with the same bases."""
        progress("recording the prompt under profile pad")
        pad_path = self.record(Masking(), "pad")
        pad, exposure = self._seen(pad_path), self.exposure(pad_path)
        outcomes: list[Outcome] = []
        scenes: list[Scene] = []
        for ratio in RATIOS:
            progress(f"recording the prompt under profile rank, m/d {ratio}")
            rank = self._taken(Masking("rank", ratio), f"rank-{ratio.numerator}-{ratio.denominator}")
            null_space.simulate(pad_path, self._folder / "uniform.transcript", self._fresh())
            uniform = self._seen(self._folder / "uniform.transcript")
            progress(f"attacking, m/d {ratio}")
            views = {"rank": rank, "pad": pad, "uniform": uniform}
            guesses = {
                name: null_space.guesses(seen, self._words, rank.basis) for name, seen in views.items()
            }
            outcomes.extend(self._outcomes(ratio, guesses))
            scenes.append(self._scene(ratio, views, guesses))
        pad_path.unlink()
        return Attacked(tuple(outcomes), scenes[0], exposure)

    def _taken(self, masking: Masking, name: str) -> null_space.Seen:
        """Return what a worker sees of group 0; the transcript, which is large, does not stay."""
        path = self.record(masking, name)
        seen = self._seen(path)
        path.unlink()
        return seen

    def _seen(self, path: Path) -> null_space.Seen:
        """Return what a transcript shows of the prompt's rows in group 0."""
        seen = null_space.seen(path)
        return replace(seen, masked=seen.masked[: len(self._prompt)])

    def _outcomes(self, ratio: Fraction, guesses: dict[str, list[Guess]]) -> list[Outcome]:
        right = {name: self._right(guessed) for name, guessed in guesses.items()}
        versus = paired(right["pad"], right["uniform"])
        return [
            Outcome("rank", ratio, right["rank"], self._chance, "broken"),
            Outcome("pad", ratio, right["pad"], self._chance, "chance", versus),
            Outcome("uniform", ratio, right["uniform"], self._chance, "chance"),
        ]

    def _scene(
        self, ratio: Fraction, views: dict[str, null_space.Seen], guesses: dict[str, list[Guess]]
    ) -> Scene:
        shown = slice(0, PICTURED_TOKENS), slice(0, PICTURED_COLUMNS)
        integers = self._words.rows[np.array(self._prompt[:PICTURED_TOKENS])][:, shown[1]]
        modulus = views["rank"].modulus
        return Scene(
            ratio,
            modulus,
            self._prompt[:PICTURED_TOKENS],
            integers.tolist(),
            {name: null_space.centred(views[name].masked[shown], modulus).tolist() for name in PICTURED},
            {name: [guess.token for guess in guesses[name][:PICTURED_TOKENS]] for name in PICTURED},
        )


PICTURED: Final = ("rank", "pad")
"""The profiles side by side in the picture."""
PICTURED_TOKENS: Final = 18
"""Rows of the picture."""
PICTURED_COLUMNS: Final = 24
"""Of each row's integers, as many as can be told apart."""
