"""The plug-in protocol as data: how each kind of value is written, what each operation gives, and a schema.

`codec.py` reads and writes the values. The tables of spec/wire.md and the schema vectors/protocol.json are
made from here by `make spec`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from veil_conformance.codec import FRAME_NUMBERS, SIGNATURES, Json
from veil_spec.architecture import Precision
from veil_spec.refusals import Refusal
from veil_spec.types import Domain, FrameKind

Schema = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is written: a sentence for readers, and a schema."""

    says: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation gives, and the requirements that say how."""

    gives: str
    requirements: tuple[str, ...]


def refer(kind: str) -> Schema:
    """Return a reference to a kind's schema."""
    return {"$ref": f"#/$defs/{kind}"}


def array(items: Schema, count: int | None = None) -> Schema:
    """Return the schema of an array, of any length where none is given."""
    schema: Schema = {"type": "array", "items": items}
    return schema if count is None else schema | {"minItems": count, "maxItems": count}


def record(**fields: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(fields),
        "properties": {name: field for name, field in fields.items()},
    }


def digits(count: int) -> Schema:
    """Return the schema of so many hexadecimal digits."""
    return {"type": "string", "pattern": f"^[0-9a-f]{{{count}}}$"}


def either(*schemas: Schema) -> Schema:
    """Return the schema of what one of these admits."""
    return {"anyOf": list(schemas)}


def names(of: Iterable[str]) -> Schema:
    """Return the schema of one of these texts."""
    return {"enum": [str(name) for name in of]}


NULL: Final[Schema] = {"type": "null"}
TEXT: Final[Schema] = {"type": "string"}
BYTES: Final[Schema] = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
INTEGER: Final[Schema] = refer("integer")
FRACTION: Final[Schema] = refer("fraction")
ROW: Final[Schema] = refer("row")
WITNESS: Final[Schema] = record(token=TEXT, other=TEXT, output=TEXT)
LISTED: Final[Schema] = record(
    domain=refer("domain"), stream=refer("stream"), index=INTEGER, word=refer("tape_word")
)
ELEMENTS: Final[Schema] = record(
    shape=array({"type": "integer", "minimum": 0, "maximum": 2**53 - 1}, 2), words=BYTES
)
SHARED: Final[dict[str, Schema]] = {
    "range_distance": INTEGER,
    "bound": FRACTION,
    "exact": FRACTION,
    "worst": WITNESS,
    "epsilon_bound": TEXT,
    "epsilon_exact": TEXT,
    "adjacency": TEXT,
    "part_bits": TEXT,
    "bayes_recovery": FRACTION,
    "verbatim": array(TEXT),
    "not_covered": array(TEXT),
}
FRAME: Final[dict[str, Schema]] = {
    "kind": refer("kind"),
    "epoch": BYTES,
    **dict.fromkeys(FRAME_NUMBERS, INTEGER),
    "payload": BYTES,
}

