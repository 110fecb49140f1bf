"""Vectors as JSON: how each operation's arguments and results are written, and read back.

Integers below 2**53 are JSON integers, a larger modulus its bytes, lowest first. Signed 64-bit words are 16
hexadecimal digits (two's complement, lowest byte first), weights of a tabulated row 18, field elements are
digits of fixed width, lowest byte first, inside {"shape", "words"}, rationals "num/den", float32 weights
their 8 digits. Models and table files are whole files in hexadecimal digits.
"""

import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, cast

from veil_spec.architecture import Precision, Rotation
from veil_spec.constants import LWE_MODULUS
from veil_spec.interface import Implementation, Tape
from veil_spec.refusals import Refused
from veil_spec.types import (
    Certificate,
    Domain,
    Frame,
    FrameKind,
    Geometric,
    ListedTape,
    Noise,
    PaperCertificate,
    Part,
    Quantised,
    Rows,
    Sampling,
    Table,
    TabulatedPart,
    TabulatedTable,
    TwoSidedGeometric,
    WeightRow,
)

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]
Fields = dict[str, Json]
Reader = Callable[[Json, "Context"], object]
Writer = Callable[[object, int], Json]


@dataclass(frozen=True, slots=True)
class Context:
    """What reading an argument may need: the implementation, the case's modulus, a folder for model files."""

    impl: Implementation
    modulus: int
    folder: Path


class Malformed(Exception):
    """Raised for a vector that is not of the form that the schema gives."""


def integer(value: Json) -> int:
    """Return a JSON integer."""
    if type(value) is not int:
        raise Malformed(f"not an integer: {value!r}")
    return value


def text(value: Json) -> str:
    """Return a JSON string."""
    if not isinstance(value, str):
        raise Malformed(f"not a string: {value!r}")
    return value


def items(value: Json) -> list[Json]:
    """Return a JSON array."""
    if not isinstance(value, list):
        raise Malformed(f"not an array: {value!r}")
    return value


def fields(value: Json, *names: str) -> Fields:
    """Return a JSON object that has exactly these fields."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise Malformed(f"not an object of {', '.join(names)}: {value!r}")
    return value


def width_of(modulus: int) -> int:
    """Return the bytes of an element."""
    return (modulus.bit_length() + 7) // 8


def read_modulus(value: Json) -> int:
    """Return a modulus."""
    return int.from_bytes(bytes.fromhex(value), "little") if isinstance(value, str) else integer(value)


def write_modulus(modulus: int) -> Json:
    """Return a modulus: an integer, or its bytes where JSON has no integer of that size."""
    return modulus if modulus < 2**53 else modulus.to_bytes(width_of(modulus), "little").hex()


def read_word(value: Json) -> int:
    """Return a signed 64-bit word."""
    return int.from_bytes(bytes.fromhex(text(value)), "little", signed=True)


def write_word(value: int) -> str:
    """Return a signed 64-bit word's digits."""
    return value.to_bytes(8, "little", signed=True).hex()


def read_elements(value: Json, modulus: int) -> list[list[int]]:
    """Return a matrix of field elements."""
    matrix = fields(value, "shape", "words")
    rows, columns = map(integer, items(matrix["shape"]))
    data, width = bytes.fromhex(text(matrix["words"])), width_of(modulus)
    flat = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
    if len(flat) != rows * columns:
        raise Malformed("words do not fill the shape")
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def write_elements(rows: Rows, modulus: int) -> Json:
    """Return a matrix of field elements as shape and words."""
    words = b"".join(element.to_bytes(width_of(modulus), "little") for row in rows for element in row)
    return {"shape": [len(rows), len(rows[0]) if rows else 0], "words": words.hex()}


def read_tape(value: Json, context: Context) -> Tape:
    """Return a seeded or a listed tape."""
    if isinstance(value, dict) and set(value) == {"seed"}:
        return context.impl.seeded_tape(bytes.fromhex(text(value["seed"])))
    listed = {}
    for entry in items(fields(value, "listed")["listed"]):
        one = fields(entry, "domain", "stream", "index", "word")
        address = Domain(text(one["domain"])), read_stream(one["stream"]), integer(one["index"])
        listed[address] = int.from_bytes(bytes.fromhex(text(one["word"])), "little")
    return ListedTape(listed)


