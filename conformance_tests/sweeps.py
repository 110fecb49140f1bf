"""One small sweep of attacks that always comes out the same, whatever computes its sections."""

from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from veil_conformance.audit import random_model
from veil_conformance.audit.trials import Plan, Sweep

PLAN: Final = Plan(
    tokens=256,
    least=256,
    prompts=40,
    wide=replace(random_model.SMALL, width=48, layers=1, vocabulary=256),
    small=replace(random_model.SMALL, width=24, inner=8, vocabulary=24),
    dimension=24,
    likelihood=1.0,
)
"""Few tokens, of models that take no time."""


class Here(Executor):
    """Computes at once, in this process."""

    def submit(self, function: Any, /, *given: Any, **named: Any) -> "Future[Any]":
        """Return a future that is done."""
        future: Future[Any] = Future()
        future.set_result(function(*given, **named))
        return future


def cells(executor: Executor, model: Path) -> list[object]:
    """Return the cells and the curve of the sweep over a model's file."""
    made = Sweep(PLAN, model, (3, 1, 4, 1, 5, 9, 2, 6), seed=5).run(executor, lambda line: None)
    return [*made.cells, *made.curve, made.curve_tokens]
