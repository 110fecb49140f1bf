"""Whether the enclave used a mask twice: its masks recomputed from what it sent and what it masked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from veil_conformance.attacks import reuse
from veil_optimized import plaintext
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import epoch
from veil_optimized.generate import steps
from veil_optimized.model import Model

EPOCHS: Final = 2
"""Epochs of one prompt: a seed that comes again shows between them."""
PROMPT_TOKENS: Final = 24
"""Tokens of the prompt that are on record; every linear layer of every step is."""
DECODED: Final = 4
"""Decoding steps after it, whose pads are minted ahead."""


@dataclass(frozen=True, slots=True)
class Masks:
    """What the detector saw; `truthful` if the enclave's record is what plain inference masks."""

    report: reuse.Report
    truthful: bool

    @property
    def holds(self) -> bool:
        """Return whether masks were looked at, are those of the record, and none was used twice."""
        return self.report.holds and self.truthful


def recorded(model: Model, address: str, prompt: Sequence[int], folder: Path) -> Masks:
    """Return what the detector finds in EPOCHS epochs of a prompt under `pad`. Refuses: as Enclave does."""
    pairs = [_epoch(model, address, list(prompt)[:PROMPT_TOKENS], folder, n) for n in range(EPOCHS)]
    truthful = all(reuse.truthful(model, plaintext.read(record)) for _, record in pairs)
    return Masks(reuse.check(pairs), truthful)


def _epoch(model: Model, address: str, prompt: list[int], folder: Path, number: int) -> tuple[Path, Path]:
    """Return the transcript and the plaintext record of one epoch."""
    sent, record = folder / f"{number}.veil", folder / f"{number}.safetensors"
    with (
        plaintext.Writer(record) as writer,
        epoch(model, address, transcript=sent, witness=writer.witness) as enclave,
    ):
        enclave.mint_ahead(1, DECODED)
        made = [step.token for step in steps(Decoder(model, enclave.products), prompt, 1 + DECODED)]
        writer.tokens([*prompt, *made[:DECODED]])
    return sent, record
