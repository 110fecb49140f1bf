"""A real prompt through a worker: what its transcripts give away under `rank` and under `pad`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from veil_conformance.attacks import annihilator, modular, view
from veil_conformance.attacks.annihilator import Guess
from veil_conformance.attacks.base import Vocabulary
from veil_conformance.audit.matrix import RANK_READ, Cell
from veil_conformance.audit.statistics import paired
from veil_optimized import transcript, wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import epoch
from veil_optimized.generate import PIECE, steps
from veil_optimized.model import Model
from veil_optimized.profiles import Masking
from veil_optimized.transcript import Direction
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.types import Frame, FrameKind

LETTER: Final = "recorded letter"
"""What the report calls these transcripts."""
RATIO: Final = Fraction(1, 2)
"""m/d of the published profile."""
DECODED: Final = 2
"""Decoding steps on record after the prompt."""
LEAST_TOKENS: Final = 300
"""Fewer tokens decide nothing."""


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
    """A cell for each profile, a scene for the picture, and what the worker was sent."""

    cells: tuple[Cell, ...]
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
        self,
        model: Model,
        words: Vocabulary,
        address: str,
        prompt: list[int],
        folder: Path,
        fresh: Callable[[], Tape],
    ) -> None:
        self._model, self._words = model, words
        self._address, self._prompt = address, prompt
        self._folder, self._fresh = folder, fresh
        self._scored = [not words.duplicate[token] for token in prompt]

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
        head, length = self._model.groups[-1], len(self._prompt)
        pieces = [min(PIECE, length - first) for first in range(0, length, PIECE)]
        for step, rows in enumerate(pieces + [1] * DECODED):
            for group in self._model.groups:
                # The head runs on the last position alone.
                count = 1 if group is head else rows
                width, size = group.weights.shape[1], wire.element_bytes(group.modulus)
                about = (FrameKind.MULTIPLY, name, group.number, step, width, size)
                yield from wire.split(*about, bytes(count * width * size))

    def _right(self, guesses: Sequence[Guess]) -> tuple[bool, ...]:
        pairs = zip(guesses, self._prompt, self._scored, strict=True)
        return tuple(guess.token == token for guess, token, scored in pairs if scored)

    def run(self, progress: Callable[[str], None]) -> Attacked:
        """Return the look-up on `rank`, and on `pad` beside uniform rows with the basis of `rank`."""
        progress("recording the letter under profile pad")
        pad_path = self.record(Masking(), "pad")
        pad, exposure = self._seen(pad_path), self.exposure(pad_path)
        progress(f"recording the letter under profile rank, m/d {RATIO}")
        rank = self._taken(Masking("rank", RATIO), "rank")
        view.simulate(pad_path, self._folder / "uniform.transcript", self._fresh())
        uniform = self._seen(self._folder / "uniform.transcript")
        pad_path.unlink()
        progress("attacking the recorded letter")
        views = {"rank": rank, "pad": pad, "uniform": uniform}
        guesses = {name: annihilator.guesses(seen, self._words, rank.basis) for name, seen in views.items()}
        return Attacked(self._cells(guesses), self._scene(views, guesses), exposure)

    def _taken(self, masking: Masking, name: str) -> annihilator.Seen:
        """Return what a worker sees of group 0; the transcript, which is large, does not stay."""
        path = self.record(masking, name)
        seen = self._seen(path)
        path.unlink()
        return seen

    def _seen(self, path: Path) -> annihilator.Seen:
        """Return what a transcript shows of the prompt's rows in group 0."""
        seen = annihilator.seen(path)
        return replace(seen, masked=seen.masked[: len(self._prompt)])

    def _cells(self, guesses: dict[str, list[Guess]]) -> tuple[Cell, ...]:
        right = {name: self._right(guessed) for name, guessed in guesses.items()}
        about = (LETTER, annihilator.ATTACK.name)
        detail = f"m/d {RATIO}"
        read = Cell(*about, "rank", "rank", "read", RANK_READ, LEAST_TOKENS, detail, right["rank"])
        hidden = Cell(*about, "pad", "pad", "hidden", 0.0, LEAST_TOKENS, "", right["pad"])
        noise = right["uniform"]
        compared = replace(
            hidden, uniform=sum(noise) / max(1, len(noise)), comparison=paired(right["pad"], noise)
        )
        return tuple(replace(cell, chance=1 / self._words.distinct) for cell in (read, compared))

    def _scene(self, views: dict[str, annihilator.Seen], guesses: dict[str, list[Guess]]) -> Scene:
        shown = slice(0, PICTURED_TOKENS), slice(0, PICTURED_COLUMNS)
        integers = self._words.rows[np.array(self._prompt[:PICTURED_TOKENS])][:, shown[1]]
        modulus = views["rank"].modulus
        return Scene(
            RATIO,
            modulus,
            self._prompt[:PICTURED_TOKENS],
            integers.tolist(),
            {name: modular.centred(views[name].masked[shown], modulus).tolist() for name in PICTURED},
            {name: [guess.token for guess in guesses[name][:PICTURED_TOKENS]] for name in PICTURED},
        )


PICTURED: Final = ("rank", "pad")
"""The profiles side by side in the picture."""
PICTURED_TOKENS: Final = 18
"""Rows of the picture."""
PICTURED_COLUMNS: Final = 24
"""Of each row's integers, as many as can be told apart."""