def write_listed(words: Mapping[tuple[Domain, int, int], int]) -> Json:
    """Return a listed tape."""
    return {
        "listed": [
            {
                "domain": domain.value,
                "stream": write_stream(s),
                "index": i,
                "word": word.to_bytes(8, "little").hex(),
            }
            for (domain, s, i), word in words.items()
        ]
    }


def read_stream(value: Json) -> int:
    """Return a stream number, also one that is out of range."""
    return int.from_bytes(bytes.fromhex(text(value)), "little", signed=True)


def write_stream(stream: int) -> str:
    """Return a stream number as 14 bytes, so that numbers out of range have a form too."""
    return stream.to_bytes(14, "little", signed=True).hex()


def read_noise(value: Json, context: Context) -> Noise:
    """Return a noise."""
    noise = fields(value, "kind", "alpha")
    alpha = Fraction(text(noise["alpha"]))
    return TwoSidedGeometric(alpha) if noise["kind"] == "two-sided" else Geometric(alpha)


def write_noise(noise: Noise) -> Json:
    """Return a noise's kind and parameter."""
    kind = "geometric" if isinstance(noise, Geometric) else "two-sided"
    return {"kind": kind, "alpha": write_fraction(noise.alpha)}


def write_fraction(value: Fraction) -> str:
    """Return "num/den"."""
    return f"{value.numerator}/{value.denominator}"


def read_ratio(value: Json) -> Fraction | None:
    """Return a rational, or None."""
    return None if value is None else Fraction(text(value))


def read_optional(value: Json) -> int | None:
    """Return an integer, or None."""
    return None if value is None else integer(value)


def read_rotation(value: Json) -> Rotation:
    """Return a rotation."""
    names = ("theta", "factor", "low", "high", "context")
    theta, factor, low, high, context = (fields(value, *names)[name] for name in names)
    ends = read_ratio(low), read_ratio(high), read_optional(context)
    return Rotation(Fraction(text(theta)), Fraction(text(factor)), *ends)


def write_rotation(rotation: Rotation) -> Json:
    """Return a rotation's fields."""
    ends = {"low": rotation.low, "high": rotation.high}
    written: Fields = {"theta": write_fraction(rotation.theta), "factor": write_fraction(rotation.factor)}
    written |= {name: None if end is None else write_fraction(end) for name, end in ends.items()}
    return written | {"context": rotation.context}


def read_sampling(value: Json) -> Sampling:
    """Return a sampling."""
    stated = fields(value, "temperature", "count", "share")
    temperature, share = Fraction(text(stated["temperature"])), Fraction(text(stated["share"]))
    return Sampling(temperature, read_optional(stated["count"]), share)


def write_sampling(value: object, modulus: int) -> Json:
    """Return a sampling."""
    made = cast(Sampling, value)
    shares: Fields = {"temperature": write_fraction(made.temperature), "share": write_fraction(made.share)}
    return shares | {"count": made.count}


def read_epsilon(value: Json, context: Context) -> Fraction | int | str:
    """Return an epsilon: an integer, a decimal string, or a rational as {"rational": "num/den"}."""
    return (
        Fraction(text(value["rational"]))
        if isinstance(value, dict)
        else value
        if isinstance(value, int)
        else text(value)
    )


def read_table(value: Json, context: Context) -> Table:
    """Return a sanitizer table."""
    table = fields(value, "name", "parts")
    parts = [fields(part, "tokens", "scores") for part in items(table["parts"])]
    made = [
        Part(
            tuple(map(text, items(part["tokens"]))),
            tuple(tuple(map(integer, items(r))) for r in items(part["scores"])),
        )
        for part in parts
    ]
    return Table(text(table["name"]), tuple(made))


def write_table(table: Table) -> Json:
    """Return a sanitizer table."""
    parts: list[Json] = [
        {"tokens": list(part.tokens), "scores": [list(row) for row in part.scores]} for part in table.parts
    ]
    return {"name": table.name, "parts": parts}


def read_masses(value: Json) -> list[int]:
    """Return the weights of a tabulated row."""
    return [int.from_bytes(bytes.fromhex(text(item)), "little", signed=True) for item in items(value)]


def write_masses(row: Sequence[int]) -> list[Json]:
    """Return the weights of a tabulated row as 9 bytes each, since a single one is 2**64."""
    return [weight.to_bytes(9, "little", signed=True).hex() for weight in row]


