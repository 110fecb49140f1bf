"""Work of the compiled kernels, shared among as many threads as torch uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

import torch

MACS_A_THREAD: Final = 2**19
"""Multiplications that are worth another thread: some ten microseconds of one."""


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(64, "veil-kernel")


def among_threads(run: Callable[[int, int], int], count: int, worth: int) -> bool:
    """Return whether `run(first, last)` is true for every share of `count` items; `worth` threads pay."""
    threads = max(1, min(torch.get_num_threads(), count, worth))
    if threads == 1:
        return bool(run(0, count))
    share = -(-count // threads)
    firsts = range(0, count, share)
    lasts = [min(first + share, count) for first in firsts]
    return all(_pool().map(run, firsts, lasts))
