"""Values as JSON: how each operation's arguments and results are written, and read back.

The forms are those of spec/wire.md, in vectors and in the plug-in protocol alike. Readers refuse any other
form (Malformed), writers a value that has none (Unwritable).
"""

import operator
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeVar, cast

from veil_spec.architecture import Precision, Rotation
from veil_spec.constants import LWE_MODULUS
from veil_spec.interface import Implementation, Tape
from veil_spec.refusals import Refused
from veil_spec.types import (
    Address,
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
    Row,
    Rows,
    Sampling,
    Selection,
    Table,
    TabulatedPart,
    TabulatedTable,
    TokenIndex,
    TwoSidedGeometric,
    WeightRow,
    WorstPair,
)

Named = TypeVar("Named", Domain, Precision)
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
    """Raised for a value that is not of the form that spec/wire.md gives."""


class Unwritable(Exception):
    """Raised for a value that has no form."""


def integer(value: Json) -> int:
    """Return a JSON integer."""
    if type(value) is not int or abs(value) >= 2**53:
        raise Malformed(f"not an integer below 2^53: {value!r}")
    return value


def write_integer(value: object) -> int:
    """Return an integer, numpy's included."""
    number = operator.index(cast(int, value))
    if isinstance(value, bool) or abs(number) >= 2**53:
        raise Unwritable(f"{value!r} is no integer below 2^53")
    return number


def text(value: Json) -> str:
    """Return a JSON string."""
    if not isinstance(value, str):
        raise Malformed(f"not a string: {value!r}")
    return value


def write_text(value: object) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise Unwritable(f"{value!r} is no string")
    return value


