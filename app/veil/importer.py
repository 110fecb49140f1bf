"""`veil import`: from a checkpoint of a known family to one integer file, beside its tokenizer."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from veil.checkpoint import (
    FLOAT_KINDS,
    UNREADABLE,
    Checkpoint,
    Entry,
    Progress,
    Read,
    first_line,
    locate,
    malformed,
    open_checkpoint,
)
from veil.families import family_of
from veil.families.family import INFERRED, Family, Part, unsupported
from veil.integer_file import IntegerFile
from veil_optimized.quantise import quantise_gains, row_blocks
from veil_spec import __version__
from veil_spec.architecture import INTEGER_FILE, Linear, ModelShape, Norm, Precision, describe, metadata
from veil_spec.refusals import Refused

CONFIGURATIONS: Final = ("config.json", "generation_config.json")
"""Files of a checkpoint that are kept beside the integer file as they are."""
SCALES: Final = ("weight_scale", "weight_scale_inv", "input_scale", "qweight", "qzeros", "scales", "SCB")
"""Last parts of the names of tensors that only a quantised checkpoint has."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that fits its family: `read` returns a tensor by its canonical name."""

    shape: ModelShape
    parts: Mapping[str, list[Part]]
    read: Read


def _canonical(checkpoint: Checkpoint, family: Family) -> dict[str, str]:
    stored: dict[str, str] = {}
    for name in sorted(checkpoint.entries):
        current = family.canonical(name)
        if current in stored:
            raise malformed(f"the tensors {stored[current]} and {name} are the same one")
        stored[current] = name
    return stored


def _expected(shape: ModelShape, parts: Mapping[str, list[Part]]) -> dict[str, list[int]]:
    """Return the shape of every tensor that is read, by its canonical name."""
    described = describe(shape)
    expected = {}
    for linear in described.tables + described.groups:
        for part in parts[linear.name]:
            expected[f"{part.module}.weight"] = [part.rows, linear.inner]
            if linear.biased:
                expected[f"{part.module}.bias"] = [part.rows]
    for norm in described.norms:
        module = parts[norm.name][0].module
        expected[f"{module}.weight"] = [norm.width]
        if norm.biased:
            expected[f"{module}.bias"] = [norm.width]
    return expected


def _check_kinds(entries: Mapping[str, Entry]) -> None:
    for name, entry in sorted(entries.items()):
        if name.rpartition(".")[2] in SCALES:
            raise unsupported(f"the tensor {name} is of a quantised checkpoint: give the one in float")
        if "experts" in name or "_exps" in name or len(entry.size) > 2:
            raise unsupported(f"the tensor {name} {entry.size} looks like experts: they are not supported")


def _check_fit(
    expected: Mapping[str, list[int]], found: Mapping[str, Entry], family: Family, allowed: Mapping[str, str]
) -> None:
    for name, size in expected.items():
        if name not in found:
            raise malformed(f"the checkpoint lacks the tensor {name}")
        if found[name].size != size:
            raise malformed(f"the tensor {name} has shape {found[name].size}; {size} is expected")
        if found[name].kind not in FLOAT_KINDS:
            known = ", ".join(FLOAT_KINDS)
            raise unsupported(f"the tensor {name} has type {found[name].kind}; supported are {known}")
    spare = (name for name in found if name not in expected and name not in allowed)
    left = min((name for name in spare if not family.unused(name)), default=None)
    if left:
        raise unsupported(f"the tensor {left} does not belong to the family {family.model_type}")