KINDS: Final[dict[str, Kind]] = {
    "nothing": Kind("`null`", NULL),
    "boolean": Kind("`true` or `false`", {"type": "boolean"}),
    "integer": Kind(
        "an integer n, -2^53 < n < 2^53, without fraction or exponent",
        {"type": "integer", "exclusiveMinimum": -(2**53), "exclusiveMaximum": 2**53},
    ),
    "optional": Kind("an integer or `null`", either(INTEGER, NULL)),
    "row": Kind("an array of integers", array(INTEGER)),
    "types": Kind("a row or `null`", either(ROW, NULL)),
    "pair": Kind("an array of two integers", array(INTEGER, 2)),
    "rows": Kind("an array of rows: a matrix, row by row; a request's may be empty or ragged", array(ROW)),
    "word": Kind("a signed word of 64 bits: 16 digits, two's complement", digits(16)),
    "words": Kind("an array of words", array(refer("word"))),
    "wordrows": Kind("an array of arrays of words", array(refer("words"))),
    "tape_word": Kind("a word of a tape, unsigned: 16 digits", digits(16)),
    "stream": Kind(
        "a stream number: 28 digits, two's complement, so that one out of range has a form", digits(28)
    ),
    "bytes": Kind("two digits for each byte", BYTES),
    "leaves": Kind("an array of bytes", array(BYTES)),
    "file": Kind("all bytes of a file, as `bytes`; a file is handed over by content, never by path", BYTES),
    "texts": Kind("an array of strings", array(TEXT)),
    "domain": Kind("the name of a tape's domain: " + ", ".join(f"`{d}`" for d in Domain), names(Domain)),
    "kind": Kind("the name of a kind of frame, as above", names(k.name for k in FrameKind)),
    "precision": Kind("`w16a16` or `w8a16`", names(Precision)),
    "fraction": Kind(
        'a rational: `"num/den"`, decimal, of any length, in lowest terms, den at least 1; 0 is `"0/1"`',
        {"type": "string", "pattern": "^(0|-?[1-9][0-9]*)/[1-9][0-9]*$"},
    ),
    "ratio": Kind("a rational or `null`", either(FRACTION, NULL)),
    "fractions": Kind("an array of rationals", array(FRACTION)),
    "pmf": Kind("an array of rationals: the probability of each index", array(FRACTION)),
    "masses": Kind(
        "an array of the weights of a tabulated row, 18 digits each, two's complement", array(digits(18))
    ),
    "floats": Kind(
        "an array of floating-point numbers: 8 digits are the bytes of a float32, 16 those of a float64; "
        "a request has 8 where the number is a float32",
        array(either(digits(8), digits(16))),
    ),
    "modulus": Kind(
        "an integer below 2^53, or the digits of a larger one, as many bytes as it needs",
        either({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**53}, BYTES),
    ),
    "elements": Kind(
        '`{"shape": [rows, columns], "words": digits}`, row by row, each element as many bytes as the '
        "modulus of the request needs; without rows `[0, 0]`",
        ELEMENTS,
    ),
    "element_row": Kind("`elements` of one row", ELEMENTS),
    "lwe_elements": Kind("`elements` of 8 bytes, whatever the modulus", ELEMENTS),
    "tape": Kind(
        '`{"seed": bytes}`, a seeded tape, or `{"listed": listed}`, a listed one',
        either(record(seed=BYTES), record(listed=refer("listed"))),
    ),
    "listed": Kind(
        'an array of `{"domain": domain, "stream": stream, "index": integer, "word": tape_word}`',
        array(LISTED),
    ),
    "noise": Kind(
        '`{"kind": "geometric", "alpha": fraction}`, or `"two-sided"`',
        record(kind=names(["geometric", "two-sided"]), alpha=FRACTION),
    ),
    "epsilon": Kind(
        'an integer, a string (which should be a decimal) or `{"rational": fraction}`',
        either(INTEGER, TEXT, record(rational=FRACTION)),
    ),
    "selection": Kind('`{"index": integer}`', record(index=INTEGER)),
    "table": Kind(
        '`{"name": string, "parts": [{"tokens": texts, "scores": rows}, ...]}`',
        record(name=TEXT, parts=array(record(tokens=array(TEXT), scores=refer("rows")))),
    ),
    "tabulated": Kind(
        '`{"name": string, "epsilon": string, "parts": [{"tokens": texts, "scores": rows, '
        '"weights": [masses, ...]}, ...]}`',
        record(
            name=TEXT,
            epsilon=TEXT,
            parts=array(record(tokens=array(TEXT), scores=refer("rows"), weights=array(refer("masses")))),
        ),
    ),
    "certificate": Kind(
        "an object of `range_distance` (integer), `bound`, `exact`, `bayes_recovery` (rationals), "
        '`worst` (`{"token": string, "other": string, "output": string}`: x, x\' and y of ACC-R4), '
        "`epsilon_bound`, `epsilon_exact`, `part_bits`, `adjacency` (strings), `verbatim` and `not_covered` "
        "(texts)",
        record(**SHARED),
    ),
    "candidates": Kind('`{"candidates": row, "scores": row}`', record(candidates=ROW, scores=ROW)),
    "paper_certificate": Kind(
        '`{"adjacency": string, "epsilon": string, "witness": ...}`, the witness as `worst` above',
        record(adjacency=TEXT, epsilon=TEXT, witness=WITNESS),
    ),
    "quantised": Kind('`{"values": row, "exponent": integer}`', record(values=ROW, exponent=INTEGER)),
    "rotation": Kind(
        '`{"theta": fraction, "factor": fraction, "low": ratio, "high": ratio, "context": optional}`',
        record(
            theta=FRACTION,
            factor=FRACTION,
            low=refer("ratio"),
            high=refer("ratio"),
            context=refer("optional"),
        ),
    ),
    "weights": Kind(
        '`{"values": row, "mantissa": integer, "exponent": integer}`',
        record(values=ROW, mantissa=INTEGER, exponent=INTEGER),
    ),
    "gains": Kind('`{"values": row, "exponent": integer}`', record(values=ROW, exponent=INTEGER)),
    "sampling": Kind(
        '`{"temperature": fraction, "count": optional, "share": fraction}`',
        record(temperature=FRACTION, count=refer("optional"), share=FRACTION),
    ),
    "frame": Kind(
        "an object of `kind`, `epoch` (bytes), "
        + ", ".join(f"`{name}`" for name in FRAME_NUMBERS)
        + " (integers) and `payload` (bytes)",
        record(**FRAME),
    ),
    "frames": Kind("an array of frames", array(refer("frame"))),
}
"""Every kind of value that `codec.SIGNATURES` names."""