def digits(value: Json, width: int | None = None) -> bytes:
    """Return the bytes of hexadecimal digits, of so many bytes where a width is given."""
    data = text(value)
    if not re.fullmatch("[0-9a-f]*", data) or len(data) != 2 * (len(data) // 2 if width is None else width):
        raise Malformed(f"not the digits of {'bytes' if width is None else f'{width} bytes'}: {data[:80]!r}")
    return bytes.fromhex(data)


def ratio(value: Json) -> Fraction:
    """Return a rational in lowest terms."""
    made = re.fullmatch("(0|-?[1-9][0-9]*)/([1-9][0-9]*)", text(value), re.ASCII)
    read = Fraction(int(made[1]), int(made[2])) if made else None
    if read is None or write_fraction(read) != value:
        raise Malformed(f"not a rational in lowest terms: {value!r}")
    return read


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
    return int.from_bytes(digits(value), "little") if isinstance(value, str) else integer(value)


def write_modulus(modulus: int) -> Json:
    """Return a modulus: an integer, or its bytes where JSON has no integer of that size."""
    return modulus if modulus < 2**53 else modulus.to_bytes(width_of(modulus), "little").hex()


def read_word(value: Json) -> int:
    """Return a signed 64-bit word."""
    return int.from_bytes(digits(value, 8), "little", signed=True)


def write_word(value: int) -> str:
    """Return a signed 64-bit word's digits."""
    return value.to_bytes(8, "little", signed=True).hex()


ROWS_LIMIT: Final = 2**20
"""Most rows of a matrix without columns: its words do not bound them."""


def read_elements(value: Json, modulus: int) -> list[list[int]]:
    """Return a matrix of field elements."""
    matrix = fields(value, "shape", "words")
    rows, columns = read_pair(matrix["shape"])
    width = width_of(modulus)
    if min(rows, columns) < 0 or (rows > ROWS_LIMIT and not columns):
        raise Malformed(f"not the shape of a matrix: {matrix['shape']!r}")
    data = digits(matrix["words"], rows * columns * width)
    flat = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def write_elements(rows: Rows, modulus: int) -> Json:
    """Return a matrix of field elements as shape and words."""
    columns = {len(row) for row in rows} or {0}
    if len(columns) > 1:
        raise Unwritable("a ragged matrix of elements")
    words = b"".join(
        operator.index(element).to_bytes(width_of(modulus), "little") for row in rows for element in row
    )
    return {"shape": [len(rows), *columns], "words": words.hex()}


def read_element_row(value: Json, modulus: int) -> list[int]:
    """Return field elements."""
    rows = read_elements(value, modulus)
    if len(rows) != 1:
        raise Malformed("not one row of elements")
    return rows[0]


def read_pair(value: Json) -> tuple[int, int]:
    """Return two integers."""
    pair = tuple(map(integer, items(value)))
    if len(pair) != 2:
        raise Malformed(f"not two integers: {value!r}")
    return pair


def read_tape(value: Json, context: Context) -> Tape:
    """Return a seeded or a listed tape."""
    if isinstance(value, dict) and set(value) == {"seed"}:
        return context.impl.seeded_tape(digits(value["seed"]))
    return ListedTape(read_listed(fields(value, "listed")["listed"]))


def write_tape(tape: object) -> Json:
    """Return a listed tape, or any that says itself how it is written."""
    if isinstance(tape, ListedTape):
        return write_listed(tape.words)
    return cast(Json, getattr(tape, "written"))  # noqa: B009


def read_listed(value: Json) -> Mapping[Address, int]:
    """Return the words of a listed tape."""
    listed: dict[Address, int] = {}
    for entry in items(value):
        one = fields(entry, "domain", "stream", "index", "word")
        address = read_name(Domain, one["domain"]), read_stream(one["stream"]), integer(one["index"])
        listed[address] = read_tape_word(one["word"])
    return listed


def write_listed(words: Mapping[Address, int]) -> Json:
    """Return a listed tape."""
    return {"listed": write_addresses(words)}


def write_addresses(words: Mapping[Address, int]) -> Json:
    """Return the words of a listed tape."""
    return [
        {
            "domain": domain.value,
            "stream": write_stream(stream),
            "index": write_integer(index),
            "word": write_tape_word(word),
        }
        for (domain, stream, index), word in words.items()
    ]


def read_tape_word(value: Json) -> int:
    """Return a word of a tape."""
    return int.from_bytes(digits(value, 8), "little")


def write_tape_word(word: int) -> str:
    """Return a word of a tape as 8 bytes."""
    return operator.index(word).to_bytes(8, "little").hex()


def read_name(names: type[Named], value: Json) -> Named:
    """Return the member of an enumeration that has this value."""
    try:
        return names(text(value))
    except ValueError:
        raise Malformed(f"not the name of a {names.__name__.lower()}: {value!r}") from None


def read_kind(value: Json) -> FrameKind:
    """Return a kind of frame by its name."""
    if text(value) not in FrameKind.__members__:
        raise Malformed(f"not the name of a kind of frame: {value!r}")
    return FrameKind[text(value)]


def read_stream(value: Json) -> int:
    """Return a stream number, also one that is out of range."""
    return int.from_bytes(digits(value, 14), "little", signed=True)


def write_stream(stream: int) -> str:
    """Return a stream number as 14 bytes, so that numbers out of range have a form too."""
    return stream.to_bytes(14, "little", signed=True).hex()


NOISES: Final[dict[str, type[Geometric] | type[TwoSidedGeometric]]] = {
    "geometric": Geometric,
    "two-sided": TwoSidedGeometric,
}


def read_noise(value: Json, context: Context) -> Noise:
    """Return a noise."""
    noise = fields(value, "kind", "alpha")
    if text(noise["kind"]) not in NOISES:
        raise Malformed(f"not a kind of noise: {noise['kind']!r}")
    return NOISES[text(noise["kind"])](ratio(noise["alpha"]))


def write_noise(noise: Noise) -> Json:
    """Return a noise's kind and parameter."""
    kind = next(kind for kind, made in NOISES.items() if isinstance(noise, made))
    return {"kind": kind, "alpha": write_fraction(noise.alpha)}


def write_fraction(value: Fraction) -> str:
    """Return "num/den"."""
    return f"{value.numerator}/{value.denominator}"


def read_ratio(value: Json) -> Fraction | None:
    """Return a rational, or None."""
    return None if value is None else ratio(value)


def write_ratio(value: Fraction | None) -> Json:
    """Return a rational, or None."""
    return None if value is None else write_fraction(value)


def read_optional(value: Json) -> int | None:
    """Return an integer, or None."""
    return None if value is None else integer(value)


def write_optional(value: int | None) -> Json:
    """Return an integer, or None."""
    return None if value is None else write_integer(value)


def read_rotation(value: Json) -> Rotation:
    """Return a rotation."""
    names = ("theta", "factor", "low", "high", "context")
    theta, factor, low, high, context = (fields(value, *names)[name] for name in names)
    ends = read_ratio(low), read_ratio(high), read_optional(context)
    return Rotation(ratio(theta), ratio(factor), *ends)


def write_rotation(rotation: Rotation) -> Json:
    """Return a rotation's fields."""
    written: Fields = {"theta": write_fraction(rotation.theta), "factor": write_fraction(rotation.factor)}
    written |= {"low": write_ratio(rotation.low), "high": write_ratio(rotation.high)}
    return written | {"context": write_optional(rotation.context)}


def read_sampling(value: Json) -> Sampling:
    """Return a sampling."""
    stated = fields(value, "temperature", "count", "share")
    return Sampling(ratio(stated["temperature"]), read_optional(stated["count"]), ratio(stated["share"]))


def write_sampling(made: Sampling) -> Json:
    """Return a sampling."""
    shares: Fields = {"temperature": write_fraction(made.temperature), "share": write_fraction(made.share)}
    return shares | {"count": write_optional(made.count)}


def read_epsilon(value: Json) -> Fraction | int | str:
    """Return an epsilon: an integer, a string, or a rational as {"rational": "num/den"}."""
    if isinstance(value, dict):
        return ratio(fields(value, "rational")["rational"])
    return value if isinstance(value, str) else integer(value)


def write_epsilon(value: Fraction | int | str) -> Json:
    """Return an epsilon."""
    if isinstance(value, Fraction):
        return {"rational": write_fraction(value)}
    return value if isinstance(value, str) else write_integer(value)


def read_texts(value: Json) -> tuple[str, ...]:
    """Return strings."""
    return tuple(map(text, items(value)))


def write_texts(texts: Sequence[str]) -> Json:
    """Return strings."""
    return [write_text(one) for one in texts]


def read_row(value: Json) -> list[int]:
    """Return integers."""
    return [integer(item) for item in items(value)]


def write_row(row: Row) -> Json:
    """Return integers."""
    return [write_integer(item) for item in row]


def read_rows(value: Json) -> list[list[int]]:
    """Return a matrix of small integers."""
    return [read_row(row) for row in items(value)]


def write_rows(rows: Rows) -> Json:
    """Return a matrix of small integers."""
    return [write_row(row) for row in rows]


def _scores(value: Json) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, read_rows(value)))


