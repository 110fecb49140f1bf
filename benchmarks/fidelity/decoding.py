"""A decoder in integers against float32: teacher-forced positions of a text, and greedy texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from benchmarks.fidelity import measures, sources
from benchmarks.fidelity.measures import GAP_LIMIT, Comparison, Parting, Progress
from benchmarks.utility.packages import Unusable

from veil_optimized.decoder import Decoder
from veil_optimized.generate import batch_steps
from veil_optimized.model import Model

WINDOW: Final = 256
"""Tokens of a window, fewer where the context is shorter."""
PROMPTS: Final = (
    "The capital of France is",
    "Once upon a time, there was a little girl who",
    "To make a cup of tea, first",
    "The three laws of motion say that",
    "def fibonacci(n):",
    "Dear Sir or Madam,\n\nI am writing to",
    "Photosynthesis is the process by which",
    "Question: What is 7 times 8?\nAnswer:",
    "In the middle of the night, the old clock",
    "The main difference between a virus and a bacterium is",
    "A list of five animals that can swim:\n1.",
    "She opened the letter and read:",
)


@dataclass(frozen=True, slots=True)
class Given:
    """What is measured on: windows of a text and prompts, in tokens, and how many follow each prompt."""

    windows: list[list[int]]
    prompts: list[list[int]]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A float32 model that an integer model is held against, and what it is."""

    name: str
    model: Any


@dataclass(frozen=True, slots=True)
class Texts:
    """Greedy texts of the prompts: how many are the reference's, and where the others leave it."""

    prompts: int
    new_tokens: int
    partings: tuple[Parting, ...]

    def record(self) -> dict[str, object]:
        """Return the figures for JSON."""
        places = [
            {"prompt": p.prompt, "token": p.token, "top_two": p.top_two, "lost": p.lost}
            for p in self.partings
        ]
        return {
            "prompts": self.prompts,
            "identical": self.prompts - len(self.partings),
            "new_tokens": self.new_tokens,
            "partings": places,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """One subject against one reference; without texts of its own, `texts` is None."""

    subject: str
    reference: str
    forced: Comparison
    texts: Texts | None
    judged: bool

    @property
    def met(self) -> bool:
        """Return whether the target is met, where there is one."""
        parted = () if self.texts is None else self.texts.partings
        near = all(parting.lost < GAP_LIMIT for parting in parted)
        return not self.judged or (self.forced.faithful and near)

    def record(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return {
            "subject": self.subject,
            "reference": self.reference,
            "forced": self.forced.record(),
            "texts": self.texts.record() if self.texts else None,
            "judged": self.judged,
            "met": self.met,
        }


def windows(tokens: Sequence[int], positions: int, width: int) -> list[list[int]]:
    """Return windows spread evenly over a text, together of at least so many positions.

    Raises Unusable where the text is shorter.
    """
    count = -(-positions // width)
    if len(tokens) < count * width:
        raise Unusable(f"--text: {len(tokens)} tokens, {count * width} are needed: give more text")
    spare = len(tokens) - width
    starts = [spare * number // max(1, count - 1) for number in range(count)]
    return [list(tokens[start : start + width]) for start in starts]


def measure(integer: Model, original: Any, given: Given, told: Progress) -> Iterator[Result]:
    """Yield an integer model against its checkpoint in float32.

    Where 8-bit weights were rounded, yield it also against those weights in float32, and those against the
    checkpoint: what rounding alone does.
    """
    precision = str(integer.precision)
    subject, exact = f"integers, {precision}", precision == "w16a16"
    references = [Reference("original weights", original)]
    if not exact:
        references.append(Reference(f"weights rounded as {precision}", sources.rounded(integer, original)))
    forced = _forced(integer, references, given.windows, told)
    chosen = free_running(integer, given, told)
    for reference, comparison in zip(references, forced, strict=False):
        found = _texts(reference, given, chosen, told)
        yield Result(subject, reference.name, comparison, found, exact)
    if not exact:
        yield Result(f"float32, {references[1].name}", references[0].name, forced[-1], None, False)


def _texts(reference: Reference, given: Given, chosen: Sequence[list[int]], told: Progress) -> Texts:
    partings = []
    for number, (prompt, tokens) in enumerate(zip(given.prompts, chosen, strict=True)):
        told(f"texts, {reference.name}", number, len(chosen))
        parted = measures.parting(number, tokens, continued(reference.model, prompt, tokens))
        partings += [parted] if parted else []
    return Texts(len(chosen), given.new_tokens, tuple(partings))


def _forced(
    integer: Model, references: Sequence[Reference], texts: Sequence[Sequence[int]], told: Progress
) -> list[Comparison]:
    """Return the integers against each reference, and then the second reference against the first."""
    parts: list[list[Comparison]] = []
    decoder = Decoder(integer)
    for number, tokens in enumerate(texts):
        told(f"{integer.precision}: positions", number * len(tokens), len(texts) * len(tokens))
        words = decoder.advance([decoder.new_cache()], [tokens], every_position=True)
        found = [logits(reference.model, tokens) for reference in references]
        pairs = [(measures.shown(words), each) for each in found]
        if len(found) > 1:
            pairs.append((found[1], found[0]))
        parts.append([measures.compare(*pair, tokens[1:]) for pair in pairs])
    return [measures.joined(each) for each in zip(*parts, strict=True)]


def logits(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Return a float32 model's logits after each token, widened to float64 [n, vocabulary]."""
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([list(tokens)]), use_cache=False).logits[0].double()
    return found


def free_running(integer: Model, given: Given, told: Progress) -> list[list[int]]:
    """Return the greedy tokens that follow each prompt; no token ends a text."""
    made: list[list[int]] = [[] for _ in given.prompts]
    steps = batch_steps(Decoder(integer), given.prompts, given.new_tokens, lambda place, token: False)
    for number, step in enumerate(steps):
        told(f"{integer.precision}: texts", number, given.new_tokens)
        for place, one in step.items():
            made[place].append(one.token)
    return made


def continued(model: Any, prompt: Sequence[int], chosen: Sequence[int]) -> torch.Tensor:
    """Return the float logits that choose each token of a greedy text, up to its first unlike `chosen`.

    The model runs freely, on its own choices, which up to there are those of `chosen`. [n, vocabulary].
    """
    return torch.stack(list(_continued(model, prompt, chosen)))


def _continued(model: Any, prompt: Sequence[int], chosen: Sequence[int]) -> Iterator[torch.Tensor]:
    past, taken = None, list(prompt)
    for token in chosen:
        with torch.inference_mode():
            out = model(torch.tensor([taken]), past_key_values=past, use_cache=True)
        row = out.logits[0, -1].double()
        yield row
        best = int(row.argmax())
        if best != token:
            return
        past, taken = out.past_key_values, [best]


def prepared(source: Path, text: Sequence[Path], positions: int, context: int, new_tokens: int) -> Given:
    """Return windows of a text and the prompts, as tokens without a template."""
    cut = sources.tokenizer(source)
    tokens = cut(sources.text(text), add_special_tokens=False, verbose=False)["input_ids"]
    prompts = [cut(prompt)["input_ids"] for prompt in PROMPTS]
    return Given(windows(tokens, positions, min(WINDOW, context)), prompts, new_tokens)