def _operation(gives: str, *requirements: str) -> Operation:
    return Operation(gives, requirements)


OPERATIONS: Final[dict[str, Operation]] = {
    "word": _operation("a word of the tape", "TAP-R1", "TAP-R2", "TAP-R5", "TAP-R7"),
    "seeded_tape": _operation("nothing, if there is such a tape", "TAP-R6"),
    "listed_tape": _operation("nothing, if there is such a tape", "TAP-R7"),
    "field_elements": _operation(
        "elements start to start + count - 1 of a stream", "TAP-R3", "TAP-R4", "TAP-R5"
    ),
    "noise": _operation("the noise, two-sided or not", "NMX-R7"),
    "sample": _operation("the noise of a candidate", "NMX-R1", "NMX-R2"),
    "select": _operation("the index of the winner", "NMX-R2", "NMX-R3", "NMX-R4", "NMX-R5", "NMX-R6"),
    "exact_pmf": _operation("the exact law of a selection", "ACC-R1", "NMX-R5", "NMX-R6"),
    "certificate": _operation(
        "the certificate of a table with a noise",
        *("NMX-R8", "ACC-R2", "ACC-R3", "ACC-R4", "ACC-R5", "ACC-R6", "ACC-R9", "ACC-R14"),
    ),
    "calibrate": _operation("alpha", "ACC-R7", "ACC-R8"),
    "direction": _operation("the direction of a vector", "NMX-R9"),
    "partition": _operation("the parts, each a row of entry numbers", "NMX-R10"),
    "part_scores": _operation("the scores of a part whose entries have these directions", "NMX-R11"),
    "tabulate": _operation("the weights of a row of scores", "NMX-R12"),
    "draw": _operation("the index that a tabulated selection draws", "NMX-R13"),
    "draw_uniformly": _operation("the index drawn from a part of this size at level 0", "NMX-R17"),
    "load_tabulated": _operation("one level of a table file; `level` 0 is the file's first", "NMX-R15"),
    "calibrate_part": _operation("alpha", "ACC-R10"),
    "tabulated_certificate": _operation(
        "the certificate of a tabulated table", "NMX-R14", "ACC-R11", "ACC-R12", "ACC-R14"
    ),
    "weighted_recovery": _operation("weighted Bayes recovery", "ACC-R13", "NMX-R14"),
    "paper_candidates": _operation("the candidates of an entry in profile `cmif-paper`", "NMX-R16"),
    "paper_certificate": _operation(
        "the certificate of profile `cmif-paper`, row x of `candidates` being the candidates of token x",
        "ACC-R15",
    ),
    "document_cost": _operation(
        "the cost for one replaced token, and for all; `exacts` are the exact figures of the tokens' parts",
        "ACC-R16",
    ),
    "divide": _operation(
        "the level of each token; `weights` are the s_i, row i of `costs` those of its levels from 1",
        *("ACC-R17", "ACC-R18"),
    ),
    "round_shift": _operation("w shifted by s", "FXP-R1"),
    "rescale": _operation("w shifted by s, within the limit", "FXP-R2"),
    "quantise": _operation("16-bit words and their exponent; `fraction` is f", "FXP-R3"),
    "exp2_digits": _operation("both tables, 256 entries each", "FXP-R4"),
    "normal_tail": _operation("the table, 3073 entries", "FXP-R14"),
    "rope": _operation("cosine and sine; `pair` is i, `head_width` h", "FXP-R8"),
    "exp2": _operation("the power", "FXP-R5"),
    "silu": _operation("the word", "FXP-R6"),
    "gelu": _operation("the word", "FXP-R15"),
    "tanh": _operation("the word", "FXP-R16"),
    "rms_norm": _operation("the normalised row", "FXP-R7"),
    "layer_norm": _operation("the normalised words", "FXP-R12"),
    "head_norm": _operation("the normalised words", "FXP-R13"),
    "attention_score": _operation("the score", "FXP-R9"),
    "softmax_average": _operation("the average of each column; row t of `values` is v_t", "FXP-R10"),
    "rotate": _operation("the rotated head", "FXP-R11"),
    "quantise_weights": _operation("the integers, M and e of a weight row", "MDL-R1", "MDL-R12"),
    "quantise_gains": _operation("the integers and f of gains or biases", "MDL-R2", "MDL-R12"),
    "greedy": _operation("the chosen index", "MDL-R10"),
    "logits": _operation(
        "a decoder's logits after each of the tokens",
        *("MDL-R3", "MDL-R4", "MDL-R5", "MDL-R6", "MDL-R7", "MDL-R8", "MDL-R9", "MDL-R11", "MDL-R13"),
    ),
    "masked_logits": _operation(
        "the same by masked inference under the epoch's seed: profile `pad` where `rank` is `null`, else "
        "profile `rank` with m = floor(`rank` times the inner dimension of the group)",
        "RMO-R8",
    ),
    "stream": _operation(
        "an encoder's last stream, a row for each position",
        *("MDL-R3", "MDL-R4", "MDL-R11", "MDL-R14", "MDL-R15", "MDL-R16", "MDL-R19"),
    ),
    "masked_stream": _operation("the same by masked inference, types 0", "RMO-R8"),
    "labels": _operation("the labels' logits", "MDL-R17", "MDL-R19"),
    "sentence": _operation("the sentence embedding of a last stream", "MDL-R18"),
    "sampling": _operation("the sampling, if it is one", "MDL-R22"),
    "sampling_weights": _operation("the weight of each logit", "MDL-R20"),
    "sample_token": _operation(
        "the token; `sample` is s, `token` is n: the number of the new token", "MDL-R21"
    ),
    "choose_modulus": _operation("p; `weights` are [outputs, inner], as everywhere", "RMO-R1", "RMO-R2"),
    "pad": _operation("the pads of a step, [rows, columns]; `tape` is that of the step", "RMO-R6", "RMO-R7"),
    "burn": _operation("nothing, if these [group, step] may be used in this order in one epoch", "RMO-R11"),
    "rank_basis": _operation("A; `rank` is m", "RMO-R10"),
    "rank_pad": _operation("the pads of profile `rank`; `basis` is A", "RMO-R6", "RMO-R9"),
    "ratchet": _operation("the seed of the next step", "RMO-R22"),
    "lwe_dimension": _operation("m", "RMO-R13"),
    "lwe_levels": _operation("b and D", "RMO-R14"),
    "halves": _operation("the matrix of all h and then of all l", "RMO-R15", "RMO-R21"),
    "lwe_basis": _operation("A; `dimension` is m", "RMO-R16"),
    "lwe_mask": _operation(
        "the masked rows; `basis` is A", "RMO-R6", "RMO-R17", "RMO-R18", "RMO-R19", "RMO-R21"
    ),
    "lwe_unmask": _operation(
        "the rows [n, outputs]; `product` is Y' [n, 2 outputs], `hint` is A W [m, 2 outputs]",
        *("RMO-R6", "RMO-R17", "RMO-R20", "RMO-R21"),
    ),
    "mask": _operation("X'", "RMO-R3", "RMO-R12"),
    "multiply": _operation("the product", "RMO-R4", "RMO-R12"),
    "unmask": _operation("the integers; `correction` is C", "RMO-R5", "RMO-R12"),
    "repetitions": _operation("k", "INT-R1"),
    "challenge": _operation("the k secret vectors, [k, outputs]", "INT-R2"),
    "check_key": _operation("the key, [k, inner]", "INT-R3"),
    "verify": _operation("nothing, if the product is accepted", "INT-R4"),
    "weight_leaf": _operation("the leaf", "INT-R5"),
    "merkle_root": _operation("the commitment", "INT-R6"),
    "encode": _operation("the frame's bytes", "WIR-R1"),
    "decode": _operation("the frame", "WIR-R1", "WIR-R2", "WIR-R3", "WIR-R4", "WIR-R5"),
    "pack": _operation("the bytes", "WIR-R6"),
    "unpack": _operation("the elements", "WIR-R6"),
    "split": _operation("the message in frames", "WIR-R7"),
    "join": _operation("the message's bytes", "WIR-R7"),
}
"""Every operation of `codec.SIGNATURES`, in the order of the areas."""


