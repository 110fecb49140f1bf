"""`veil attack`: the attacks of the suite on a recorded transcript, beside noise of the same shape."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text as Shown

from veil.text import Text
from veil_conformance.attacks import base, reuse, targets
from veil_conformance.attacks import view as views
from veil_conformance.attacks.base import GROUP, Attack, Guesses, Public, View
from veil_conformance.attacks.registry import ATTACKS
from veil_conformance.attacks.sequential import TAPS
from veil_conformance.attacks.targets import Setting
from veil_conformance.audit.statistics import Paired, clopper_pearson, paired
from veil_optimized import plaintext
from veil_optimized.model import Model, load
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused

MOST_PASSES: Final = 2**14
"""An attack that needs more forward passes than this runs only if it is named."""
TEXT_COLUMNS: Final = 240
"""How much of a recovered text is printed."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one attack made of a transcript; `missing` says what it would need, and then it did not run."""

    attack: Attack
    missing: str = ""
    guesses: tuple[int | None, ...] = ()
    right: tuple[bool, ...] = ()
    uniform: float | None = None
    comparison: Paired | None = None


def slug(name: str) -> str:
    """Return an attack's name as it is given on the command line."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def chosen(names: Sequence[str]) -> list[Attack]:
    """Return the attacks of these names, or all of them. Refuses: MODE_UNAVAILABLE."""
    known = {slug(attack.name): attack for attack in ATTACKS}
    for name in names:
        if slug(name) not in known:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"--attack {name}: there are {', '.join(known)}")
    return [known[slug(name)] for name in names] or list(ATTACKS)


class Case:
    """One transcript with its model and, from a test, what was masked.

    Refuses: FRAME_MALFORMED, MODEL_MALFORMED, MODEL_MISMATCH.
    """

    def __init__(self, transcript: Path, folder: Path, record: Path | None) -> None:
        about = views.header(transcript)
        self.model, self.text = _model(folder), Text(folder)
        if about.model_hash != self.model.digest:
            raise Refused(Refusal.MODEL_MISMATCH, f"{transcript} was recorded with another model file")
        taps = {tap(self.model.shape.layers) for tap in TAPS.values()}
        self.view = views.recorded(transcript, sorted({GROUP, *taps}))
        self.public = Public(base.vocabulary(self.model), self.model)
        self.profile = about.profile
        self.truth = None if record is None else self._truth(record)
        self.reuse = None if record is None else reuse.check([(transcript, record)])

    def _truth(self, record: Path) -> list[int]:
        tokens = plaintext.read(record).tokens
        if len(tokens) != self.view.tokens or max(tokens) >= self.model.shape.vocabulary or min(tokens) < 0:
            raise Refused(
                Refusal.FRAME_MALFORMED,
                f"--plaintext {record} has {len(tokens)} tokens and the transcript {self.view.tokens}: "
                "give the record of the same run",
            )
        return tokens

    def missing(self, attack: Attack, named: bool) -> str:
        """Return what an attack needs that the transcript does not hold; nothing if it can run."""
        first = list(self.view.of())
        if all(target.startswith("real ") for target in attack.breaks):
            return "real-valued masks: Veil's are over a field"
        if attack.breaks == ("lwe without noise",) and self.profile != "lwe":
            return "a transcript of profile lwe"
        if "independent bases" in attack.breaks and len(first) < 2:
            return "one input under several public bases"
        if "static basis" in attack.breaks:
            return "transcripts of earlier sessions"
        if "row mixing" in attack.breaks:
            return "rows that were mixed with one another"
        if attack.breaks == ("rank",) and first[0].basis is None:
            return "a public basis: this profile has none"
        passes = self.view.tokens * self.model.shape.vocabulary
        if attack.needs_model and not named and passes > MOST_PASSES:
            return f"{passes:,} forward passes: name it with --attack to run it"
        return ""

    def run(self, attack: Attack) -> Row:
        """Return what an attack makes of the transcript and, with a truth, of noise in its place."""
        guesses = attack.guess(self.public, self.view)
        if all(guess is None for guess in guesses):
            return Row(attack, "rows of every token at its tap")
        if self.truth is None:
            return Row(attack, guesses=tuple(guesses))
        noise = targets.simulated(self.view, Setting(SeededTape(os.urandom(constants.SEED_BYTES))))
        right = self._right(attack, self.view, guesses)
        blind = self._right(attack, noise, attack.guess(self.public, noise))
        share = sum(blind) / max(1, len(blind))
        return Row(attack, "", tuple(guesses), tuple(right), share, paired(right, blind))

    def _right(self, attack: Attack, view: View, guesses: Guesses) -> list[bool]:
        """Return whether each token that shares its row with no other is named."""
        assert self.truth is not None
        right = attack.right(view, guesses, self.truth)
        kept = ~self.public.words.duplicate[np.array(self.truth)]
        return [bool(hit) for hit in right[kept]]


def _model(folder: Path) -> Model:
    path = folder / INTEGER_FILE
    if not path.is_file():
        remedy = f"--model {folder} has no {INTEGER_FILE}: make it with `veil import SOURCE --out DIR`"
        raise Refused(Refusal.MODEL_MALFORMED, remedy)
    return load(path)


def rows(case: Case, names: Sequence[str], tell: Callable[[str], None]) -> Iterator[Row]:
    """Yield what each attack of these names, or each that can run, made of a case."""
    for attack in chosen(names):
        tell(attack.name)
        missing = case.missing(attack, bool(names))
        yield Row(attack, missing) if missing else case.run(attack)


def shown(case: Case, found: Sequence[Row], console: Console) -> None:
    """Print the table, the recovered texts beside the truth, and whether a mask was used twice."""
    table = Table(title=f"{case.view.tokens} tokens, profile {case.profile}", title_justify="left")
    for name in ("attack", "source", "named", "right", "95 % interval", "on noise", "p-value"):
        table.add_column(name)
    for row in found:
        table.add_row(*(Shown(text) for text in _columns(row)))
    console.print(table)
    if case.truth is not None:
        console.print(_line("truth", case.text.joined(case.truth)), markup=False, highlight=False)
    for row in found:
        if not row.missing:
            console.print(_line(row.attack.name, _joined(case.text, row)), markup=False, highlight=False)
    if case.reuse is not None:
        found_twice = len(case.reuse.findings)
        verdict = (
            "no mask was used twice" if case.reuse.holds else f"{found_twice} masks USED TWICE or unknown"
        )
        console.print(f"mask reuse: {verdict}, {case.reuse.rows} rows looked at", highlight=False)


def _columns(row: Row) -> tuple[str, ...]:
    about = (row.attack.name, row.attack.source)
    if row.missing:
        return (*about, f"not applicable: needs {row.missing}", "", "", "", "")
    named = str(sum(guess is not None for guess in row.guesses))
    if row.comparison is None or row.uniform is None:
        return (*about, named, "", "", "", "")
    low, high = clopper_pearson(sum(row.right), len(row.right))
    share = f"{sum(row.right)} of {len(row.right)}, {100 * sum(row.right) / len(row.right):.2f} %"
    interval = f"{100 * low:.2f} to {100 * high:.2f} %"
    return (*about, named, share, interval, f"{100 * row.uniform:.2f} %", f"{row.comparison.p_value:.3g}")


def _joined(text: Text, row: Row) -> str:
    return "".join("\N{WHITE SQUARE}" if guess is None else text.token(guess) for guess in row.guesses)


def _line(name: str, text: str) -> str:
    flat = " ".join(text.split())
    return f"{name}: {flat if len(flat) <= TEXT_COLUMNS else flat[:TEXT_COLUMNS] + ' ...'}"


def attack(
    transcript: Path, folder: Path, record: Path | None, names: Sequence[str], progress: Console
) -> None:
    """Print what the attacks make of a transcript. Refuses: as `Case` and `chosen` do."""
    chosen(names)
    with progress.status("reading the transcript") as status:
        case = Case(transcript, folder, record)
        found = list(rows(case, names, status.update))
    shown(case, found, Console(width=None if os.isatty(1) else 160))