def read_tabulated(value: Json, context: Context) -> TabulatedTable:
    """Return a tabulated table."""
    table = fields(value, "name", "epsilon", "parts")
    made = []
    for part in (fields(part, "tokens", "scores", "weights") for part in items(table["parts"])):
        scores = tuple(tuple(map(integer, items(row))) for row in items(part["scores"]))
        weights = tuple(tuple(read_masses(row)) for row in items(part["weights"]))
        made.append(TabulatedPart(tuple(map(text, items(part["tokens"]))), scores, weights))
    return TabulatedTable(text(table["name"]), text(table["epsilon"]), tuple(made))


def write_tabulated(value: object, modulus: int) -> Json:
    """Return a tabulated table."""
    table = cast(TabulatedTable, value)
    parts: list[Json] = []
    for part in table.parts:
        written: Fields = {"tokens": list(part.tokens), "scores": [list(row) for row in part.scores]}
        parts.append(written | {"weights": [write_masses(row) for row in part.weights]})
    return {"name": table.name, "epsilon": table.epsilon, "parts": parts}


def write_certificate(value: object, modulus: int) -> Json:
    """Return every field of a certificate."""
    made = cast(Certificate, value)
    exact = {name: write_fraction(getattr(made, name)) for name in ("bound", "exact", "bayes_recovery")}
    plain = ("range_distance", "epsilon_bound", "epsilon_exact", "adjacency", "part_bits")
    kept: Fields = {name: getattr(made, name) for name in plain}
    stated: Fields = {"verbatim": list(made.verbatim), "not_covered": list(made.not_covered)}
    return kept | exact | {"worst": cast(Fields, asdict(made.worst))} | stated


def write_candidates(value: object, modulus: int) -> Json:
    """Return the candidates of an entry and their scores."""
    candidates, scores = cast(tuple[Sequence[int], Sequence[int]], value)
    return {"candidates": list(candidates), "scores": list(scores)}


def write_paper_certificate(value: object, modulus: int) -> Json:
    """Return every field of the certificate of profile `cmif-paper`."""
    made = cast(PaperCertificate, value)
    witness = cast(Fields, asdict(made.witness))
    return {"adjacency": made.adjacency, "epsilon": made.epsilon, "witness": witness}


def read_quantised(value: Json, context: Context) -> Quantised:
    """Return a quantised row."""
    row = fields(value, "values", "exponent")
    return Quantised(tuple(map(integer, items(row["values"]))), integer(row["exponent"]))


def write_quantised(value: object, modulus: int) -> Json:
    """Return a quantised row."""
    row = cast(Quantised, value)
    return {"values": list(row.values), "exponent": row.exponent}


def read_floats(value: Json, context: Context) -> list[float]:
    """Return float32 weights."""
    return [float(struct.unpack("<f", bytes.fromhex(text(item)))[0]) for item in items(value)]


def write_float(value: float) -> str:
    """Return a float32's bytes, little-endian."""
    return struct.pack("<f", value).hex()


def write_weights(value: object, modulus: int) -> Json:
    """Return an output channel."""
    row = cast(WeightRow, value)
    return {"values": list(row.values), "mantissa": row.mantissa, "exponent": row.exponent}


def write_gains(value: object, modulus: int) -> Json:
    """Return a norm's gains."""
    values, exponent = cast(tuple[Sequence[int], int], value)
    return {"values": list(values), "exponent": exponent}


FRAME_NUMBERS: Final = ("group", "step", "first_row", "rows", "total_rows", "columns", "element_bytes")


def read_frame(value: Json, context: Context) -> Frame:
    """Return a frame."""
    frame = fields(value, "kind", "epoch", *FRAME_NUMBERS, "payload")
    group, step, first, rows, total, columns, width = (integer(frame[name]) for name in FRAME_NUMBERS)
    kind, epoch = FrameKind[text(frame["kind"])], bytes.fromhex(text(frame["epoch"]))
    payload = bytes.fromhex(text(frame["payload"]))
    return Frame(kind, epoch, group, step, first, rows, total, columns, width, payload)


def write_frame(value: object, modulus: int) -> Json:
    """Return a frame's fields."""
    frame = cast(Frame, value)
    numbers: Fields = {name: getattr(frame, name) for name in FRAME_NUMBERS}
    return {"kind": frame.kind.name, "epoch": frame.epoch.hex()} | numbers | {"payload": frame.payload.hex()}