def kinds_table() -> str:
    """Return the table of spec/wire.md that says how each kind of value is written."""
    rows = [f"| {name} | {kind.says} |" for name, kind in KINDS.items()]
    return "\n".join(["| value | written as |", "|---|---|", *rows])


def operations_table() -> str:
    """Return the table of spec/wire.md with each operation's arguments and result."""
    lines = ["| operation | input | output | gives | IDs |", "|---|---|---|---|---|"]
    for name, operation in OPERATIONS.items():
        arguments, result = SIGNATURES[name]
        given = ", ".join(f"`{argument}` {kind}" for argument, kind in arguments.items()) or "none"
        cited = ", ".join(operation.requirements)
        lines.append(f"| `{name}` | {given} | {result} | {operation.gives} | {cited} |")
    return "\n".join(lines)


def refusals_list() -> str:
    """Return the names of all refusals in one line."""
    return ", ".join(f"`{reason}`" for reason in Refusal) + "."


def _definitions() -> Iterator[tuple[str, Schema]]:
    yield from ((name, kind.schema) for name, kind in KINDS.items())
    yield "refusal", names(Refusal)
    about = {
        "name": TEXT,
        "version": TEXT,
        "spec_version": TEXT,
        "operations": array(names(OPERATIONS)) | {"minItems": 1, "uniqueItems": True},
    }
    yield from _exchange("describe", {}, record(**about))
    for name in OPERATIONS:
        arguments, result = SIGNATURES[name]
        yield from _exchange(
            name, {argument: refer(kind) for argument, kind in arguments.items()}, refer(result)
        )


def _exchange(name: str, given: Mapping[str, Schema], made: Schema) -> Iterator[tuple[str, Schema]]:
    number: Schema = {"type": "integer", "minimum": 1}
    yield f"{name}.request", record(id=number, operation={"const": name}, input=record(**given))
    yield f"{name}.output", record(id=number, output=made)


def schema() -> str:
    """Return the text of vectors/protocol.json: one line for each definition."""
    defined = dict(_definitions())
    requests = [refer(name) for name in defined if name.endswith(".request")]
    outputs = [refer(name) for name in defined if name.endswith(".output")]
    refused = record(id={"type": "integer", "minimum": 1}, refusal=refer("refusal"))
    defined |= {"request": either(*requests), "response": either(refused, *outputs)}
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in defined.items())
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of the plug-in protocol of Veil",
        "anyOf": [refer("request"), refer("response")],
    }
    stated = "".join(f"  {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
    return "{\n" + stated + '  "$defs": {\n' + lines + "\n  }\n}\n"