def read_table(value: Json) -> Table:
    """Return a sanitizer table."""
    table = fields(value, "name", "parts")
    parts = [fields(part, "tokens", "scores") for part in items(table["parts"])]
    made = [Part(read_texts(part["tokens"]), _scores(part["scores"])) for part in parts]
    return Table(text(table["name"]), tuple(made))


def write_table(table: Table) -> Json:
    """Return a sanitizer table."""
    parts: list[Json] = [
        {"tokens": write_texts(part.tokens), "scores": write_rows(part.scores)} for part in table.parts
    ]
    return {"name": write_text(table.name), "parts": parts}


def read_masses(value: Json) -> list[int]:
    """Return the weights of a tabulated row."""
    return [int.from_bytes(digits(item, 9), "little", signed=True) for item in items(value)]


def write_masses(row: Sequence[int]) -> list[Json]:
    """Return the weights of a tabulated row as 9 bytes each, since a single one is 2**64."""
    return [operator.index(weight).to_bytes(9, "little", signed=True).hex() for weight in row]


def read_tabulated(value: Json) -> TabulatedTable:
    """Return a tabulated table."""
    table = fields(value, "name", "epsilon", "parts")
    made = []
    for part in (fields(part, "tokens", "scores", "weights") for part in items(table["parts"])):
        weights = tuple(tuple(read_masses(row)) for row in items(part["weights"]))
        made.append(TabulatedPart(read_texts(part["tokens"]), _scores(part["scores"]), weights))
    return TabulatedTable(text(table["name"]), text(table["epsilon"]), tuple(made))


def write_tabulated(table: TabulatedTable) -> Json:
    """Return a tabulated table."""
    parts: list[Json] = []
    for part in table.parts:
        written: Fields = {"tokens": write_texts(part.tokens), "scores": write_rows(part.scores)}
        parts.append(written | {"weights": [write_masses(row) for row in part.weights]})
    return {"name": write_text(table.name), "epsilon": write_text(table.epsilon), "parts": parts}