def read_file(value: Json, context: Context) -> Path:
    """Return the path of a file with these bytes."""
    path = context.folder / "vector.safetensors"
    path.write_bytes(bytes.fromhex(text(value)))
    return path


def read_rows(value: Json, context: Context) -> list[list[int]]:
    """Return a matrix of small integers."""
    return [[integer(cell) for cell in items(row)] for row in items(value)]


def _plain(read: Callable[[Json], object]) -> Reader:
    return lambda value, context: read(value)


READERS: Final[dict[str, Reader]] = {
    "boolean": _plain(lambda value: value is True),
    "integer": _plain(integer),
    "modulus": _plain(read_modulus),
    "word": _plain(read_word),
    "stream": _plain(read_stream),
    "bytes": _plain(lambda value: bytes.fromhex(text(value))),
    "domain": _plain(lambda value: Domain(text(value))),
    "kind": _plain(lambda value: FrameKind[text(value)]),
    "fraction": _plain(lambda value: Fraction(text(value))),
    "ratio": _plain(read_ratio),
    "rotation": _plain(read_rotation),
    "sampling": _plain(read_sampling),
    "optional": _plain(read_optional),
    "precision": _plain(lambda value: Precision(text(value))),
    "types": _plain(lambda value: None if value is None else [integer(item) for item in items(value)]),
    "row": _plain(lambda value: [integer(item) for item in items(value)]),
    "words": _plain(lambda value: [read_word(item) for item in items(value)]),
    "wordrows": _plain(lambda value: [[read_word(item) for item in items(row)] for row in items(value)]),
    "rows": read_rows,
    "texts": _plain(lambda value: [text(item) for item in items(value)]),
    "fractions": _plain(lambda value: [Fraction(text(item)) for item in items(value)]),
    "masses": _plain(read_masses),
    "tabulated": read_tabulated,
    "elements": lambda value, context: read_elements(value, context.modulus),
    "element_row": lambda value, context: read_elements(value, context.modulus)[0],
    "lwe_elements": _plain(lambda value: read_elements(value, LWE_MODULUS)),
    "leaves": _plain(lambda value: [bytes.fromhex(text(item)) for item in items(value)]),
    "tape": read_tape,
    "noise": read_noise,
    "epsilon": read_epsilon,
    "table": read_table,
    "quantised": read_quantised,
    "floats": read_floats,
    "frame": read_frame,
    "frames": lambda value, context: [read_frame(item, context) for item in items(value)],
    "file": read_file,
}

WRITERS: Final[dict[str, Writer]] = {
    "integer": lambda value, modulus: cast(int, value),
    "word": lambda value, modulus: write_word(cast(int, value)),
    "tape_word": lambda value, modulus: cast(int, value).to_bytes(8, "little").hex(),
    "bytes": lambda value, modulus: cast(bytes, value).hex(),
    "noise": lambda value, modulus: write_noise(cast(Noise, value)),
    "nothing": lambda value, modulus: None,
    "row": lambda value, modulus: list(cast(Sequence[int], value)),
    "pair": lambda value, modulus: list(cast(tuple[int, int], value)),
    "rows": lambda value, modulus: [list(row) for row in cast(Rows, value)],
    "elements": lambda value, modulus: write_elements(cast(Rows, value), modulus),
    "element_row": lambda value, modulus: write_elements([cast(Sequence[int], value)], modulus),
    "lwe_elements": lambda value, modulus: write_elements(cast(Rows, value), LWE_MODULUS),
    "fraction": lambda value, modulus: write_fraction(cast(Fraction, value)),
    "pmf": lambda value, modulus: [write_fraction(p) for p in cast(tuple[Fraction, ...], value)],
    "selection": lambda value, modulus: {"index": int(getattr(value, "index"))},  # noqa: B009
    "masses": lambda value, modulus: write_masses(cast(Sequence[int], value)),
    "tabulated": write_tabulated,
    "candidates": write_candidates,
    "certificate": write_certificate,
    "paper_certificate": write_paper_certificate,
    "quantised": write_quantised,
    "weights": write_weights,
    "gains": write_gains,
    "sampling": write_sampling,
    "frame": write_frame,
}