def fitting(checkpoint: Checkpoint, progress: Progress = lambda line: None) -> Source:
    """Return a checkpoint as a source, all names, shapes and types checked before a number is read.

    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED.
    """
    family = family_of(checkpoint.config)
    _check_kinds(checkpoint.entries)
    stored = _canonical(checkpoint, family)
    found = {name: checkpoint.entries[old] for name, old in stored.items()}
    shape = family.shape(checkpoint.config, {name: entry.size for name, entry in found.items()})
    copies, parts = family.copies(shape), family.parts(shape)
    expected = _expected(shape, parts)
    _check_fit(expected, found, family, copies)
    for copy, original in copies.items():
        if copy in found and not _equal(checkpoint, stored[copy], stored[original]):
            raise unsupported(f"{copy} differs from {original}, though config.json ties them")
    spare = (name for name in found if name not in expected and name not in copies)
    left = sorted(name for name in spare if not name.endswith(INFERRED))
    if left:
        progress(f"not used: {left[0]} and {len(left) - 1} more")
    return Source(shape, parts, lambda name: checkpoint.get(stored[name]))


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    left, right = checkpoint.get(one), checkpoint.get(other)
    return left.shape == right.shape and all(
        torch.equal(a.to(torch.float32), b.to(torch.float32))
        for a, b in zip(torch.split(left, 256), torch.split(right, 256), strict=True)
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add a tensor's name to a refusal of its numbers."""
    try:
        yield
    except Refused as refused:
        detail = refused.detail or f"{name} holds a value that is no finite float32"
        raise Refused(refused.reason, detail) from refused


def _write_linear(file: IntegerFile, linear: Linear, source: Source, precision: Precision) -> None:
    modules = [part.module for part in source.parts[linear.name]]
    for module in modules:
        weights = source.read(f"{module}.weight")
        with _named(f"{module}.weight"):
            for rows in row_blocks(weights, precision):
                file.write(f"{linear.name}.weights", rows.values)
                file.write(f"{linear.name}.mantissa", rows.mantissa)
                file.write(f"{linear.name}.exponent", rows.exponent)
    if linear.biased:
        biases = torch.cat([source.read(f"{module}.bias").to(torch.float32) for module in modules])
        with _named(f"{modules[0]}.bias"):
            _write_values(file, f"{linear.name}.bias", f"{linear.name}.bias_exponent", biases)


def _write_norm(file: IntegerFile, norm: Norm, source: Source) -> None:
    module = source.parts[norm.name][0].module
    with _named(f"{module}.weight"):
        gains = source.read(f"{module}.weight")
        _write_values(file, f"{norm.name}.gains", f"{norm.name}.exponent", gains)
    if norm.biased:
        with _named(f"{module}.bias"):
            biases = source.read(f"{module}.bias")
            _write_values(file, f"{norm.name}.bias", f"{norm.name}.bias_exponent", biases)


def _write_values(file: IntegerFile, name: str, exponent_name: str, floats: torch.Tensor) -> None:
    values, exponent = quantise_gains(floats)
    file.write(name, values)
    file.write(exponent_name, torch.tensor([exponent], dtype=torch.int32))


def write_integers(
    path: Path, name: str, source: Source, precision: Precision, progress: Progress = lambda line: None
) -> None:
    """Write the integer file of a source, which is read one tensor at a time.

    Refuses: WEIGHT_NOT_FINITE, MODEL_MALFORMED.
    """
    described = describe(source.shape)
    with path.open("wb") as stream:
        stated = metadata(name, source.shape, precision, __version__)
        file = IntegerFile(stream, source.shape, precision, stated)
        for linear in dict.fromkeys(described.tables + described.groups):
            progress(f"quantising {linear.name}")
            _write_linear(file, linear, source, precision)
        for norm in described.norms:
            _write_norm(file, norm, source)
        file.check_whole()
        stream.flush()
        os.fsync(stream.fileno())


def _save_beside(source: Path, target: Path) -> None:
    """Save the tokenizer and keep the configurations. Refuses: MODEL_MALFORMED."""
    from transformers import AutoTokenizer

    folder, options = (source.parent, {"gguf_file": source.name}) if source.is_file() else (source, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except (*UNREADABLE, ImportError) as error:
        why = " ".join(str(error).split())[:200]
        raise malformed(
            f"{source} holds no tokenizer that can be read: add tokenizer.json ({why})"
        ) from error
    try:
        tokenizer.save_pretrained(target)
    except (ValueError, TypeError, AttributeError) as error:
        raise malformed(f"{source} holds a tokenizer that cannot be saved: {first_line(error)}") from error
    for name in CONFIGURATIONS if source.is_dir() else ():
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Refuse what cannot be written, in one line. Refuses: MODEL_MALFORMED."""
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise malformed(f"{place} cannot be written: {why}: free space or name another place") from error


def import_model(
    source: str | Path,
    target: Path,
    progress: Progress = lambda line: None,
    precision: Precision = Precision.W16A16,
) -> Path:
    """Return the new integer file in directory `target`; the directory appears whole or not at all.

    Implements: MDL-P1.
    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, WEIGHT_NOT_FINITE.
    """
    if target.exists():
        raise malformed(f"{target} exists already: remove it or choose another name")
    path, name = locate(source, progress)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".veil-import-", dir=target.parent))
        try:
            fill(path, name, scratch, progress, precision)
            scratch.chmod(0o755)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target / INTEGER_FILE


def fill(path: Path, name: str, folder: Path, progress: Progress, precision: Precision) -> None:
    """Write the integer file, the tokenizer and the configurations of a checkpoint into a directory.

    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, WEIGHT_NOT_FINITE, and OSError where it cannot be written.
    """
    if path.is_dir() and (path / INTEGER_FILE).exists():
        raise malformed(f"{path} holds an integer model already: import the checkpoint that it was made of")
    if path.is_file() and path.suffix != ".gguf":
        raise malformed(f"{path} is no .gguf file: give one, or a model directory")
    source = fitting(open_checkpoint(path), progress)
    write_integers(folder / INTEGER_FILE, name, source, precision, progress)
    _save_beside(path, folder)
