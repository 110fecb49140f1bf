"""What an audit is asked to do."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console

import veil_spec
from veil_conformance.audit import evidence, texts
from veil_conformance.audit.trials import Plan

TOY_TABLE: Final = Path(veil_spec.__file__).parent / "toy_table.json"
NOMINAL_EPSILON: Final = "1"
"""What the toy table's noise is calibrated to."""


class Words(Protocol):
    """A tokenizer, as the audit needs it."""

    def tokens(self, prompt: str, raw: bool = False) -> list[int]:
        """Return a prompt's tokens, in the chat template unless raw."""
        ...

    def token(self, token: int) -> str:
        """Return one token as text."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What to audit: a model directory, the checkpoint that it was made from, and where to write."""

    model: Path
    checkpoint: Path
    words: Words
    output: Path
    console: Console = field(default_factory=lambda: Console(stderr=True))
    new_tokens: int = 32
    prompts: Sequence[str] = texts.PROMPTS
    attacked: str = texts.PRIVATE_LETTER
    attacked_tokens: int | None = None
    reference_positions: int = 3
    root: Path | None = field(default_factory=evidence.tree)
    suites: bool = True
    """Whether to run the proofs and the conformance suite; without them their claims are not claimed."""
    plan: Plan = field(default_factory=Plan)
    """How much of the matrix of attacks is tried."""
    worker: str | None = None
    """Address of a running worker; without it the audit starts one."""
    executor: Executor | None = None
    """Computes the sections of the matrix; without it, processes of this machine do.

    Its processes have to find the model's file under the same path.
    """
