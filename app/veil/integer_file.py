"""Writes an integer file tensor by tensor, so that no more of a model is ever held than one block of rows."""

import json
from collections.abc import Mapping
from typing import BinaryIO, Final

import torch

from veil_spec.architecture import ModelShape, Precision, describe

BYTES: Final = {"I8": 1, "I16": 2, "I32": 4}
TYPES: Final = {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32}
ALIGNMENT: Final = 8
"""The data start at a multiple of it, as safetensors asks; wide words come first, so each is aligned."""


class IntegerFile:
    """A file that is being written: its header states every tensor, then rows fill them in any order."""

    def __init__(
        self, stream: BinaryIO, shape: ModelShape, precision: Precision, stated: Mapping[str, object]
    ) -> None:
        listed = sorted(describe(shape).tensors(precision), key=lambda entry: -BYTES[entry[1]])
        header: dict[str, object] = {"__metadata__": {"veil": json.dumps(stated, sort_keys=True)}}
        self._stream = stream
        self._kind = {name: kind for name, kind, _ in listed}
        self._place: dict[str, int] = {}
        self._end: dict[str, int] = {}
        offset = 0
        for name, kind, size in listed:
            length = BYTES[kind] * torch.Size(size).numel()
            header[name] = {"dtype": kind, "shape": size, "data_offsets": [offset, offset + length]}
            self._place[name], self._end[name] = offset, offset + length
            offset += length
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        stream.write(len(text).to_bytes(8, "little") + text)
        self._start = 8 + len(text)
        stream.truncate(self._start + offset)

    def write(self, name: str, rows: torch.Tensor) -> None:
        """Write the next rows of a tensor."""
        if rows.dtype != TYPES[self._kind[name]]:
            raise TypeError(name)
        content = rows.numpy().tobytes()
        if self._place[name] + len(content) > self._end[name]:
            raise ValueError(f"{name} has too many rows")
        self._stream.seek(self._start + self._place[name])
        self._stream.write(content)
        self._place[name] += len(content)

    def check_whole(self) -> None:
        """Raise a ValueError if any tensor lacks rows."""
        short = next((name for name, place in self._place.items() if place != self._end[name]), None)
        if short:
            raise ValueError(f"{short} lacks rows")
