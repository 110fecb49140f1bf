"""Where the time of a masked token goes: the product's functions, wrapped here and nowhere else."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Final, ParamSpec, TypeVar
from unittest.mock import patch

import torch
from benchmarks.models import enclave_of

from veil_optimized.decoder import Decoder
from veil_optimized.integrity import Check
from veil_optimized.model import Model
from veil_optimized.profiles import Hidden, PadCover, Padded
from veil_optimized.session import Channel
from veil_optimized.worker import Placed

Given = ParamSpec("Given")
Made = TypeVar("Made")
REST: Final = "non-linear"
"""What no other part counts: the steps between the products, and the calls around them."""
WRAPPED: Final = (
    ("wire", Channel, "send"),
    ("wire", Channel, "receive"),
    ("multiply", Placed, "product"),
    ("check", Check, "verify"),
    ("mask", Padded, "cover"),
)
"""A part and the method whose time it is, less that of the parts inside it."""
PARTS: Final = ("mask", "wire", "multiply", "check", "unmask", REST)


@dataclass(frozen=True, slots=True)
class Split:
    """Seconds of a token, by part; `who` computed it."""

    operation: str
    who: str
    seconds: dict[str, float]

    @property
    def title(self) -> str:
        """Return what was split."""
        return f"{self.operation}, {self.who}"

    def record(self) -> dict[str, object]:
        """Return the split as report.json holds it."""
        return {"title": self.title, "seconds": self.seconds}


class Clock:
    """Seconds by part; time in a part that is inside another counts in the inner one only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._parts = [REST]
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Count from here on, from 0."""
        self.seconds.clear()
        self._since = time.perf_counter()

    def split(self, tokens: int) -> dict[str, float]:
        """Return the seconds of each of so many tokens until now."""
        self._count()
        return {part: self.seconds[part] / tokens for part in PARTS}

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count the time inside as that part's."""
        self._count()
        self._parts.append(part)
        try:
            yield
        finally:
            self._count()
            self._parts.pop()

    def counting(self, part: str, function: Callable[Given, Made]) -> Callable[Given, Made]:
        """Return a function whose time is that part's."""

        @wraps(function)
        def counted(*args: Given.args, **kwargs: Given.kwargs) -> Made:
            with self.during(part):
                return function(*args, **kwargs)

        return counted


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Let the clock count what is masked, sent, multiplied, checked and unmasked inside."""
    hide = PadCover.hide

    def hidden(cover: PadCover, rows: torch.Tensor) -> Hidden:
        with clock.during("mask"):
            masked, data, reveal = hide(cover, rows)
        return Hidden(masked, data, clock.counting("unmask", reveal))

    with ExitStack() as stack:
        stack.enter_context(patch.object(PadCover, "hide", hidden))
        for part, owner, name in WRAPPED:
            method: Callable[..., object] = getattr(owner, name)
            stack.enter_context(patch.object(owner, name, clock.counting(part, method)))
        yield


def split(model: Model, prompt: Sequence[int], new: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a token in the prefill of a prompt and in new steps, by part.

    The worker is in this process and pads are minted ahead; a first prefill is not counted.
    """
    clock, enclave = Clock(), enclave_of(model)
    with watched(clock):
        for _ in range(2):
            decoder = Decoder(model, enclave.products)
            enclave.mint_ahead(enclave.next_step, 1, len(prompt))
            clock.restart()
            decoder.step(prompt)
            prefill = clock.split(len(prompt))
        enclave.mint_ahead(enclave.next_step, new)
        clock.restart()
        for token in prompt[:new]:
            decoder.step([token])
        return prefill, clock.split(new)
