"""Kernels: whichever is chosen computes the same words, and one that is wrong is never used."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veil_optimized import kernels
from veil_optimized.kernels import Kernel, probes
from veil_optimized.kernels.compiled import Compiled
from veil_optimized.kernels.portable import Portable
from veil_optimized.native import build
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

PRINT_WORDS = """
import torch
from veil_optimized import kernels
generator = torch.Generator().manual_seed(3)
draw = lambda low, high, *size: torch.randint(low, high, size, generator=generator)
words = []
for kind, limit in ((torch.int8, 127), (torch.int16, 32639)):
    for rows, inner, outputs in ((1, 577, 130), (70, 301, 65)):
        weights = draw(-limit, limit + 1, outputs, inner).to(kind)
        words.append(kernels.exact(draw(-32767, 32768, rows, inner), weights))
        words.append(kernels.multiply(draw(0, 2**40 - 87, rows, inner), weights, 2**40 - 87))
print(kernels.chosen().name, sum(int(word.sum()) for word in words))
"""


def available() -> Iterator[Kernel]:
    """Yield every kernel that this processor can run, whether or not it is right."""
    for name in kernels.names("cpu"):
        kernel = kernels.MAKERS[name][1]()
        if kernel is not None:
            yield kernel


def said(root: Path, **environment: str) -> list[str]:
    """Return the kernel that a process with this environment chooses, and what its words add up to."""
    path = os.pathsep.join(str(root / name) for name in ("spec", "optimized"))
    done = subprocess.run(
        [sys.executable, "-c", PRINT_WORDS],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.requirement("RMO-R4")
@given(st.data())
@settings(max_examples=60)
def test_every_kernel_gives_the_right_words(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(probes.LIMITS, key=str)))
    rows, inner, outputs = (data.draw(st.integers(1, most)) for most in (40, 700, 80))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    limit = probes.LIMITS[kind]
    weights = torch.randint(-limit, limit + 1, (outputs, inner), generator=generator).to(kind)
    words = torch.randint(-(2**63), 2**63 - 1, (rows, inner), generator=generator)
    for kernel in available():
        right = probes.agrees(kernel, "cpu", probes.scattered(weights, words))
        assert right or (kernel.name == "int8" and not probes.is_right(kernel, "cpu"))


@pytest.mark.parametrize("rows", [1, 3, 200])
def test_threads_change_no_word(rows: int) -> None:
    generator, before = torch.Generator().manual_seed(rows), torch.get_num_threads()
    weights = torch.randint(-32639, 32640, (1030, 700), generator=generator).to(torch.int16)
    masked = torch.randint(0, constants.PRIMES[1], (rows, 700), generator=generator)
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made += [kernel.multiply(masked, weights, constants.PRIMES[1]) for kernel in available()]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, made[0]) for each in made)


class TopLimbForgotten(Portable):
    """Right for small elements only."""

    name = "wrong"

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return the product of the lower limbs."""
        return super().multiply(masked & (2**40 - 1), weights, modulus)


class Saturating(Portable):
    """As an 8-bit product is where the processor adds pairs of products in 16 bits."""

    name = "wrong"

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return sums that are never above 2**40."""
        return super().exact(rows, weights).clamp(max=2**40)


@pytest.mark.parametrize("wrong", [TopLimbForgotten, Saturating])
def test_a_kernel_that_is_wrong_is_never_chosen(wrong: type[Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not probes.is_right(wrong(), "cpu")
    assert probes.is_right(Portable(), "cpu")
    makers = {"wrong": ("cpu", wrong), "portable": ("cpu", Portable)}
    monkeypatch.setattr(kernels, "MAKERS", makers)
    monkeypatch.delenv(kernels.CHOICE, raising=False)
    choose = kernels.chosen.__wrapped__
    assert choose("cpu").name == "portable"
    monkeypatch.setenv(kernels.CHOICE, "wrong")
    with pytest.raises(Refused) as refused:
        choose("cpu")
    assert refused.value.reason is Refusal.MODE_UNAVAILABLE and kernels.CHOICE in str(refused.value)


def test_processes_agree_whatever_the_processor_is_said_to_have(root: Path) -> None:
    usual = said(root)
    capped = [
        said(root, ATEN_CPU_CAPABILITY="default"),
        said(root, ATEN_CPU_CAPABILITY="avx2"),
        said(root, OMP_NUM_THREADS="1"),
        said(root, VEIL_KERNEL="portable"),
    ]
    assert [words for _, words in capped] == [usual[1]] * len(capped)


def test_without_dot_products_of_bytes_another_kernel_takes_over(root: Path) -> None:
    """oneDNN, capped below VNNI, saturates: the probes must notice, and the words stay the same."""
    capped = said(root, ONEDNN_MAX_CPU_ISA="AVX2", VEIL_KERNEL="")
    assert capped[1] == said(root, VEIL_KERNEL="portable")[1]
    assert capped[0] != "int8"


def test_a_library_for_another_processor_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    here = build.library()
    monkeypatch.setattr(build, "_processor", lambda: "another")
    assert build.library() != here
    assert Compiled.load() is None


def test_without_a_compiler_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.main() == 1
    assert capsys.readouterr().err == "kernel: no C compiler: install one, or name one in CC\n"
