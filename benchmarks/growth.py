"""How a cost grows: curves over a size, the exponents fitted to them, and the memory that a run takes."""

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Final

STATUS: Final = Path("/proc/self/status")
RESET: Final = Path("/proc/self/clear_refs")
"""Linux: 5, written here, sets a process's peak of resident memory to what is resident now."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A cost, in seconds or in bytes, at each of some sizes, and the reason why it grows so."""

    operation: str
    axis: str
    series: str
    unit: str
    points: tuple[tuple[int, float], ...]
    reason: str

    @property
    def exponent(self) -> float:
        """Return the exponent fitted to all points."""
        return exponent(self.points)

    @property
    def last(self) -> float:
        """Return the exponent between the two largest sizes."""
        return exponent(self.points[-2:])

    @property
    def span(self) -> str:
        """Return the sizes between which it was measured."""
        return f"{self.points[0][0]:,} to {self.points[-1][0]:,}"

    def record(self) -> dict[str, object]:
        """Return the curve as report.json holds it."""
        return {
            "operation": self.operation,
            "axis": self.axis,
            "series": self.series,
            "unit": self.unit,
            "points": self.points,
            "exponent": self.exponent,
            "last": self.last,
            "reason": self.reason,
        }


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Return the e of cost = c * size**e, by least squares of the logarithms; two sizes at least."""
    sizes, costs = [log(size) for size, _ in points], [log(cost) for _, cost in points]
    middle, level = sum(sizes) / len(sizes), sum(costs) / len(costs)
    above = sum((size - middle) * (cost - level) for size, cost in zip(sizes, costs, strict=True))
    return above / sum((size - middle) ** 2 for size in sizes)


def peak_bytes(run: Callable[[], object]) -> int | None:
    """Return by how many bytes resident memory rises at most during a call, or None where nothing tells.

    What was freed before is first given back, so that it is not used again unseen.
    """
    if sys.platform != "linux":
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        RESET.write_text("5")
    except OSError:
        return None
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Return an entry of the process's status, which is in KiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
