"""What the C library does with memory that is freed."""

import ctypes
import platform
from typing import Final

TRIM_THRESHOLD: Final = -1
"""glibc, malloc.h: M_TRIM_THRESHOLD."""
TOP_PAD: Final = -2
"""glibc, malloc.h: M_TOP_PAD."""
MMAP_THRESHOLD: Final = -3
"""glibc, malloc.h: M_MMAP_THRESHOLD."""
CHOSEN: Final = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**29, TOP_PAD: 2**26}
"""Bytes: tensors up to 32 MiB come from memory of which up to 512 MiB stay with the process."""


def keep_freed() -> bool:
    """Return whether this process keeps the memory that it frees, from now on, for what it allocates next.

    A step's tensors have the sizes of the last step's. Given back to the system in between, each page of them
    costs a fault and is filled with zeros again. Without glibc nothing changes.

    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, size) for name, size in CHOSEN.items())
