"""The products that cost the most, each computed by the fastest kernel that is right on this machine.

Every kernel returns the same words. One is used only after it has computed, on this processor and in this
process, what `probes` asks of it.
"""

import functools
import os
from collections.abc import Callable
from typing import Final

import torch

from veil_optimized.kernels.interface import Kernel
from veil_optimized.kernels.probes import is_right
from veil_optimized.native.build import CHOICE
from veil_spec.refusals import Refusal, Refused

__all__ = ["CHOICE", "Kernel", "chosen", "exact", "multiply", "names", "usable"]


def _portable() -> Kernel:
    from veil_optimized.kernels.portable import Portable

    return Portable()


def _compiled() -> Kernel | None:
    from veil_optimized.kernels.compiled import Compiled

    return Compiled.load()


def _int8() -> Kernel:
    from veil_optimized.kernels.int8 import Int8

    return Int8()


def _triton() -> Kernel | None:
    try:
        from veil_optimized.kernels.triton_limbs import TritonLimbs
    except ImportError:
        return None
    return TritonLimbs.load()


MAKERS: Final[dict[str, tuple[str, Callable[[], Kernel | None]]]] = {
    "compiled": ("cpu", _compiled),
    "int8": ("cpu", _int8),
    "triton": ("cuda", _triton),
    "portable": ("cpu cuda", _portable),
}
"""Name to (devices, maker), the fastest first; a maker returns None where its kernel cannot run."""


def names(device: str) -> list[str]:
    """Return the kernels for a type of device, the fastest first."""
    return [name for name, (devices, _) in MAKERS.items() if device in devices.split()]


def usable(device: str) -> list[Kernel]:
    """Return the kernels that are right on a type of device, the fastest first."""
    found = [MAKERS[name][1]() for name in names(device)]
    return [kernel for kernel in found if kernel is not None and is_right(kernel, device)]


@functools.cache
def chosen(device: str = "cpu") -> Kernel:
    """Return the kernel that this process uses on a type of device.

    Refuses: MODE_UNAVAILABLE where `CHOICE` names one that is not there or is wrong.
    """
    asked = os.environ.get(CHOICE, "")
    for name in names(device):
        if asked in ("", name):
            kernel = MAKERS[name][1]()
            if kernel is not None and is_right(kernel, device):
                return kernel
    remedy = f"{CHOICE}={asked} is not a kernel that is right here; leave it out, or give one of"
    raise Refused(Refusal.MODE_UNAVAILABLE, f"{remedy} {', '.join(names(device))}")


def multiply(masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return masked rows times weights, mod p, int64 [n, outputs]; weights int8 or int16 [outputs, inner].

    Copies of the rows, which may be a mask, and their sums are overwritten.

    Implements: RMO-R4.
    Refuses: SHAPE_MISMATCH.
    """
    if masked.shape[1] != weights.shape[1]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    return chosen(weights.device.type).multiply(masked, weights, modulus)


def exact(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return 16-bit rows times weights as integers, int64 [n, outputs]; weights int8 or int16."""
    return chosen(weights.device.type).exact(rows, weights)
