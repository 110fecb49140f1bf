"""The compiled draws of the tabulated sanitizer, where somebody has built them, without torch."""

import ctypes
import os
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from veil_optimized.native.build import CHOICE, library

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]
Draw = Callable[[Ids, Words, Words, Ids, Ids], Ids]
"""Takes entries, a word for each, limits [entries, columns], where parts start, and their members."""


def portable(ids: Ids, words: Words, limits: Words, starts: Ids, members: Ids) -> Ids:
    """Return what replaces each entry."""
    drawn: Ids = members[starts[ids] + (limits[ids] < words[:, None]).sum(1)]
    return drawn


@cache
def chosen() -> Draw | None:
    """Return the compiled draws, if they were built for this processor, are right, and no other is chosen."""
    path = library()
    if os.environ.get(CHOICE, "compiled") not in ("", "compiled") or not path.exists():
        return None
    made = compiled(ctypes.CDLL(str(path)))
    return made if is_right(made) else None


def compiled(code: ctypes.CDLL) -> Draw:
    """Return the draws of a library."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    code.veil_draw.argtypes = [pointer, size, pointer, pointer, ctypes.c_int, pointer, pointer, pointer]
    code.veil_draw.restype = None

    def draw(ids: Ids, words: Words, limits: Words, starts: Ids, members: Ids) -> Ids:
        kinds = (np.int64, np.uint64, np.uint64, np.int64, np.int64)
        held = [
            np.ascontiguousarray(each, kind)
            for each, kind in zip((ids, words, limits, starts, members), kinds, strict=True)
        ]
        outputs = np.empty(len(ids), dtype=np.int64)
        entries, drawn, rows, *places = (each.ctypes.data for each in held)
        code.veil_draw(entries, len(ids), drawn, rows, limits.shape[1], *places, outputs.ctypes.data)
        return outputs

    return draw


def is_right(draw: Draw) -> bool:
    """Return whether draws agree with numpy's on words at, below and above every limit."""
    ends = np.array([[5, 2**63, 2**64 - 1], [0, 1, 2], [2**64 - 1] * 3, [7, 7, 9]], dtype=np.uint64)
    words = np.concatenate([(ends + step).ravel() for step in np.array([-1, 0, 1]).astype(np.uint64)])
    ids = np.arange(len(words), dtype=np.int64) * 7 % len(ends)
    members = np.arange(16, dtype=np.int64)[::-1].copy()
    about = (ids, words, ends, np.array([0, 4, 8, 12]), members)
    return bool(np.array_equal(draw(*about), portable(*about)))