def read_witness(value: Json) -> WorstPair:
    """Return two tokens and an output."""
    named = fields(value, "token", "other", "output")
    return WorstPair(text(named["token"]), text(named["other"]), text(named["output"]))


EXACT: Final = ("bound", "exact", "bayes_recovery")
"""Rational fields of a certificate."""
STATED: Final = ("epsilon_bound", "epsilon_exact", "adjacency", "part_bits")
"""Fields of a certificate in text."""
LISTS: Final = ("verbatim", "not_covered")
"""Fields of a certificate that list texts."""


def read_certificate(value: Json) -> Certificate:
    """Return a certificate."""
    made = fields(value, "range_distance", "worst", *EXACT, *STATED, *LISTS)
    bound, exact, recovery = (ratio(made[name]) for name in EXACT)
    epsilon_bound, epsilon_exact, adjacency, bits = (text(made[name]) for name in STATED)
    return Certificate(
        range_distance=integer(made["range_distance"]),
        bound=bound,
        exact=exact,
        worst=read_witness(made["worst"]),
        epsilon_bound=epsilon_bound,
        epsilon_exact=epsilon_exact,
        adjacency=adjacency,
        part_bits=bits,
        bayes_recovery=recovery,
        verbatim=read_texts(made["verbatim"]),
        not_covered=read_texts(made["not_covered"]),
    )


def write_certificate(made: Certificate) -> Json:
    """Return every field of a certificate."""
    exact: Fields = {name: write_fraction(getattr(made, name)) for name in EXACT}
    stated: Fields = {name: write_text(getattr(made, name)) for name in STATED}
    listed: Fields = {name: write_texts(getattr(made, name)) for name in LISTS}
    worst = {"worst": cast(Fields, asdict(made.worst))}
    return {"range_distance": write_integer(made.range_distance)} | stated | exact | worst | listed


def read_candidates(value: Json) -> tuple[list[int], list[int]]:
    """Return the candidates of an entry and their scores."""
    made = fields(value, "candidates", "scores")
    return read_row(made["candidates"]), read_row(made["scores"])


def write_candidates(made: tuple[Row, Row]) -> Json:
    """Return the candidates of an entry and their scores."""
    candidates, scores = made
    return {"candidates": write_row(candidates), "scores": write_row(scores)}


def read_paper_certificate(value: Json) -> PaperCertificate:
    """Return the certificate of profile `cmif-paper`."""
    made = fields(value, "adjacency", "epsilon", "witness")
    return PaperCertificate(text(made["adjacency"]), text(made["epsilon"]), read_witness(made["witness"]))


def write_paper_certificate(made: PaperCertificate) -> Json:
    """Return every field of the certificate of profile `cmif-paper`."""
    witness = cast(Fields, asdict(made.witness))
    return {"adjacency": made.adjacency, "epsilon": made.epsilon, "witness": witness}


def read_quantised(value: Json) -> Quantised:
    """Return a quantised row."""
    row = fields(value, "values", "exponent")
    return Quantised(tuple(read_row(row["values"])), integer(row["exponent"]))


def write_quantised(row: Quantised) -> Json:
    """Return a quantised row."""
    return {"values": write_row(row.values), "exponent": write_integer(row.exponent)}


def read_float(value: Json) -> float:
    """Return a float32 or a float64 from its bytes, little-endian."""
    long = len(text(value)) == 16
    return float(struct.unpack("<d" if long else "<f", digits(value, 8 if long else 4))[0])


def write_float(value: float) -> str:
    """Return the bytes of a float32, little-endian, or of a float64 where a float32 does not hold it."""
    long = struct.pack("<d", value)
    try:
        short = struct.pack("<f", value)
    except OverflowError:
        return long.hex()
    return (short if value != value or struct.unpack("<f", short)[0] == value else long).hex()


def read_weights(value: Json) -> WeightRow:
    """Return an output channel."""
    row = fields(value, "values", "mantissa", "exponent")
    return WeightRow(tuple(read_row(row["values"])), integer(row["mantissa"]), integer(row["exponent"]))


def write_weights(row: WeightRow) -> Json:
    """Return an output channel."""
    scale: Fields = {"mantissa": write_integer(row.mantissa), "exponent": write_integer(row.exponent)}
    return {"values": write_row(row.values)} | scale


def read_gains(value: Json) -> tuple[list[int], int]:
    """Return a norm's gains."""
    made = fields(value, "values", "exponent")
    return read_row(made["values"]), integer(made["exponent"])


