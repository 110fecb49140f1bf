"""Checkpoints as transformers loads them in float32, the same with rounded weights, and texts from files."""

import copy
import csv
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from benchmarks.utility.corpus import Labelled
from benchmarks.utility.packages import Unusable
from transformers import GgufConfig, logging

from veil.families import FAMILIES
from veil_optimized.model import Model
from veil_spec.architecture import describe

SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")


def floats(source: Path, kind: Any) -> Any:
    """Return the checkpoint in float32 by a transformers class, in inference mode.

    Raises Unusable where transformers cannot load it.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, options = _place(source)
    if options:
        options |= {"quantization_config": GgufConfig(dequantize=True)}
    try:
        return kind.from_pretrained(place, dtype=torch.float32, **options).eval()
    except (OSError, ValueError, KeyError) as error:
        raise Unusable(f"{source}: transformers cannot load it: {first_line(error)}") from None


def tokenizer(source: Path) -> Any:
    """Return the checkpoint's own tokenizer. Raises Unusable where it has none."""
    from transformers import AutoTokenizer

    place, options = _place(source)
    try:
        return AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError) as error:
        raise Unusable(f"{source}: it holds no tokenizer: {first_line(error)}") from None


def _place(source: Path) -> tuple[Path, dict[str, object]]:
    if not source.exists():
        raise Unusable(f"{source} does not exist: give a checkpoint's folder or a .gguf file")
    return (source.parent, {"gguf_file": source.name}) if source.is_file() else (source, {})


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def rounded(model: Model, original: Any) -> Any:
    """Return a copy of a float32 model with every parameter read back from an integer file.

    A parameter that the file does not hold, such as an unused pooler, becomes not-a-number: a model that uses
    it shows it. A classifier that the float model was loaded without is left out.
    """
    made = copy.deepcopy(original)
    parts, description = FAMILIES[original.config.model_type].parts(model.shape), describe(model.shape)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(torch.nan)
        linears = [linear.name for linear in description.tables + description.groups]
        for name in dict.fromkeys(linears + [norm.name for norm in description.norms]):
            if name != "classifier" or hasattr(made, name):
                _read_back(model.tensors, name, [_module(made, part.module) for part in parts[name]])
    return made


def _module(model: Any, name: str) -> Any:
    """Return a module by its canonical name, with or without the prefix of the bare model in it."""
    own = name.partition(".")[0] in dict(model.named_children())
    return (model if own else model.base_model).get_submodule(name)


def _read_back(tensors: Mapping[str, torch.Tensor], name: str, modules: Sequence[Any]) -> None:
    sizes = [len(module.weight) for module in modules]
    if f"{name}.weights" in tensors:
        scale = tensors[f"{name}.mantissa"] * torch.exp2(-tensors[f"{name}.exponent"].to(torch.float64))
        weights = tensors[f"{name}.weights"].to(torch.float64) * scale.unsqueeze(-1)
    else:
        weights = _integers(tensors, f"{name}.gains", f"{name}.exponent")
    for module, part in zip(modules, torch.split(weights, sizes), strict=True):
        module.weight.copy_(part)
    if f"{name}.bias" in tensors:
        biases = _integers(tensors, f"{name}.bias", f"{name}.bias_exponent")
        for module, part in zip(modules, torch.split(biases, sizes), strict=True):
            module.bias.copy_(part)


def _integers(tensors: Mapping[str, torch.Tensor], name: str, exponent: str) -> torch.Tensor:
    return tensors[name].to(torch.float64) * 2.0 ** -int(tensors[exponent])


def text(paths: Sequence[Path]) -> str:
    """Return the files' text, joined by blank lines. Raises Unusable where one cannot be read as UTF-8."""
    return "\n\n".join(_read(path) for path in paths)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: {first_line(error)}") from None


def sentences(paths: Sequence[Path], count: int) -> list[str]:
    """Return `count` different sentences: the first column of a .tsv file, or prose cut at its full stops.

    Of more, those drawn under seed 0, in their order. Raises Unusable where there are fewer.
    """
    found: dict[str, None] = {}
    for path in paths:
        if path.suffix == ".tsv":
            found |= dict.fromkeys(labelled(path).texts)
        else:
            lines = _read(path).splitlines()
            found |= dict.fromkeys(part for line in lines for part in SENTENCE.split(line.strip()) if part)
    if len(found) < count:
        raise Unusable(f"--sentences: {len(found)} different sentences, {count} are needed: give more files")
    chosen = sorted(random.Random(0).sample(range(len(found)), count))
    every = list(found)
    return [every[place] for place in chosen]


def labelled(path: Path) -> Labelled:
    """Return the sentences and labels of a file with a header and lines of sentence, tab, label.

    Raises Unusable where a line is not of that form.
    """
    lines = csv.reader(_read(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = list(lines)[1:]
    if not rows or any(len(row) != 2 or row[1] not in ("0", "1") for row in rows):
        raise Unusable(f"{path} must have a header and then lines of sentence, tab, 0 or 1")
    return Labelled(tuple(row[0].strip() for row in rows), tuple(int(row[1]) for row in rows))
