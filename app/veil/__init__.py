"""The door: the command line and the Python API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from veil.engines import VeilConfig
    from veil.modeling import VeilForCausalLM, VeilForSequenceClassification, VeilModel, from_pretrained
    from veil.quantization import VeilQuantizationConfig

__all__ = [
    "VeilConfig",
    "VeilForCausalLM",
    "VeilForSequenceClassification",
    "VeilModel",
    "VeilQuantizationConfig",
    "from_pretrained",
    "sanitize",
]
_HOMES = {
    "VeilConfig": "veil.engines",
    "VeilForCausalLM": "veil.modeling",
    "VeilForSequenceClassification": "veil.modeling",
    "VeilModel": "veil.modeling",
    "VeilQuantizationConfig": "veil.quantization",
    "from_pretrained": "veil.modeling",
}
"""What is loaded with torch and transformers, and only when it is asked for."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'veil' has no attribute {name!r}")


@overload
def sanitize(  # type: ignore[overload-overlap]
    texts: str, table: str | Path, epsilon: str | None = None
) -> str: ...
@overload
def sanitize(texts: Iterable[str], table: str | Path, epsilon: str | None = None) -> list[str]: ...
def sanitize(texts: str | Iterable[str], table: str | Path, epsilon: str | None = None) -> str | list[str]:
    """Return a sanitized text, or one for each text, drawn under a fresh key from the operating system.

    `table` is a file of words that `veil table` made, `epsilon` one of its levels, by default the first.
    `veil.sanitizing` has tokens, budgets, ledgers and certificates.

    Refuses: TABLE_MALFORMED, VERSION_MISMATCH, EPSILON_OUT_OF_RANGE, PROMPT_MALFORMED.
    """
    import os
    from pathlib import Path

    from veil.sanitizing import Pipeline, Settings
    from veil.sanitizing import sanitize as run

    pipeline = Pipeline(Settings(Path(table), epsilon))
    listed = [texts] if isinstance(texts, str) else texts
    done = [sanitized.text for sanitized in run(pipeline, listed, os.urandom(32))]
    return done[0] if isinstance(texts, str) else done