def write_gains(made: tuple[Row, int]) -> Json:
    """Return a norm's gains."""
    values, exponent = made
    return {"values": write_row(values), "exponent": write_integer(exponent)}


def read_selection(value: Json) -> Selection:
    """Return a selection."""
    return Selection(TokenIndex(integer(fields(value, "index")["index"])))


FRAME_NUMBERS: Final = ("group", "step", "first_row", "rows", "total_rows", "columns", "element_bytes")


def read_frame(value: Json) -> Frame:
    """Return a frame."""
    frame = fields(value, "kind", "epoch", *FRAME_NUMBERS, "payload")
    group, step, first, rows, total, columns, width = (integer(frame[name]) for name in FRAME_NUMBERS)
    kind, epoch, payload = read_kind(frame["kind"]), digits(frame["epoch"]), digits(frame["payload"])
    return Frame(kind, epoch, group, step, first, rows, total, columns, width, payload)


def write_frame(frame: Frame) -> Json:
    """Return a frame's fields."""
    numbers: Fields = {name: write_integer(getattr(frame, name)) for name in FRAME_NUMBERS}
    return {"kind": frame.kind.name, "epoch": frame.epoch.hex()} | numbers | {"payload": frame.payload.hex()}


def read_file(value: Json, context: Context) -> Path:
    """Return the path of a file with these bytes."""
    path = context.folder / "vector.safetensors"
    path.write_bytes(digits(value))
    return path


def write_file(path: Path) -> Json:
    """Return all bytes of a file."""
    try:
        return path.read_bytes().hex()
    except OSError:
        raise Unwritable("a file that cannot be read has no bytes") from None


def write_bytes(data: bytes) -> Json:
    """Return the digits of bytes."""
    return bytes(data).hex()


def read_boolean(value: Json) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise Malformed(f"not true or false: {value!r}")
    return value


def read_nothing(value: Json) -> None:
    """Return nothing."""
    if value is not None:
        raise Malformed(f"not null: {value!r}")


def _plain(read: Callable[[Json], object]) -> Reader:
    return lambda value, context: read(value)


def _listed(read: Callable[[Json], object]) -> Reader:
    return lambda value, context: [read(item) for item in items(value)]


READERS: Final[dict[str, Reader]] = {
    "nothing": _plain(read_nothing),
    "boolean": _plain(read_boolean),
    "integer": _plain(integer),
    "optional": _plain(read_optional),
    "row": _plain(read_row),
    "types": _plain(lambda value: None if value is None else read_row(value)),
    "pair": _plain(read_pair),
    "rows": _plain(read_rows),
    "word": _plain(read_word),
    "words": _listed(read_word),
    "wordrows": _listed(lambda row: [read_word(item) for item in items(row)]),
    "tape_word": _plain(read_tape_word),
    "stream": _plain(read_stream),
    "bytes": _plain(digits),
    "leaves": _listed(digits),
    "file": read_file,
    "texts": _plain(read_texts),
    "domain": _plain(lambda value: read_name(Domain, value)),
    "kind": _plain(read_kind),
    "precision": _plain(lambda value: read_name(Precision, value)),
    "fraction": _plain(ratio),
    "ratio": _plain(read_ratio),
    "fractions": _listed(ratio),
    "pmf": _plain(lambda value: tuple(map(ratio, items(value)))),
    "masses": _plain(read_masses),
    "floats": _listed(read_float),
    "modulus": _plain(read_modulus),
    "elements": lambda value, context: read_elements(value, context.modulus),
    "element_row": lambda value, context: read_element_row(value, context.modulus),
    "lwe_elements": _plain(lambda value: read_elements(value, LWE_MODULUS)),
    "tape": read_tape,
    "listed": _plain(read_listed),
    "noise": read_noise,
    "epsilon": _plain(read_epsilon),
    "selection": _plain(read_selection),
    "table": _plain(read_table),
    "tabulated": _plain(read_tabulated),
    "certificate": _plain(read_certificate),
    "candidates": _plain(read_candidates),
    "paper_certificate": _plain(read_paper_certificate),
    "quantised": _plain(read_quantised),
    "rotation": _plain(read_rotation),
    "weights": _plain(read_weights),
    "gains": _plain(read_gains),
    "sampling": _plain(read_sampling),
    "frame": _plain(read_frame),
    "frames": _listed(read_frame),
}


