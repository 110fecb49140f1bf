"""How time and memory grow with context, batch and width: seeded models of one or two layers.

Times are medians, with the worker in this process and pads minted for one step. Memory is what is held,
counted, and the peak of resident memory over what was resident before a masked run and its minting.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Final

import pytest
from benchmarks.growth import Curve, peak_bytes
from benchmarks.models import SHAPE, Small, enclave_of, small
from benchmarks.ratios import FEWEST, ROUNDS, Work, in_turns
from benchmarks.reporting import Section
from benchmarks.sides import Prompts, decodes, minted, prefills, seeded

from veil_optimized.decoder import Cache
from veil_spec.architecture import DecoderShape

CONTEXTS: Final = (128, 256, 512, 1024, 2048)
BATCHES: Final = (1, 2, 4, 8, 16, 32)
WIDTHS: Final = (256, 512, 1024, 2048, 4096)
READ: Final = 64
"""Tokens of every sequence before a step, where the context is not what grows."""
NARROW: Final = replace(SHAPE, vocabulary=256, layers=2, context=4096)
"""Two layers of SmolLM2-135M's shapes: the head hardly counts."""
SERIES: Final = {
    "float32": "float32",
    "plain": "plain integers",
    "masked": "masked, minted ahead",
    "minted": "masked, minting included",
}
PREFILL, STEP, MEMORY = "prefill", "decode step", "memory"
SHORT: Final = f"prefill of {READ} tokens"
KEPT, PEAK, WEIGHTS = "keys and values", "peak of a masked run", "weights of 16 bits"
REASONS: Final = {
    ("context", PREFILL): "Products grow with the tokens, attention with their square: from 1 towards 2.",
    (
        "context",
        STEP,
    ): "Products cost the same after any context, attention reads all of it: from 0 towards 1.",
    ("context", KEPT): "Every token leaves its key and its value in each layer: 1.",
    ("context", PEAK): "Rows, pads and corrections grow with the tokens, and all scores are never held: 1.",
    ("batch", STEP): "A batch reads the weights once: below 1 until arithmetic is the limit.",
    ("batch", KEPT): "Every sequence has keys and values of its own: 1.",
    (
        "batch",
        PEAK,
    ): "Rows grow with the sequences; blocks of weights, where they are widened, do not: up to 1.",
    ("width", STEP): "Weights grow with the square of the width, calls cost the same at any width: up to 2.",
    ("width", SHORT): "Products grow with the square of the width, the steps between them with it: up to 2.",
    ("width", WEIGHTS): "A layer's weights are pairs of channels: 2.",
    ("width", PEAK): "Rows grow with the width; blocks of weights, where they are widened, do not: up to 1.",
}
"""(axis, operation or what is held) to why its exponent is what it is, with the exponent to expect."""
Costs = Mapping[str, float]
"""Seconds by the names of SERIES, and bytes by what they are."""


def wide(width: int) -> DecoderShape:
    """Return one layer of a width, 5.5 weights for each pair of channels."""
    heads = width // SHAPE.head_width
    return replace(NARROW, width=width, inner=width, layers=1, heads=heads, kv_heads=heads // 4)


def costs(model: Small, prompts: Prompts, prefill: bool) -> Costs:
    """Return what a prefill costs, or one step after it."""
    enclave = enclave_of(model.integer)
    sides, rounds = seeded(model, enclave), FEWEST if prefill else ROUNDS
    works = prefills(sides, enclave, prompts) if prefill else decodes(sides, enclave, prompts, 1)
    timed = in_turns(works, rounds)
    found = {name: median(timed[name]) for name in timed} | {"minted": median(minted(timed))}
    peak = peak_bytes(lambda: once(works))
    cache = Cache(model.shape)
    cache.reserve(len(prompts[0]))
    held = {KEPT: float(len(prompts) * cache.bytes), WEIGHTS: float(weight_bytes(model))}
    return found | held | ({} if peak is None else {PEAK: float(peak)})


def once(works: Mapping[str, Work]) -> None:
    """Mint and do the masked work once."""
    for work in (works["mint"], works["masked"]):
        if work.before is not None:
            work.before()
        work.run()


def weight_bytes(model: Small) -> int:
    """Return the bytes of the layers' weights, without the head's."""
    return sum(group.weights.numel() * group.weights.element_size() for group in model.integer.groups[:-1])


def prompts(tokens: int, sequences: int = 1) -> Prompts:
    """Return so many equal sequences of tokens."""
    return [[place % NARROW.vocabulary for place in range(tokens)]] * sequences


def curves(axis: str, operation: str, found: Mapping[int, Costs], held: list[str]) -> list[Curve]:
    """Return the curves of an operation's time, and of what is held."""
    made = [
        Curve(operation, axis, label, "s", _points(found, name), REASONS[axis, operation])
        for name, label in SERIES.items()
    ]
    for name in held:
        if all(name in each for each in found.values()):
            made.append(Curve(MEMORY, axis, name, "B", _points(found, name), REASONS[axis, name]))
    return made


def _points(found: Mapping[int, Costs], name: str) -> tuple[tuple[int, float], ...]:
    return tuple((size, each[name]) for size, each in found.items())


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the model of the curves over context and batch."""
    return small(tmp_path_factory.mktemp("narrow"), NARROW)


def bench_context(section: Section, narrow: Small) -> None:
    """A prefill of a context, and a step after it."""
    whole = {size: costs(narrow, prompts(size), prefill=True) for size in CONTEXTS}
    steps = {size: costs(narrow, prompts(size), prefill=False) for size in CONTEXTS}
    section.curves += curves("context", STEP, steps, [])
    section.curves += curves("context", PREFILL, whole, [KEPT, PEAK])


def bench_batch(section: Section, narrow: Small) -> None:
    """A step of several sequences at once."""
    found = {size: costs(narrow, prompts(READ, size), prefill=False) for size in BATCHES}
    section.curves += curves("batch", STEP, found, [KEPT, PEAK])


def bench_width(section: Section, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A step and a prefill through a layer that becomes wider."""
    steps, whole = {}, {}
    for size in WIDTHS:
        model = small(tmp_path_factory.mktemp("wide"), wide(size))
        steps[size] = costs(model, prompts(READ), prefill=False)
        whole[size] = costs(model, prompts(READ), prefill=True)
        model.path.unlink()
    section.curves += curves("width", STEP, steps, [])
    section.curves += curves("width", SHORT, whole, [WEIGHTS, PEAK])
