"""Plaintext on record, in tests alone: what an enclave masked, kept beside the transcript of what it sent.

A file is one safetensors image, or as long as it is being written several, one after the other: what was
recorded before a kill can be read. Tensors are "<step>.<group>", int16 [rows, width], and "tokens", int64.
"""

import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from veil_spec.refusals import Refusal, Refused

LENGTH: Final = struct.Struct("<Q")
"""Layout: bytes of the JSON header that follows."""
TOKENS: Final = "tokens"
"""The tensor of token numbers, in the order in which they were given."""
TYPES: Final[dict[str, np.dtype[Any]]] = {"I16": np.dtype("<i2"), "I64": np.dtype("<i8")}
"""Types of a plaintext record as safetensors names them."""

Array = NDArray[np.int16] | NDArray[np.int64]


@dataclass(slots=True)
class Record:
    """What was recorded: tokens, and rows int16 [rows, width] by (step, group), in the order of masking."""

    tokens: list[int] = field(default_factory=list)
    rows: dict[tuple[int, int], NDArray[np.int16]] = field(default_factory=dict)

    def add(self, name: str, values: Array) -> None:
        """Take one tensor. Refuses: FRAME_MALFORMED for a name that is none, or that came before."""
        if name == TOKENS:
            self.tokens.extend(int(token) for token in values)
            return
        step, _, group = name.partition(".")
        if not (step.isdecimal() and group.isdecimal() and values.ndim == 2):
            raise Refused(Refusal.FRAME_MALFORMED, "a plaintext record names its tensors <step>.<group>")
        if (int(step), int(group)) in self.rows:
            raise Refused(Refusal.FRAME_MALFORMED, "a plaintext record holds one step of a group twice")
        self.rows[int(step), int(group)] = values.astype(np.int16)


class Writer:
    """A plaintext file that is being written: every record is in the file when the call returns.

    Its owner alone may read the file. `witness` is what an enclave calls with what it is about to mask.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def witness(self, group: int, step: int, rows: torch.Tensor) -> None:
        """Record rows [n, width] of 16 bits that are about to be masked."""
        self._append(f"{step}.{group}", rows.to(torch.int16).numpy(force=True))

    def tokens(self, tokens: list[int]) -> None:
        """Record the next tokens that were given to the model."""
        self._append(TOKENS, np.array(tokens, dtype=np.int64))

    def _append(self, name: str, values: Array) -> None:
        os.write(self._file, image({name: values}))

    def close(self) -> None:
        """Finish the file: one image in the place of many."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        found = read(self._path)
        tensors: dict[str, Array] = {f"{step}.{group}": rows for (step, group), rows in found.rows.items()}
        tensors[TOKENS] = np.array(found.tokens, dtype=np.int64)
        part = self._path.with_name(self._path.name + ".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(image(tensors))
        part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def image(tensors: dict[str, Array]) -> bytes:
    """Return a safetensors image: length of the header (8 bytes) || JSON header || values."""
    letters = {values: name for name, values in TYPES.items()}
    header, data = dict[str, Any](), b"".join(_bytes(values) for values in tensors.values())
    start = 0
    for name, values in tensors.items():
        end = start + len(_bytes(values))
        kind = letters[values.dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return LENGTH.pack(len(text)) + text + data


def _bytes(values: Array) -> bytes:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()


def read(path: Path) -> Record:
    """Return what a plaintext file holds; an image that a kill cut off at the end is left out.

    Refuses: FRAME_MALFORMED.
    """
    record, data, start = Record(), path.read_bytes(), 0
    while (end := _image_end(data, start)) is not None:
        body, header = _header(data, start)
        for name, about in header.items():
            first, last = about["data_offsets"]
            kind = TYPES[about["dtype"]]
            values = np.frombuffer(data[body + first : body + last], dtype=kind)
            record.add(name, values.reshape(about["shape"]))
        start = end
    return record


def _header(data: bytes, start: int) -> tuple[int, dict[str, dict[str, Any]]]:
    body = start + LENGTH.size + LENGTH.unpack_from(data, start)[0]
    try:
        header: dict[str, dict[str, Any]] = json.loads(data[start + LENGTH.size : body])
        return body, header
    except ValueError as error:
        raise Refused(Refusal.FRAME_MALFORMED, "not a plaintext record") from error


def _image_end(data: bytes, start: int) -> int | None:
    """Return where the image that starts here ends, or None if the data end before it does."""
    if start + LENGTH.size > len(data) or start + LENGTH.size + LENGTH.unpack_from(data, start)[0] > len(
        data
    ):
        return None
    body, header = _header(data, start)
    end = body + max((about["data_offsets"][1] for about in header.values()), default=0)
    return end if end <= len(data) else None