def _without_modulus(write: Callable[..., Json]) -> Writer:
    return lambda value, modulus: write(value)


def _each(write: Callable[..., Json]) -> Writer:
    return lambda value, modulus: [write(item) for item in cast(Iterable[object], value)]


WRITERS: Final[dict[str, Writer]] = {
    "nothing": lambda value, modulus: None,
    "boolean": lambda value, modulus: bool(value),
    "integer": _without_modulus(write_integer),
    "optional": _without_modulus(write_optional),
    "row": _without_modulus(write_row),
    "types": _without_modulus(lambda value: None if value is None else write_row(value)),
    "pair": _without_modulus(write_row),
    "rows": _without_modulus(write_rows),
    "word": _without_modulus(write_word),
    "words": _each(write_word),
    "wordrows": _each(lambda row: [write_word(item) for item in row]),
    "tape_word": _without_modulus(write_tape_word),
    "stream": _without_modulus(write_stream),
    "bytes": _without_modulus(write_bytes),
    "leaves": _each(write_bytes),
    "file": _without_modulus(write_file),
    "texts": _without_modulus(write_texts),
    "domain": _without_modulus(lambda domain: Domain(domain).value),
    "kind": _without_modulus(lambda kind: FrameKind(kind).name),
    "precision": _without_modulus(lambda precision: Precision(precision).value),
    "fraction": _without_modulus(write_fraction),
    "ratio": _without_modulus(write_ratio),
    "fractions": _each(write_fraction),
    "pmf": _each(write_fraction),
    "masses": _without_modulus(write_masses),
    "floats": _each(write_float),
    "modulus": _without_modulus(write_modulus),
    "elements": lambda value, modulus: write_elements(cast(Rows, value), modulus),
    "element_row": lambda value, modulus: write_elements([cast(Row, value)], modulus),
    "lwe_elements": lambda value, modulus: write_elements(cast(Rows, value), LWE_MODULUS),
    "tape": _without_modulus(write_tape),
    "listed": _without_modulus(write_addresses),
    "noise": _without_modulus(write_noise),
    "epsilon": _without_modulus(write_epsilon),
    "selection": _without_modulus(lambda made: {"index": write_integer(made.index)}),
    "table": _without_modulus(write_table),
    "tabulated": _without_modulus(write_tabulated),
    "certificate": _without_modulus(write_certificate),
    "candidates": _without_modulus(write_candidates),
    "paper_certificate": _without_modulus(write_paper_certificate),
    "quantised": _without_modulus(write_quantised),
    "rotation": _without_modulus(write_rotation),
    "weights": _without_modulus(write_weights),
    "gains": _without_modulus(write_gains),
    "sampling": _without_modulus(write_sampling),
    "frame": _without_modulus(write_frame),
    "frames": _each(write_frame),
}


def written(kind: str, value: object, modulus: int) -> Json:
    """Return a value in the form of its kind; Unwritable if it has none."""
    try:
        return WRITERS[kind](value, modulus)
    except (AttributeError, OverflowError, StopIteration, TypeError, ValueError) as error:
        raise Unwritable(f"{value!r:.80} is no {kind}: {error}") from error


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


def _own(impl: Implementation, tape: Tape) -> Tape:
    """Return the implementation's own tape with these words."""
    return impl.listed_tape(tape.words) if isinstance(tape, ListedTape) else tape


def run(impl: Implementation, operation: str, given: Json) -> Fields:
    """Return {"output": ...} or {"refusal": ...} of one case; Malformed if the case is."""
    arguments, result = SIGNATURES[operation]
    stated = fields(given, *arguments)
    modulus = read_modulus(stated.get("modulus", 2))
    with tempfile.TemporaryDirectory() if "file" in arguments.values() else nullcontext("") as folder:
        context = Context(impl, modulus, Path(folder))
        call: Callable[..., object] = impl.seeded_tape if operation == "word" else getattr(impl, operation)
        try:
            values = [READERS[kind](stated[name], context) for name, kind in arguments.items()]
            if operation == "word":
                call, *values = _own(impl, cast(Tape, values[0])).word, *values[1:]
            made = call(*values)
        except Refused as refused:
            return {"refusal": refused.reason.value}
    return {"output": written(result, made, modulus)}
