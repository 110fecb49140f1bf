"""An open checkpoint: a Hugging Face directory of safetensors, a GGUF file, or a name on the hub."""

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from veil.families.family import Config
from veil_spec.refusals import Refusal, Refused

FLOAT_KINDS: Final = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The types of tensors that are taken, as safetensors names them."""
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
HUB_IGNORED: Final = ("*/*.safetensors", "consolidated*.safetensors", "adapter_*")
BESIDE: Final = ("*.json", "*.txt", "*.model", "*.jinja", "additional_chat_templates/*.jinja")
"""What may lie beside the tensors: configuration and tokenizer."""
UNREADABLE: Final = (
    OSError,
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
    struct.error,
)
"""What reading a file that somebody else wrote may raise."""
Read = Callable[[str], torch.Tensor]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's type, as safetensors names it, and its shape."""

    kind: str
    size: list[int]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint: `get` returns a tensor as it is stored, by its name."""

    config: Config
    entries: Mapping[str, Entry]
    get: Read

    @property
    def names(self) -> set[str]:
        """Return the names of its tensors."""
        return set(self.entries)


def malformed(detail: str) -> Refused:
    """Return the refusal of a source that cannot be read."""
    return Refused(Refusal.MODEL_MALFORMED, detail)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Refuse what cannot be read, by its name. Refuses: MODEL_MALFORMED."""
    try:
        yield
    except UNREADABLE as error:
        raise malformed(f"{path} cannot be read as a model: {first_line(error)}") from error


def locate(source: str | Path, progress: Progress = lambda line: None) -> tuple[Path, str]:
    """Return where a source lies on this machine, and the model's name; a name on the hub is fetched.

    Only text can be a name on the hub: a Path has lost the `./` that tells the two apart.

    Refuses: MODEL_MALFORMED.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path, path.stem if path.is_file() else path.resolve().name
    if isinstance(source, Path) or not HUB_NAME.fullmatch(source):
        raise malformed(f"{source} does not exist: give a model directory, a .gguf file or a name of the hub")
    return _fetched(source, progress), path.name


def _fetched(name: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    progress(f"looking for {name} on the Hugging Face hub")
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_IGNORED))
        )
    except GatedRepoError as error:
        raise malformed(f"{name} is gated: ask for access on the hub, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise malformed(f"{name} is no directory here and no public model on the hub") from error
    except HFValidationError as error:
        raise malformed(f"{name} is no directory here and no name that the hub allows") from error
    except HfHubHTTPError as error:
        raise malformed(f"{name} cannot be fetched from the hub: {first_line(error)}") from error
    except OSError as error:
        remedy = "go online once, or give a directory that holds it"
        raise malformed(
            f"{name} is neither a directory nor downloaded, and the hub is out of reach: {remedy}"
        ) from error


def open_checkpoint(source: Path) -> Checkpoint:
    """Return the open checkpoint of a directory or .gguf file.

    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED.
    """
    if source.is_file():
        from veil.gguf_checkpoint import open_gguf

        return open_gguf(source)
    return _open_folder(source)


def files_of(source: Path) -> list[Path]:
    """Return every file that an import may read, tensors last. Refuses: MODEL_MALFORMED.

    A tokenizer beside a .gguf file comes before the one in it.
    """
    folder, tensors = (source.parent, [source]) if source.is_file() else (source, shards(source))
    beside = {path for pattern in BESIDE for path in folder.glob(pattern) if path.is_file()}
    return [*sorted(beside), *tensors]


def shards(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a directory's tensors, without those of other formats.

    Refuses: MODEL_MALFORMED.
    """
    if (folder / INDEX).exists():
        with reading(folder / INDEX):
            named = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
            outside = next((name for name in named if not _is_file_name(name)), None)
        if outside is not None:
            raise malformed(f"{folder / INDEX} names {outside!r}, which is no file of the directory")
        missing = next((name for name in named if not (folder / name).is_file()), None)
        if missing:
            raise malformed(f"{folder} lacks the shard {missing}: fetch it again")
        return [folder / name for name in named]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    found = sorted(folder.glob("*.safetensors"))
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if not found and pickled:
        remedy = "convert it with `save_pretrained(..., safe_serialization=True)`"
        raise malformed(f"{folder} holds only {pickled[0]}, a pickle, which is never opened: {remedy}")
    if not found:
        raise malformed(f"{folder} holds no .safetensors file")
    return found


def _is_file_name(name: str) -> bool:
    return name != "" and name.isprintable() and Path(name).name == name


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / "adapter_config.json").exists():
        raise malformed(f"{folder} holds an adapter: merge it into its model first")
    paths = shards(folder)
    if not (folder / "config.json").exists():
        raise malformed(f"{folder} lacks config.json")
    with reading(folder / "config.json"):
        config = dict(json.loads((folder / "config.json").read_text()))
    where: dict[str, Path] = {}
    entries: dict[str, Entry] = {}
    for path in paths:
        found = _entries(path)
        twice = next((name for name in found if name in entries), None)
        if twice:
            raise malformed(f"{path.name} and {where[twice].name} both hold the tensor {twice}")
        where |= dict.fromkeys(found, path)
        entries |= found
    return Checkpoint(config, entries, lambda name: _tensor(where[name], name))


def _entries(path: Path) -> dict[str, Entry]:
    with reading(path), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: Entry(part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}


def _tensor(path: Path, name: str) -> torch.Tensor:
    """Return a tensor; the file is mapped only as long as the tensor lives."""
    with reading(path), safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
