"""Steps between the products: wrong ones are never used; `steps_checks.py` holds compiled ones to torch's."""

import pytest
import torch

from veil_optimized import compiled_steps, kernels, steps
from veil_optimized.compiled_steps import CompiledSteps, agree
from veil_optimized.native import build, draws
from veil_optimized.native.draws import Ids, Words
from veil_optimized.steps import TORCH, Steps
from veil_spec.refusals import Refusal, Refused


class OffByOne(Steps):
    """Rounds halves down where they go up."""

    def settle(self, *about: object) -> torch.Tensor:
        """Return words that are one too small, now and then."""
        made = super().settle(*about)  # type: ignore[arg-type]
        return made - (made % 7 == 3).to(torch.int64)


class Trusting(Steps):
    """Takes every answer for right."""

    def verifies(self, *about: object) -> bool:
        """Return that it is."""
        return True


@pytest.mark.parametrize("wrong", [OffByOne, Trusting])
def test_steps_that_are_wrong_are_never_chosen(wrong: type[Steps], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not agree(wrong(), TORCH)
    monkeypatch.setattr(CompiledSteps, "load", classmethod(lambda cls: wrong()))
    monkeypatch.delenv(kernels.CHOICE, raising=False)
    choose = steps.chosen.__wrapped__
    assert choose() is TORCH
    monkeypatch.setenv(kernels.CHOICE, "compiled")
    with pytest.raises(Refused) as refused:
        choose()
    assert refused.value.reason is Refusal.MODE_UNAVAILABLE


def test_every_function_of_the_library_has_a_signature() -> None:
    source = (build.FOLDER / "steps.c").read_text("utf-8")
    assert set(compiled_steps.SIGNATURES) == {
        line.split("(")[0].split()[-1]
        for line in source.splitlines()
        if line.startswith(("void veil_", "int veil_"))
    }


def test_draws_that_are_wrong_are_not_chosen() -> None:
    def at_most(ids: Ids, words: Words, limits: Words, starts: Ids, members: Ids) -> Ids:
        drawn: Ids = members[starts[ids] + (limits[ids] <= words[:, None]).sum(1)]
        return drawn

    assert draws.is_right(draws.portable) and not draws.is_right(at_most)