SIGNATURES: Final[dict[str, tuple[dict[str, str], str]]] = {
    "word": ({"tape": "tape", "domain": "domain", "stream": "stream", "index": "integer"}, "tape_word"),
    "seeded_tape": ({"seed": "bytes"}, "nothing"),
    "listed_tape": ({"words": "listed"}, "nothing"),
    "field_elements": (
        {"tape": "tape", "domain": "domain", "stream": "stream", "start": "integer", "count": "integer"}
        | {"modulus": "modulus"},
        "element_row",
    ),
    "noise": ({"alpha": "fraction", "two_sided": "boolean"}, "noise"),
    "sample": (
        {"noise": "noise", "tape": "tape", "token": "integer", "candidate": "integer"}
        | {"document": "integer"},
        "integer",
    ),
    "select": (
        {"scores": "row", "noise": "noise", "tape": "tape", "token": "integer", "document": "integer"},
        "selection",
    ),
    "exact_pmf": ({"scores": "row", "noise": "noise"}, "pmf"),
    "certificate": ({"table": "table", "noise": "noise"}, "certificate"),
    "calibrate": ({"epsilon": "epsilon", "range_distance": "integer"}, "fraction"),
    "direction": ({"vector": "floats"}, "row"),
    "partition": ({"directions": "rows", "part_size": "integer"}, "rows"),
    "part_scores": ({"directions": "rows"}, "rows"),
    "tabulate": ({"scores": "row", "noise": "noise"}, "masses"),
    "draw": (
        {"weights": "masses", "tape": "tape", "token": "integer", "document": "integer"},
        "selection",
    ),
    "draw_uniformly": (
        {"size": "integer", "tape": "tape", "token": "integer", "document": "integer"},
        "selection",
    ),
    "load_tabulated": ({"file": "file", "level": "integer"}, "tabulated"),
    "calibrate_part": ({"epsilon": "epsilon", "scores": "rows", "two_sided": "boolean"}, "fraction"),
    "tabulated_certificate": ({"table": "tabulated"}, "certificate"),
    "weighted_recovery": ({"table": "tabulated", "counts": "row"}, "fraction"),
    "paper_candidates": ({"directions": "rows", "entry": "integer", "count": "integer"}, "candidates"),
    "paper_certificate": ({"tokens": "texts", "candidates": "rows"}, "paper_certificate"),
    "document_cost": ({"exacts": "fractions"}, "pair"),
    "divide": ({"budget": "word", "weights": "words", "costs": "wordrows"}, "row"),
    "round_shift": ({"value": "word", "shift": "integer"}, "word"),
    "rescale": ({"value": "word", "shift": "integer", "limit": "integer"}, "integer"),
    "quantise": ({"row": "words", "fraction": "integer"}, "quantised"),
    "exp2_digits": ({}, "rows"),
    "normal_tail": ({}, "row"),
    "exp2": ({"exponent": "integer"}, "integer"),
    "silu": ({"value": "integer"}, "integer"),
    "gelu": ({"value": "integer"}, "integer"),
    "tanh": ({"value": "integer"}, "integer"),
    "rope": (
        {"position": "integer", "pair": "integer", "head_width": "integer", "rotation": "rotation"},
        "pair",
    ),
    "rms_norm": (
        {"row": "row", "gains": "row", "gain_exponent": "integer", "epsilon": "fraction"},
        "quantised",
    ),
    "layer_norm": (
        {"row": "row", "gains": "row", "gain_exponent": "integer", "biases": "row"}
        | {"bias_exponent": "integer", "epsilon": "fraction"},
        "row",
    ),
    "head_norm": (
        {"row": "row", "gains": "row", "gain_exponent": "integer", "epsilon": "fraction"},
        "row",
    ),
    "attention_score": ({"query": "quantised", "key": "quantised"}, "integer"),
    "softmax_average": ({"scores": "row", "values": "rows"}, "row"),
    "rotate": ({"row": "row", "position": "integer", "rotation": "rotation"}, "row"),
    "quantise_weights": ({"weights": "floats", "precision": "precision"}, "weights"),
    "quantise_gains": ({"gains": "floats"}, "gains"),
    "greedy": ({"row": "row"}, "integer"),
    "logits": ({"model": "file", "tokens": "row"}, "rows"),
    "masked_logits": ({"model": "file", "tokens": "row", "seed": "bytes", "rank": "ratio"}, "rows"),
    "stream": ({"model": "file", "tokens": "row", "types": "types"}, "rows"),
    "masked_stream": ({"model": "file", "tokens": "row", "seed": "bytes"}, "rows"),
    "labels": ({"model": "file", "tokens": "row", "types": "types"}, "row"),
    "sentence": ({"stream": "rows"}, "row"),
    "sampling": ({"temperature": "fraction", "count": "optional", "share": "fraction"}, "sampling"),
    "sampling_weights": ({"row": "row", "sampling": "sampling"}, "row"),
    "sample_token": (
        {"weights": "row", "tape": "tape", "sample": "integer", "token": "integer"},
        "integer",
    ),
    "choose_modulus": ({"weights": "rows"}, "integer"),
    "pad": (
        {"tape": "tape", "group": "integer", "step": "integer", "rows": "integer", "columns": "integer"}
        | {"modulus": "modulus"},
        "elements",
    ),
    "burn": ({"addresses": "rows"}, "nothing"),
    "rank_basis": (
        {"tape": "tape", "group": "integer", "rank": "integer", "columns": "integer", "modulus": "modulus"},
        "elements",
    ),
    "rank_pad": (
        {"tape": "tape", "basis": "elements", "group": "integer", "step": "integer", "rows": "integer"}
        | {"modulus": "modulus"},
        "elements",
    ),
    "ratchet": ({"seed": "bytes"}, "bytes"),
    "lwe_dimension": ({"inner": "integer"}, "integer"),
    "lwe_levels": ({"inner": "integer"}, "pair"),
    "halves": ({"weights": "rows"}, "rows"),
    "lwe_basis": (
        {"tape": "tape", "group": "integer", "dimension": "integer", "inner": "integer"},
        "lwe_elements",
    ),
    "lwe_mask": (
        {"tape": "tape", "basis": "lwe_elements", "group": "integer", "step": "integer"}
        | {"activations": "rows"},
        "lwe_elements",
    ),
    "lwe_unmask": (
        {"tape": "tape", "product": "lwe_elements", "hint": "lwe_elements", "group": "integer"}
        | {"step": "integer", "inner": "integer"},
        "rows",
    ),
    "mask": ({"activations": "rows", "pads": "elements", "modulus": "modulus"}, "elements"),
    "multiply": ({"masked": "elements", "weights": "rows", "modulus": "modulus"}, "elements"),
    "unmask": ({"product": "elements", "correction": "elements", "modulus": "modulus"}, "rows"),
    "repetitions": ({"modulus": "modulus"}, "integer"),
    "challenge": (
        {"tape": "tape", "group": "integer", "outputs": "integer", "modulus": "modulus"},
        "elements",
    ),
    "check_key": ({"weights": "rows", "challenge": "elements", "modulus": "modulus"}, "elements"),
    "verify": (
        {"masked": "elements", "product": "elements", "challenge": "elements", "key": "elements"}
        | {"modulus": "modulus"},
        "nothing",
    ),
    "weight_leaf": ({"group": "integer", "weights": "rows"}, "bytes"),
    "merkle_root": ({"leaves": "leaves"}, "bytes"),
    "encode": ({"frame": "frame"}, "bytes"),
    "decode": ({"data": "bytes"}, "frame"),
    "pack": ({"elements": "element_row", "modulus": "modulus"}, "bytes"),
    "unpack": ({"data": "bytes", "count": "integer", "modulus": "modulus"}, "element_row"),
    "split": (
        {"kind": "kind", "epoch": "bytes", "group": "integer", "step": "integer", "columns": "integer"}
        | {"element_bytes": "integer", "data": "bytes"},
        "frames",
    ),
    "join": (
        {"frames": "frames", "kind": "kind", "epoch": "bytes", "group": "integer", "step": "integer"}
        | {"columns": "integer", "element_bytes": "integer", "total_rows": "integer"},
        "bytes",
    ),
}
"""Each operation's arguments, in order, and its result; `word` is the tape's own method."""


def run(impl: Implementation, operation: str, given: Json) -> Fields:
    """Return {"output": ...} or {"refusal": ...} of one case; Malformed if the case is."""
    arguments, result = SIGNATURES[operation]
    stated = fields(given, *arguments)
    modulus = read_modulus(stated.get("modulus", 2))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(impl, modulus, Path(folder))
        call: Callable[..., object] = impl.seeded_tape if operation == "word" else getattr(impl, operation)
        try:
            values = [READERS[kind](stated[name], context) for name, kind in arguments.items()]
            if operation == "word":
                call, *values = cast(Tape, values[0]).word, *values[1:]
            made = call(*values)
        except Refused as refused:
            return {"refusal": refused.reason.value}
    return {"output": WRITERS[result](made, modulus)}
