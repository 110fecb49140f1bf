"""The inputs of all vectors, by suite. Identifiers follow the order here: add at the end of a suite only."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Final

import veil_spec
from veil_conformance import tiny_model, tiny_table
from veil_conformance.checking import halving_word
from veil_conformance.codec import (
    Fields,
    Json,
    write_elements,
    write_float,
    write_frame,
    write_listed,
    write_masses,
    write_modulus,
    write_noise,
    write_rotation,
    write_stream,
    write_table,
    write_tabulated,
    write_word,
)
from veil_conformance.tiny_model import ENCODER, LLAMA3, PLAIN, SMALL, SWITCHED
from veil_spec import constants
from veil_spec.architecture import DecoderShape, EncoderShape, ModelShape, Precision, Rotation
from veil_spec.types import (
    Address,
    Domain,
    Frame,
    FrameKind,
    Geometric,
    Noise,
    Part,
    Quantised,
    Rows,
    Table,
    TabulatedPart,
    TabulatedTable,
    TwoSidedGeometric,
)

FLAGS: Final[dict[str, Json]] = {
    "Known": {"meaning": "An ordinary case.", "effect": "Another output means another mechanism."},
    "Edge": {"meaning": "A value at the end of its range.", "effect": "Off-by-one and overflow show here."},
    "Refusal": {"meaning": "There is no result.", "effect": "A result, or another refusal, is a failure."},
    "Unlucky": {
        "meaning": "The tape makes the long way necessary.",
        "effect": "Shortcuts and biases show here.",
    },
}
"""What a case's flags mean."""
P32, P40, P48 = constants.PRIMES
Q = constants.LWE_MODULUS
HALF, TWO_THIRDS = Fraction(1, 2), Fraction(2, 3)


OUTPUT_OF: Final = "the output of "
"""Begins what stands in an input for the output of an earlier case, whose comment follows."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input with the requirement that it tests."""

    requirement: str
    comment: str
    flag: str
    operation: str
    given: Fields


def seed(role: str) -> bytes:
    """Return a seed that no other role has."""
    return hashlib.sha256(f"veil vectors {role}".encode()).digest()


def seeded(role: str) -> Json:
    """Return the seeded tape of a role."""
    return {"seed": seed(role).hex()}


def listed(domain: Domain, streams: dict[int, Sequence[int]], start: int = 0) -> Json:
    """Return a listed tape with these words in each stream."""
    words: dict[Address, int] = {}
    for stream, content in streams.items():
        words |= {(domain, stream, start + i): word for i, word in enumerate(content)}
    return write_listed(words)


def numbers(role: str, count: int, low: int, high: int) -> list[int]:
    """Return integers in [low, high], the same in every run."""
    data = hashlib.shake_128(role.encode()).digest(8 * count)
    return [
        low + int.from_bytes(data[i : i + 8], "little") % (high - low + 1) for i in range(0, len(data), 8)
    ]


def matrix(role: str, rows: int, columns: int, low: int, high: int) -> list[list[int]]:
    """Return a matrix of integers in [low, high]."""
    flat = numbers(role, rows * columns, low, high)
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


# Tape


def word_case(requirement: str, flag: str, comment: str, domain: Domain, stream: int, index: int) -> Case:
    """Return the reading of one word of the tape `words`."""
    given: Fields = {"tape": seeded("words"), "domain": domain.value}
    return Case(requirement, comment, flag, "word", given | {"stream": write_stream(stream), "index": index})


def elements(
    flag: str, comment: str, requirement: str, tape: Json, stream: int, start: int, count: int, p: int
) -> Case:
    """Return the drawing of field elements in the domain of pads."""
    given: Fields = {"tape": tape, "domain": Domain.PAD.value, "stream": write_stream(stream)}
    given |= {"start": start, "count": count, "modulus": write_modulus(p)}
    return Case(requirement, comment, flag, "field_elements", given)


def unlucky_words(p: int, stream: int, index: int, rejections: int) -> dict[int, Sequence[int]]:
    """Return one element's words: this many rejected candidates, then 11."""
    first, *retries = [p + i for i in range(rejections)] + [11]
    return {stream: [first], stream + (index + 1) * 2**64: retries}


def unlucky(p: int, stream: int, index: int, rejections: int) -> Json:
    """Return a tape on which one element is rejected this often."""
    words: dict[Address, int] = {}
    for number, content in unlucky_words(p, stream, index, rejections).items():
        first = index if number == stream else 0
        words |= {(Domain.PAD, number, first + i): word for i, word in enumerate(content)}
    return write_listed(words)


def tape_cases() -> list[Case]:
    """Return the suite of area TAP."""
    later = (Domain.DRAW, Domain.LWE_BASIS, Domain.LWE_SECRET, Domain.LWE_NOISE, Domain.RATCHET)
    latest = (Domain.SAMPLING,)
    old = [domain for domain in Domain if domain not in later + latest]
    made = [word_case("TAP-R1", "Known", f"first word of {d.value}", d, 0, 0) for d in old]
    for stream, index in ((0, 7), (0, 8), (1, 0), (2**32, 3), (2**64 + 5, 1)):
        made.append(word_case("TAP-R2", "Known", "word inside a stream", Domain.TEST, stream, index))
    made.append(
        word_case("TAP-R2", "Edge", "last word of the last stream", Domain.TEST, 2**96 - 1, 2**35 - 1)
    )
    for p in constants.PRIMES:
        made.append(elements("Known", "elements of a seeded tape", "TAP-R3", seeded("elements"), 3, 0, 5, p))
        top = listed(Domain.PAD, {4: [p - 1, 0, 2**63 + 9]})
        made.append(elements("Edge", "p - 1, 0 and high bits", "TAP-R3", top, 4, 0, 3, p))
        for rejections in (1, 2, 3):
            comment = f"{rejections} rejections in a row"
            tape = unlucky(p, 9, 6, rejections)
            made.append(elements("Unlucky", comment, "TAP-R4", tape, 9, 6, 1, p))
    last = unlucky(P32, 2**64 - 1, 2**32 - 2, 2)
    made.append(elements("Unlucky", "last retry stream", "TAP-R4", last, 2**64 - 1, 2**32 - 2, 1, P32))
    for stream, index in ((2**96, 0), (-1, 0), (0, 2**35), (0, -1)):
        made.append(word_case("TAP-R5", "Refusal", "address outside the tape", Domain.TEST, stream, index))
    for stream, start in ((2**64, 0), (0, 2**32 - 1)):
        comment = "no retry stream"
        made.append(elements("Refusal", comment, "TAP-R5", seeded("elements"), stream, start, 1, P40))
    made += [
        Case("TAP-R6", f"{n} bytes", "Refusal", "seeded_tape", {"seed": bytes(n).hex()}) for n in (0, 31, 33)
    ]
    ends = listed(Domain.PAD, {9: [P48], 9 + 2**64: [P48 + 1]})
    made.append(elements("Refusal", "the tape ends while rejecting", "TAP-R7", ends, 9, 0, 1, P48))
    made += [word_case("TAP-R1", "Known", f"first word of {d.value}", d, 0, 0) for d in later]
    made.append(elements("Known", "elements of a seeded tape", "TAP-R3", seeded("elements"), 3, 0, 5, Q))
    top = listed(Domain.PAD, {4: [Q - 1, 0, 2**63 + 9]})
    made.append(elements("Edge", "q - 1, 0 and high bits", "TAP-R3", top, 4, 0, 3, Q))
    tape = unlucky(Q, 9, 6, 3)
    made.append(elements("Unlucky", "3 rejections in a row", "TAP-R4", tape, 9, 6, 1, Q))
    made += [word_case("TAP-R1", "Known", f"first word of {d.value}", d, 0, 0) for d in latest]
    return made + tape_edges()


def tape_edges() -> list[Case]:
    """Return ends of streams, of elements and of listed tapes."""
    nowhere, made = write_listed({}), [word_case("TAP-R5", "Refusal", "bit 104", Domain.TEST, 2**104, 0)]
    for stream, count in ((2**64, 0), (2**96, 0), (2**64, 1)):
        made.append(elements("Refusal", "no retry stream", "TAP-R5", nowhere, stream, 0, count, P32))
    for start, count in ((-1, 1), (2**32 - 2, 2), (0, 2**32)):
        made.append(elements("Refusal", "no such elements", "TAP-R5", nowhere, 0, start, count, P32))
    for start in (2**32 - 2, 2**32 - 1):
        made.append(elements("Edge", "no elements", "TAP-R5", nowhere, 0, start, 0, P32))
    short = write_listed({(Domain.TEST, 0, 3): 5})
    given: Fields = {"tape": short, "domain": Domain.TEST.value, "stream": write_stream(0), "index": 3}
    made.append(Case("TAP-R7", "a word with leading zeros", "Edge", "word", given))
    for stream, index in ((2**96, 3), (0, 2**35), (0, -1)):
        nowhere_listed = given | {"stream": write_stream(stream), "index": index}
        made.append(Case("TAP-R7", "no address of a listed tape", "Refusal", "word", nowhere_listed))
    for words in ({}, {(Domain.TEST, 0, 3): 5, (Domain.TEST, 2**66, 0): 6}):
        made.append(Case("TAP-R7", "a listed tape", "Known", "listed_tape", {"words": listed_words(words)}))
    return made


def listed_words(words: dict[Address, int]) -> Json:
    """Return the words of a listed tape."""
    tape = write_listed(words)
    assert isinstance(tape, dict)
    return tape["listed"]


# Noisy max


def sample_case(
    requirement: str,
    flag: str,
    comment: str,
    noise: Noise,
    tape: Json,
    token: int = 0,
    c: int = 0,
    d: int = 0,
) -> Case:
    """Return one noise."""
    given: Fields = {"noise": write_noise(noise), "tape": tape, "token": token, "candidate": c}
    return Case(requirement, comment, flag, "sample", given | {"document": d})


def select_case(
    requirement: str,
    flag: str,
    comment: str,
    scores: list[int],
    noise: Noise,
    tape: Json,
    token: int = 0,
    document: int = 0,
) -> Case:
    """Return one selection."""
    given: Fields = {"scores": list(scores), "noise": write_noise(noise), "tape": tape, "token": token}
    return Case(requirement, comment, flag, "select", given | {"document": document})


def noises(values: Sequence[int]) -> Json:
    """Return a tape that gives each candidate of token 0 this one-sided noise at alpha 1/2."""
    return listed(Domain.NOISE, {2 * c: [halving_word(value)] for c, value in enumerate(values)})


def noise_words(words: Sequence[int], token: int = 0) -> Json:
    """Return a tape with the words of the one-sided noise of candidate 0 of a token of document 0."""
    retry = (token + 1) * 2**64
    places = [(0, token), *((retry, index) for index in range(len(words)))]
    named = zip(places, words, strict=False)
    return write_listed({(Domain.NOISE, *place): word for place, word in named})


def noisy_max_cases() -> list[Case]:
    """Return the suite of area NMX."""
    third = 2**65 // 3
    draws: list[tuple[str, str, Fraction, list[int]]] = [
        ("Edge", "exactly one half is not below one half", HALF, [2**63]),
        ("Edge", "just below one half", HALF, [2**63 - 1]),
        ("Edge", "largest word", Fraction(65535, 65536), [2**64 - 1]),
        ("Unlucky", "the first word is zero", HALF, [0, 2**63]),
        ("Unlucky", "two words are zero", HALF, [0, 0, 5]),
        ("Unlucky", "on the threshold 2/3, above it", TWO_THIRDS, [third, 0xAAAAAAAAAAAAAAAB]),
        ("Unlucky", "on the threshold 2/3, below it", TWO_THIRDS, [third, 0xAAAAAAAAAAAAAAA9]),
        ("Unlucky", "twice on the threshold 2/3", TWO_THIRDS, [third, 0xAAAAAAAAAAAAAAAA, 3]),
        ("Refusal", "undecided at the end of the tape", TWO_THIRDS, [third]),
    ]
    made = [
        sample_case("NMX-R1", flag, comment, Geometric(alpha), noise_words(words))
        for flag, comment, alpha, words in draws
    ]
    for c in range(4):
        made.append(
            sample_case("NMX-R1", "Known", "a seeded draw", Geometric(Fraction(9, 10)), seeded("noise"), 1, c)
        )
    for token, c, d in ((0, 0, 0), (3, 7, 2), (2**32 - 2, 2**20 - 1, 2**43 - 1)):
        two = TwoSidedGeometric(Fraction(4, 5))
        made.append(sample_case("NMX-R2", "Known", "two-sided noise", two, seeded("noise"), token, c, d))
    for place in ((2**32 - 1, 0), (-1, 0), (0, 2**20), (0, -1)):
        made.append(sample_case("NMX-R2", "Refusal", "no place", Geometric(HALF), seeded("noise"), *place))
    made.append(
        select_case("NMX-R3", "Known", "noise decides", [3, 0, 2], Geometric(HALF), noises([0, 5, 2]))
    )
    for token in range(4):
        noise = TwoSidedGeometric(Fraction(7, 8))
        made.append(
            select_case("NMX-R3", "Known", "a seeded selection", [4, 0, 2, 3], noise, seeded("select"), token)
        )
    for scores, values in (([0, 0], [1, 1]), ([1, 2, 0], [2, 1, 3]), ([0, 5, 5], [0, 0, 0])):
        made.append(
            select_case("NMX-R4", "Edge", "equal noisy scores", scores, Geometric(HALF), noises(values))
        )
    made.append(select_case("NMX-R5", "Refusal", "no scores", [], Geometric(HALF), seeded("select")))
    made.append(
        Case(
            "NMX-R5",
            "no scores",
            "Refusal",
            "exact_pmf",
            {"scores": [], "noise": write_noise(Geometric(HALF))},
        )
    )
    for score in (2**20 + 1, -(2**20) - 1):
        made.append(
            select_case("NMX-R6", "Refusal", "too large", [0, score], Geometric(HALF), seeded("select"))
        )
    made.append(select_case("NMX-R6", "Edge", "limits", [-(2**20), 2**20], Geometric(HALF), noises([9, 0])))
    alphas = ("0/1", "1/1", "3/2", "-1/2", "1/65537", "1/65536", "65535/65536")
    for alpha, two_sided in product(alphas, (False, True)):
        flag = "Edge" if alpha.endswith("65536") else "Refusal"
        chosen: Fields = {"alpha": alpha, "two_sided": two_sided}
        made.append(Case("NMX-R7", "the range of alpha", flag, "noise", chosen))
    one = ((0,),)
    for comment, parts in (
        ("no token", ()),
        ("a token in two parts", (Part(("a",), one), Part(("a",), one))),
        ("a token twice in a part", (Part(("a", "a"), ((0, 0), (0, 0))),)),
        ("a short matrix", (Part(("a", "b"), ((0, 0),)),)),
        ("a ragged matrix", (Part(("a", "b"), ((0, 0), (0,))),)),
        ("a score beyond the limit", (Part(("a", "b"), ((0, 0), (0, 2**20 + 1))),)),
    ):
        made.append(certificate_case("NMX-R8", "Refusal", comment, Table("bad", parts), Geometric(HALF)))
    words = noise_words([0, 2**64 - 1], 9)
    made.append(sample_case("NMX-R1", "Unlucky", "the retry stream of token 9", Geometric(HALF), words, 9))
    for d in (2**43, -1):
        made.append(sample_case("NMX-R2", "Refusal", "no place", Geometric(HALF), seeded("noise"), 0, 0, d))
    later = [*building_cases(), *tabulated_cases(), *table_file_cases(), *paper_cases(), *draw_edges()]
    return made + later


def draw_edges() -> list[Case]:
    """Return a single candidate, and draws next to a power of alpha."""
    geometric, made = Geometric(TWO_THIRDS), list[Case]()
    made.append(select_case("NMX-R3", "Edge", "one candidate", [-7], geometric, noise_words([2**63])))
    below = "below a power of alpha, where powers that are rounded down at each step are not"
    for alpha, word in ((TWO_THIRDS, 0x71C71C71C71C71C6), (Fraction(9, 10), 0xBA9FBE76C8B43957)):
        made.append(sample_case("NMX-R1", "Unlucky", below, Geometric(alpha), noise_words([word])))
    for flag, word in (
        ("Refusal", 0x71C71C71C71C71C7),
        ("Unlucky", 0x71C71C71C71C71C8),
        ("Unlucky", 0x0013B563C2478B71),
        ("Refusal", 0x0013B563C2478B72),
        ("Unlucky", 0x0013B563C2478B73),
    ):
        made.append(sample_case("NMX-R1", flag, "next to a power of 2/3", geometric, noise_words([word])))
    return made


def building_cases() -> list[Case]:
    """Return directions, parts and scores."""
    vectors: list[tuple[str, list[float]]] = [
        ("Known", [3.0, 4.0]),
        ("Known", [-3.0, 0.5, 4.0]),
        ("Known", [float(n) for n in numbers("vector", 12, -1000, 1000)]),
        ("Edge", [0.0, -0.0]),
        ("Edge", [2.0**-149, -(2.0**-149)]),
        ("Edge", [1.0, 2.0**-149]),
        ("Edge", [(2.0 - 2.0**-23) * 2.0**127] * 3),
        ("Refusal", [1.0, math.inf]),
        ("Refusal", [math.nan]),
    ]
    made = []
    for flag, vector in vectors:
        vector_given: Fields = {"vector": [write_float(value) for value in vector]}
        made.append(Case("NMX-R9", "a direction", flag, "direction", vector_given))
    drawn = matrix("directions", 11, 3, -2000, 2000)
    partitions: list[tuple[str, str, list[list[int]], int]] = [
        ("Known", "parts of three", drawn, 3),
        ("Known", "parts of one", drawn[:4], 1),
        ("Edge", "equal similarities", [[1]] * 7, 3),
        ("Edge", "fewer entries than a part has", drawn[:3], 512),
        ("Refusal", "no part size", drawn, 0),
        ("Refusal", "a part size beyond the limit", drawn, 513),
    ]
    for flag, comment, rows, size in partitions:
        given: Fields = {"directions": rows_json(rows), "part_size": size}
        made.append(Case("NMX-R10", comment, flag, "partition", given))
    scored: list[tuple[str, str, list[list[int]]]] = [
        ("Known", "scores of a part", drawn[:5]),
        ("Edge", "halves go up", [[0, 0, 0], [1, 0, 0], [2, 1, 1]]),
        ("Edge", "one similarity", [[3, 4], [3, 4]]),
    ]
    for flag, comment, rows in scored:
        made.append(Case("NMX-R11", comment, flag, "part_scores", {"directions": rows_json(rows)}))
    return made


def draw_case(flag: str, comment: str, weights: list[int], tape: Json, token: int = 0, d: int = 0) -> Case:
    """Return one tabulated selection."""
    given: Fields = {"weights": write_masses(weights), "tape": tape, "token": token, "document": d}
    return Case("NMX-R13", comment, flag, "draw", given)


def uniform_case(flag: str, size: int, tape: Json, token: int = 0, document: int = 0) -> Case:
    """Return one uniform selection."""
    given: Fields = {"size": size, "tape": tape, "token": token, "document": document}
    return Case("NMX-R17", "a uniform selection", flag, "draw_uniformly", given)


def tabulated_cases() -> list[Case]:
    """Return weights, draws from them, and tables that are none."""
    rows: list[tuple[str, list[int], Noise]] = [
        ("Known", [0, 2, 1], TwoSidedGeometric(TWO_THIRDS)),
        ("Known", [0, 2, 1], Geometric(TWO_THIRDS)),
        ("Known", [3, 3, 0, 5, 1], Geometric(Fraction(60000, 65536))),
        ("Edge", [7], Geometric(HALF)),
        ("Edge", [0, 9, 0, 0], TwoSidedGeometric(Fraction(1, 65536))),
        ("Edge", [0, 4], Geometric(Fraction(1, 65536))),
    ]
    made = []
    for flag, scores, noise in rows:
        given: Fields = {"scores": list(scores), "noise": write_noise(noise)}
        made.append(Case("NMX-R12", "weights", flag, "tabulate", given))
    ends = [5, 2**64 - 7, 2]
    for word in (0, 4, 5, 2**64 - 3, 2**64 - 2, 2**64 - 1):
        made.append(draw_case("Edge", "the end of an index", ends, listed(Domain.DRAW, {0: [word]})))
    made.append(draw_case("Edge", "one token", [2**64], seeded("draw")))
    for token, d in ((0, 0), (1, 0), (0, 1), (2**32 - 2, 2**43 - 1)):
        made.append(draw_case("Known", "a seeded draw", [2**62] * 4, seeded("draw"), token, d))
        made.append(uniform_case("Known", 20, seeded("draw"), token, d))
    for token, d in ((2**32 - 1, 0), (-1, 0), (0, 2**43), (0, -1)):
        made.append(draw_case("Refusal", "no place", [2**62] * 4, seeded("draw"), token, d))
    for word in (0, 2**64 // 3, 2**64 // 3 + 1, 2**64 - 1):
        made.append(uniform_case("Edge", 3, listed(Domain.DRAW, {0: [word]})))
    for comment, weights in (
        ("a weight of 0", ((2**64, 0), (2**63, 2**63))),
        ("a negative weight", ((2**63, 2**63), (2**64 + 1, -1))),
        ("a sum too small by one", ((2**63, 2**63), (2**63, 2**63 - 1))),
        ("a sum too large by one", ((2**63, 2**63 + 1), (2**63, 2**63))),
        ("a row is missing", ((2**63, 2**63),)),
    ):
        table = TabulatedTable("bad", "1", (TabulatedPart(("a", "b"), ((0, 0), (0, 0)), weights),))
        made.append(tabulated_certificate_case("NMX-R14", "Refusal", comment, table))
    return made


def tabulated_table(epsilon: str, first: int = 2**62) -> TabulatedTable:
    """Return a part of three, a part of two and a verbatim token."""
    third = TabulatedPart(
        ("a", "b", "c"), ((4, 1, 0), (1, 4, 2), (0, 3, 4)), ((2**63, first, 2**63 - first),) * 3
    )
    pair = ((3 * 2**62, 2**62), (2**62, 3 * 2**62))
    two = TabulatedPart(("d", "e"), ((3, 0), (2, 3)), pair)
    return TabulatedTable("tabulated", epsilon, (third, two, TabulatedPart(("f",), ((7,),), ((2**64,),))))


def table_file_cases() -> list[Case]:
    """Return table files, right and wrong."""
    levels = [tabulated_table("1.5"), tabulated_table("2", 1)]
    stated, tensors = tiny_table.metadata(levels), tiny_table.tensors(levels)
    weights = tensors["weights"]
    wrong = replace(weights, values=(weights.values[0] + 1, *weights.values[1:]))
    whole = tiny_model.file_bytes(stated, tensors)
    files: list[tuple[str, str, bytes, int]] = [
        ("Known", "the first level", whole, 0),
        ("Known", "the second level", whole, 1),
        ("Refusal", "cut", whole[:-1], 0),
        ("Refusal", "another version", tiny_model.file_bytes(stated | {"spec_version": "0.1.0"}, tensors), 0),
        ("Refusal", "no epsilon", tiny_model.file_bytes(stated | {"epsilon": ["0", "1"]}, tensors), 0),
        ("Refusal", "a falling epsilon", tiny_model.file_bytes(stated | {"epsilon": ["2", "1"]}, tensors), 0),
        ("Refusal", "a row that is no law", tiny_model.file_bytes(stated, tensors | {"weights": wrong}), 1),
    ]
    return [
        Case("NMX-R15", comment, flag, "load_tabulated", {"file": data.hex(), "level": level})
        for flag, comment, data, level in files
    ]


def paper_cases() -> list[Case]:
    """Return the candidates of profile `cmif-paper`."""
    drawn = matrix("paper", 6, 3, -2000, 2000)
    tied = [[4096, 0], [0, 4096], [0, 0], [4096, 0], [-4096, 0]]
    chosen: list[tuple[str, str, list[list[int]], int, int]] = [
        ("Known", "nearest entries", drawn, 0, 3),
        ("Known", "all others", drawn, 5, 5),
        ("Edge", "equal similarities", tied, 0, 4),
        ("Refusal", "no candidate", drawn, 0, 0),
        ("Refusal", "more candidates than others", drawn, 0, 6),
    ]
    return [
        Case(
            "NMX-R16",
            comment,
            flag,
            "paper_candidates",
            {"directions": rows_json(rows), "entry": entry, "count": count},
        )
        for flag, comment, rows, entry, count in chosen
    ]


# Accounting


def certificate_case(requirement: str, flag: str, comment: str, table: Table, noise: Noise) -> Case:
    """Return one certificate."""
    return Case(
        requirement, comment, flag, "certificate", {"table": write_table(table), "noise": write_noise(noise)}
    )


def tabulated_certificate_case(requirement: str, flag: str, comment: str, table: TabulatedTable) -> Case:
    """Return one certificate of weights."""
    given: Fields = {"table": write_tabulated(table)}
    return Case(requirement, comment, flag, "tabulated_certificate", given)


def toy_table() -> Table:
    """Return the toy table beside the constants."""
    text = Path(veil_spec.__file__).with_name("toy_table.json").read_text("utf-8")
    stated = json.loads(text)
    parts = [Part(tuple(part["tokens"]), tuple(map(tuple, part["scores"]))) for part in stated["parts"]]
    return Table(stated["name"], tuple(parts))


def accounting_cases() -> list[Case]:
    """Return the suite of area ACC."""
    made = []
    laws: list[tuple[list[int], Fraction]] = [
        ([0, 2, 1], TWO_THIRDS),
        ([0, 0], HALF),
        ([5], HALF),
        ([1, 0, 1, 0], Fraction(1, 65536)),
        ([-3, 4], Fraction(9, 10)),
    ]
    for scores, alpha in laws:
        for noise in (Geometric(alpha), TwoSidedGeometric(alpha)):
            given: Fields = {"scores": list(scores), "noise": write_noise(noise)}
            made.append(Case("ACC-R1", "an exact law", "Known", "exact_pmf", given))
    small = Table(
        "small",
        (Part(("a", "b", "c"), ((4, 1, 0), (1, 4, 2), (0, 3, 4))), Part(("d", "e"), ((3, 0), (2, 3)))),
    )
    single = Table("single", (Part(("a",), ((7,),)),))
    asymmetric = Table(
        "asymmetric", (Part(("a", "b"), ((0, 3), (-2, 0))), Part(("c", "d"), ((1, 0), (0, 1))))
    )
    toy = toy_table()
    for requirement, table, noise in (
        ("ACC-R2", small, Geometric(HALF)),
        ("ACC-R2", asymmetric, TwoSidedGeometric(HALF)),
        ("ACC-R3", small, TwoSidedGeometric(TWO_THIRDS)),
        ("ACC-R4", small, Geometric(TWO_THIRDS)),
        ("ACC-R4", asymmetric, Geometric(Fraction(3, 5))),
        ("ACC-R5", single, Geometric(HALF)),
        ("ACC-R5", small, Geometric(Fraction(60000, 65536))),
        ("ACC-R6", toy, Geometric(Fraction(9, 10))),
        ("ACC-R6", toy, TwoSidedGeometric(Fraction(9, 10))),
        ("ACC-R9", asymmetric, Geometric(HALF)),
    ):
        flag = "Edge" if table is single else "Known"
        made.append(certificate_case(requirement, flag, f"table {table.name}", table, noise))
    good: list[tuple[Json, int]] = [
        (1, 1),
        ("1", 3),
        ("0.5", 7),
        (8, 20),
        (64, 1),
        ({"rational": "1/3"}, 2),
        ("1", 0),
    ]
    bad: list[Json] = [
        0,
        -1,
        65,
        "0",
        "-1",
        "abc",
        "nan",
        "inf",
        "1e3",
        "",
        "1.",
        ".5",
        "+1",
        {"rational": "6401/100"},
    ]
    for epsilon, distance in good:
        made.append(
            Case(
                "ACC-R7",
                "calibration",
                "Known",
                "calibrate",
                {"epsilon": epsilon, "range_distance": distance},
            )
        )
    made.append(
        Case(
            "ACC-R7",
            "no alpha is small enough",
            "Refusal",
            "calibrate",
            {"epsilon": "0.000001", "range_distance": 1},
        )
    )
    for epsilon in bad:
        made.append(
            Case("ACC-R8", "no epsilon", "Refusal", "calibrate", {"epsilon": epsilon, "range_distance": 2})
        )
    return [*made, *part_cases(), *claim_cases(), *paper_certificate_cases(), *budget_cases()]


def part_cases() -> list[Case]:
    """Return calibrations of parts."""
    rows = [[4, 1, 0], [1, 4, 2], [0, 3, 4]]
    chosen: list[tuple[str, str, Json, list[list[int]], bool]] = [
        ("Known", "two-sided noise", "1", rows, True),
        ("Known", "one-sided noise", "1", rows, False),
        ("Known", "a claim of eight", 8, rows, False),
        ("Known", "a rational claim", {"rational": "1/3"}, [[3, 0], [2, 3]], True),
        ("Edge", "weights of 1 meet the claim", "45", [[9, 0], [0, 9]], False),
        ("Edge", "equal rows", "0.001", [[1, 0], [1, 0]], True),
        ("Refusal", "no alpha is small enough", "0.00001", rows, False),
        ("Refusal", "no epsilon", "1e3", rows, False),
    ]
    return [
        Case(
            "ACC-R10",
            comment,
            flag,
            "calibrate_part",
            {"epsilon": epsilon, "scores": rows_json(scores), "two_sided": two_sided},
        )
        for flag, comment, epsilon, scores, two_sided in chosen
    ]


def claim_cases() -> list[Case]:
    """Return certificates of weights, and recoveries from them."""
    uneven = tabulated_table("1.2")
    equal, alone = replace(uneven, parts=uneven.parts[:1]), replace(uneven, parts=uneven.parts[2:])
    made = [
        tabulated_certificate_case("ACC-R11", "Known", "two parts and a verbatim token", uneven),
        tabulated_certificate_case("ACC-R11", "Edge", "equal rows", equal),
        tabulated_certificate_case("ACC-R12", "Known", "a claim that is met", tabulated_table("1.098613", 1)),
        tabulated_certificate_case(
            "ACC-R12", "Refusal", "a claim just below ln 3", tabulated_table("1.098612")
        ),
        tabulated_certificate_case("ACC-R14", "Edge", "one verbatim token", alone),
        tabulated_certificate_case("ACC-R14", "Known", "no verbatim token", equal),
    ]
    counts: list[tuple[str, list[int]]] = [
        ("Known", [1] * 6),
        ("Known", [5, 0, 2, 3, 1, 9]),
        ("Edge", [0, 0, 0, 0, 0, 1]),
        ("Refusal", [0] * 6),
        ("Refusal", [1] * 5),
        ("Refusal", [1, 1, 1, 1, 1, -1]),
    ]
    for flag, chosen in counts:
        given: Fields = {"table": write_tabulated(uneven), "counts": list(chosen)}
        made.append(Case("ACC-R13", "recovery by counts", flag, "weighted_recovery", given))
    return made


def paper_certificate_cases() -> list[Case]:
    """Return certificates of profile `cmif-paper`."""
    made = []
    for candidates in ([[1], [0]], [[2, 1], [2, 0], [0, 1]], [[2], [2], [0]]):
        given: Fields = {"tokens": [*"xyz"[: len(candidates)]], "candidates": rows_json(candidates)}
        made.append(Case("ACC-R15", "no epsilon", "Known", "paper_certificate", given))
    return made


def divide_case(flag: str, comment: str, budget: int, weights: list[int], costs: list[list[int]]) -> Case:
    """Return one division of a budget; what is refused belongs to ACC-R18."""
    given: Fields = {"budget": write_word(budget), "weights": [write_word(weight) for weight in weights]}
    given |= {"costs": [[write_word(cost) for cost in rising] for rising in costs]}
    return Case("ACC-R18" if flag == "Refusal" else "ACC-R17", comment, flag, "divide", given)


def budget_cases() -> list[Case]:
    """Return costs of documents and divisions of budgets."""
    made = []
    for flag, exacts in (
        ("Edge", []),
        ("Edge", ["1/1", "1/1"]),
        ("Edge", ["18446744073709551617/18446744073709551616"] * 3),
        ("Known", ["2/1", "10/1", "1/1"]),
        ("Known", ["5/2"] * 4),
    ):
        listed_exacts: list[Json] = [*exacts]
        given: Fields = {"exacts": listed_exacts}
        made.append(Case("ACC-R16", "the cost of a document", flag, "document_cost", given))
    most, rising = 2**63 - 1, [300, 500, 1000]
    return [
        *made,
        divide_case("Known", "even weights", 2400, [1, 1, 1, 1], [rising, rising, [601], [600]]),
        divide_case("Known", "uneven weights", 3000, [1, 0, 2], [rising, [0, 1], rising]),
        divide_case("Edge", "the share is rounded down", 899, [1, 1, 1], [rising] * 3),
        divide_case("Edge", "a cost of nothing", 0, [1, 0], [[0, 1], [0, 1]]),
        divide_case("Edge", "no token", 5, [], []),
        divide_case("Edge", "no weight", 5, [0, 0], [[1], [0]]),
        divide_case("Edge", "largest numbers", most, [most] * 3, [[most // 3, most // 3 + 1]] * 3),
        divide_case("Refusal", "a negative budget", -1, [1], [[1]]),
        divide_case("Refusal", "a negative weight", 1, [-1], [[1]]),
        divide_case("Edge", "costs that stay", 1, [1], [[1, 1]]),
        divide_case("Refusal", "costs that fall", 1, [1], [[2, 1]]),
        divide_case("Refusal", "a weight without costs", 1, [1, 1], [[1]]),
    ]


# Fixed point


def quantised(role: str, width: int, exponent: int) -> Fields:
    """Return a quantised row."""
    row = Quantised(tuple(numbers(role, width, -32767, 32767)), exponent)
    return {"values": list(row.values), "exponent": row.exponent}


def fixed_point_cases() -> list[Case]:
    """Return the suite of area FXP, but for the tables, which rope and exp2 show."""
    made = []
    for value, shift in (
        (3, 1),
        (-3, 1),
        (5, 0),
        (-(2**62), 62),
        (2**62, 62),
        (2**61, 62),
        (-1, 62),
        (123456789, 13),
    ):
        given: Fields = {"value": write_word(value), "shift": shift}
        made.append(Case("FXP-R1", "halves go up", "Edge" if shift == 62 else "Known", "round_shift", given))
    rescales = [
        (2**16, 1, 32767),
        (-(2**16), 1, 32767),
        (1, -30, 2**30 - 1),
        (-7, -4, 32767),
        (2**61, 90, 32767),
    ]
    for value, shift, limit in [*rescales, (2**62, 62, 32767), (0, -99, 32767), (5, 0, 3)]:
        given = {"value": write_word(value), "shift": shift, "limit": limit}
        made.append(Case("FXP-R2", "rounding and saturation", "Edge", "rescale", given))
    rows = [[0, 0], [1], [2**20 - 1, -1], [-(2**20), 2**19], [2**62, -(2**62), 3], [32767, -32768], [32768]]
    for row in rows:
        given = {"row": [write_word(word) for word in row], "fraction": 18}
        made.append(Case("FXP-R3", "sixteen bits", "Edge", "quantise", given))
    for i in (0, 1, 128, 255):
        made.append(Case("FXP-R4", "a coarse entry", "Known", "exp2", {"exponent": -256 * i}))
        made.append(Case("FXP-R4", "a fine entry", "Known", "exp2", {"exponent": -i}))
    for exponent in (0, -65535, -65536, -65536 * 30 - 300, -65536 * 32, -65536 * 32 - 1, -(2**41), -123457):
        made.append(Case("FXP-R5", "powers of two", "Edge", "exp2", {"exponent": exponent}))
    for value in (0, 1, -1, 2**18, -(2**18), 2**30 - 1, -(2**30) + 1, 987654, -987654, -(2**22)):
        made.append(Case("FXP-R6", "SiLU", "Known", "silu", {"value": value}))
    norms: list[tuple[str, list[int], Fraction]] = [
        ("zeros", [0, 0, 0], Fraction(1, 100_000)),
        ("one small word", [1, 0, 0], Fraction(1, 2**40)),
        ("largest words", [2**46 - 1, -(2**46) + 1, 2**46 - 1], Fraction(1, 2**16)),
        ("ordinary", numbers("norm", 3, -(2**26), 2**26), Fraction(1, 100_000)),
    ]
    for comment, row, epsilon in norms:
        gains = numbers(f"gains {comment}", 3, -(2**24) + 1, 2**24 - 1)
        given = {
            "row": list(row),
            "gains": list(gains),
            "gain_exponent": 22,
            "epsilon": f"1/{epsilon.denominator}",
        }
        made.append(Case("FXP-R7", comment, "Known", "rms_norm", given))
    for position, pair, width in (
        (0, 0, 2),
        (1, 0, 4),
        (1, 1, 4),
        (100, 3, 8),
        (2**14 - 1, 0, 2),
        (511, 31, 64),
    ):
        given = {"position": position, "pair": pair, "head_width": width}
        given |= {"rotation": write_rotation(PLAIN)}
        made.append(Case("FXP-R8", "cosine and sine", "Known", "rope", given))
    for n, (width, first, second) in enumerate(
        ((2, 14, 14), (4, 20, 9), (64, 12, 13), (8, -20, 0), (8, 60, 40))
    ):
        given = {"query": quantised(f"q{n}", width, first), "key": quantised(f"k{n}", width, second)}
        made.append(Case("FXP-R9", "attention score", "Known", "attention_score", given))
    averages = [
        ([5, 5, 5], [[9], [0], [3]]),
        ([0, -(2**40)], [[7, -7], [2**30 - 1, 1]]),
        ([0, -70000, 300], matrix("values", 3, 2, -(2**20), 2**20)),
    ]
    for scores, values in averages:
        made.append(
            Case(
                "FXP-R10",
                "softmax average",
                "Known",
                "softmax_average",
                {"scores": list(scores), "values": rows_json(values)},
            )
        )
    for n, (width, position) in enumerate(((4, 0), (4, 1), (8, 77), (2, 2**14 - 1))):
        given = {
            "row": list(numbers(f"rotate {n}", width, -(2**30) + 1, 2**30 - 1)),
            "position": position,
            "rotation": write_rotation(PLAIN),
        }
        made.append(Case("FXP-R11", "rotation", "Known", "rotate", given))
    return [*made, *rotation_cases(), *norm_cases(), *activation_cases()]


def rotation_cases() -> list[Case]:
    """Return RoPE entries with a factor, for all waves and for long ones."""
    made = []
    slowed = Rotation(Fraction(10_000), Fraction(4))
    llama3 = Rotation(Fraction(500_000), Fraction(8), Fraction(1), Fraction(4), 8192)
    for rotation, pair, width in (
        (slowed, 1, 4),
        *((LLAMA3, pair, 6) for pair in range(3)),
        (llama3, 20, 64),
    ):
        for position in (1, 2**14, 2**17 - 1):
            given: Fields = {"position": position, "pair": pair, "head_width": width}
            given |= {"rotation": write_rotation(rotation)}
            made.append(Case("FXP-R8", "a slower rotation", "Known", "rope", given))
    given = {"row": list(numbers("rotate 6", 6, -(2**30) + 1, 2**30 - 1)), "position": 2**17 - 1}
    given |= {"rotation": write_rotation(LLAMA3)}
    return [*made, Case("FXP-R11", "rotation", "Known", "rotate", given)]


def norm_cases() -> list[Case]:
    """Return norms that centre their row, and norms of heads."""
    made = []
    most = 2**46 - 1
    chosen: list[tuple[str, list[int], int, int]] = [
        ("equal words", [5, 5, 5], 23, 20),
        ("one small word", [1, 0, 0], 22, 22),
        ("largest words", [most, -most, most], 20, 24),
        ("saturation", [most, -most, 0], -20, -9),
        ("ordinary", numbers("centred", 3, -(2**26), 2**26), 23, 23),
        ("one word", [77], 23, 19),
        ("a common part", [word + 2**40 for word in numbers("part", 5, -(2**20), 2**20)], 23, 23),
    ]
    for comment, row, exponent, bias_exponent in chosen:
        for epsilon in ("1/1000000000000", "1/100000"):
            gains, biases = (
                numbers(f"{n} {comment}", len(row), -(2**24), 2**24) for n in ("gains", "biases")
            )
            given: Fields = {"row": [*row], "gains": [*gains], "gain_exponent": exponent, "biases": [*biases]}
            given |= {"bias_exponent": bias_exponent, "epsilon": epsilon}
            made.append(Case("FXP-R12", comment, "Known", "layer_norm", given))
    heads: list[tuple[str, list[int], int]] = [
        ("zeros", [0, 0], 23),
        ("one small word", [1, 0, 0, 0], 22),
        ("largest words", [2**30 - 1, 1 - 2**30], 23),
        ("saturation", [2**30 - 1, 1, 0], 2),
        ("ordinary", numbers("head", 6, -(2**20), 2**20), 23),
    ]
    for comment, row, exponent in heads:
        gains = numbers(f"head gains {comment}", len(row), -(2**24), 2**24)
        given = {"row": [*row], "gains": [*gains], "gain_exponent": exponent, "epsilon": "1/1000000"}
        made.append(Case("FXP-R13", comment, "Known", "head_norm", given))
    return made


def activation_cases() -> list[Case]:
    """Return the table of the normal distribution, GELU and tanh."""
    made, edge = [], 6 * 2**18
    for i in (1, 100, 511, 1024, 2047, 3071):
        made.append(Case("FXP-R14", "an entry", "Known", "gelu", {"value": -512 * i}))
    for value in (
        0,
        1,
        -1,
        511,
        -512,
        2**18,
        -(2**18),
        edge - 1,
        1 - edge,
        edge,
        -edge,
        -(2**30) + 1,
        987654,
    ):
        made.append(Case("FXP-R15", "GELU", "Known", "gelu", {"value": value}))
    for value in (0, 1, -1, 2**18, -(2**18), 2**22, -(2**22), 2**30 - 1, -(2**30) + 1, 12345, -987654):
        made.append(Case("FXP-R16", "tanh", "Known", "tanh", {"value": value}))
    return made


# Model


def floats_case(
    requirement: str,
    flag: str,
    operation: str,
    comment: str,
    values: Sequence[float],
    precision: Precision = Precision.W16A16,
) -> Case:
    """Return a quantisation of float32 values."""
    written: list[Json] = [write_float(value) for value in values]
    if operation == "quantise_gains":
        return Case(requirement, comment, flag, operation, {"gains": written})
    given: Fields = {"weights": written, "precision": precision.value}
    return Case(requirement, comment, flag, operation, given)


TINY: Final = replace(
    SMALL, vocabulary=4, width=3, inner=2, layers=1, heads=2, kv_heads=1, head_width=2, context=4
)
"""Small enough to print."""


def model_bytes(shape: ModelShape, role: str, precision: Precision = Precision.W16A16) -> bytes:
    """Return the file of a tiny model."""
    return tiny_model.model_bytes(shape, tiny_model.tensors(shape, seed(role), precision), precision)


def model_case(
    requirement: str,
    flag: str,
    comment: str,
    shape: DecoderShape,
    tokens: list[int],
    role: str,
    precision: Precision = Precision.W16A16,
) -> Case:
    """Return the logits of a tiny model."""
    data = model_bytes(shape, role, precision)
    return Case(requirement, comment, flag, "logits", {"model": data.hex(), "tokens": list(tokens)})


def model_cases() -> list[Case]:
    """Return the suite of area MDL."""
    made = []
    largest, smallest = 3.4028234663852886e38, 2.0**-149
    rows = [
        ("zeros", [0.0, -0.0]),
        ("one", [1.0, 0.5, -0.25]),
        ("a tie", [-32639.0, 1.5, 0.5, 2.5]),
        ("largest", [largest, 1.0]),
        ("smallest", [smallest, 0.0]),
        ("ordinary", [0.0625, -0.71875, 0.33203125]),
    ]
    for comment, values in rows:
        made.append(floats_case("MDL-R1", "Known", "quantise_weights", comment, values))
        made.append(floats_case("MDL-R2", "Known", "quantise_gains", comment, values))
    for bad in (float("inf"), float("nan")):
        made.append(floats_case("MDL-R12", "Refusal", "quantise_weights", "not finite", [1.0, bad]))
        made.append(floats_case("MDL-R12", "Refusal", "quantise_gains", "not finite", [bad]))
    untied = replace(TINY, tied=False)
    made.append(model_case("MDL-R3", "Known", "a tied head", TINY, [1], "tied"))
    made.append(model_case("MDL-R3", "Known", "a head of its own", untied, [1], "untied"))
    parts = tiny_model.metadata(TINY), tiny_model.tensors(TINY, seed("files"))
    whole, old = (
        tiny_model.file_bytes(*parts),
        tiny_model.file_bytes(tiny_model.metadata(TINY, "0.0.9"), parts[1]),
    )
    short = tiny_model.file_bytes(parts[0], {k: v for k, v in parts[1].items() if k != "final_norm.gains"})
    for comment, data in (
        ("cut", whole[:-1]),
        ("empty", b""),
        ("version", old),
        ("a tensor is missing", short),
    ):
        made.append(Case("MDL-R4", comment, "Refusal", "logits", {"model": data.hex(), "tokens": [1]}))
    for requirement, role, tokens in (
        ("MDL-R5", "linear", [2]),
        ("MDL-R6", "embedding", [0]),
        ("MDL-R7", "attention", [0, 1, 2, 3]),
        ("MDL-R8", "mlp", [3]),
        ("MDL-R9", "step", [3, 1, 1]),
    ):
        made.append(model_case(requirement, "Known", "logits of a tiny model", TINY, tokens, role))
    grouped = replace(TINY, layers=2, heads=4, kv_heads=2, tied=False)
    made.append(model_case("MDL-R7", "Known", "shared heads, two layers", grouped, [2, 2, 0], "grouped"))
    made.append(model_case("MDL-R6", "Refusal", "token outside the vocabulary", TINY, [4], "embedding"))
    made.append(model_case("MDL-R13", "Refusal", "beyond the context", TINY, [1] * 5, "step"))
    for name, value in (("final_norm.gains", 2**24 + 1), ("layers.0.o.mantissa", 2**14 - 1)):
        tensor = parts[1][name]
        broken = parts[1] | {name: replace(tensor, values=(value, *tensor.values[1:]))}
        given: Fields = {"model": tiny_model.file_bytes(parts[0], broken).hex(), "tokens": [1]}
        made.append(Case("MDL-R11", f"{name} out of range", "Refusal", "logits", given))
    for row in ([1, 2, 2], [3, 3], [-5], [-(2**30), 2**30 - 1, 0]):
        made.append(Case("MDL-R10", "greedy choice", "Edge", "greedy", {"row": list(row)}))
    return [*made, *family_cases(), *encoder_cases(), *sampling_cases()]


BARE: Final = replace(
    SWITCHED, vocabulary=4, width=3, inner=2, layers=1, heads=2, head_width=2, context=4, window=2
)
"""Every switch, small enough to print."""
PRINTED: Final = replace(
    ENCODER, vocabulary=4, width=4, inner=3, layers=1, heads=2, context=3, types=2, labels=2
)
"""An encoder small enough to print."""


def family_cases() -> list[Case]:
    """Return short weights, and decoders with each switch."""
    made, short = [], Precision.W8A16
    rows = [
        ("zeros", [0.0]),
        ("a tie", [-127.0, 1.5, 0.5, 2.5]),
        ("ordinary", [0.0625, -0.71875, 0.33203125]),
    ]
    for comment, values in rows:
        made.append(floats_case("MDL-R1", "Known", "quantise_weights", comment, values, short))
    made.append(floats_case("MDL-R12", "Refusal", "quantise_weights", "not finite", [float("inf")], short))
    wide = replace(TINY, layers=1, context=4)
    for requirement, comment, shape in (
        ("MDL-R5", "biases", replace(wide, qkv_biased=True, o_biased=True, mlp_biased=True)),
        ("MDL-R7", "norms of heads", replace(wide, head_norms=True)),
        ("MDL-R7", "a window of 3 and a slower rotation", replace(wide, window=3, rotation=LLAMA3)),
        ("MDL-R9", "every switch", BARE),
    ):
        made.append(model_case(requirement, "Known", comment, shape, [3, 0, 1, 2], "switches"))
    made.append(model_case("MDL-R3", "Known", "short weights", BARE, [1, 2], "short", short))
    long = tiny_model.model_bytes(TINY, tiny_model.tensors(TINY, seed("files")), short)
    minus = tiny_model.tensors(TINY, seed("files"), short)
    least = minus["layers.0.o.weights"]
    minus["layers.0.o.weights"] = replace(least, values=(-128, *least.values[1:]))
    for requirement, comment, data in (
        ("MDL-R4", "long weights called short", long),
        ("MDL-R11", "a short weight of -128", tiny_model.model_bytes(TINY, minus, short)),
    ):
        made.append(Case(requirement, comment, "Refusal", "logits", {"model": data.hex(), "tokens": [1]}))
    return made


def encoder_case(
    requirement: str,
    flag: str,
    comment: str,
    operation: str,
    tokens: list[int],
    types: list[int] | None,
    shape: EncoderShape = PRINTED,
) -> Case:
    """Return the last stream or the labels of a tiny encoder."""
    given: Fields = {"model": model_bytes(shape, "encoder").hex(), "tokens": [*tokens]}
    stated: Json = None if types is None else [*types]
    return Case(requirement, comment, flag, operation, given | {"types": stated})


def encoder_cases() -> list[Case]:
    """Return encoders and means of sentences."""
    bare = replace(PRINTED, width=2, heads=1, inner=1, pooled=False, labels=0)
    made = [
        encoder_case("MDL-R14", "Known", "no types", "stream", [3], None),
        encoder_case("MDL-R14", "Known", "types", "stream", [3], [1]),
        encoder_case("MDL-R15", "Known", "three positions", "stream", [0, 1, 2], [0, 1, 1]),
        encoder_case("MDL-R16", "Known", "no pooler", "stream", [2, 0, 2], [0, 0, 1], bare),
        encoder_case("MDL-R17", "Known", "labels", "labels", [1, 3], [0, 1]),
        encoder_case("MDL-R19", "Refusal", "no token", "stream", [], None, bare),
        encoder_case("MDL-R19", "Refusal", "beyond the context", "stream", [1] * 4, None, bare),
        encoder_case("MDL-R19", "Refusal", "a token outside the vocabulary", "stream", [4], None, bare),
        encoder_case("MDL-R19", "Refusal", "a type that there is none of", "stream", [1], [2], bare),
    ]
    streams: list[list[list[int]]] = [
        [[7, -7, 0]],
        [[1, -1, -3], [0, 0, 0]],
        [[2, -2, -1], [0, 0, 0], [0, 0, 0]],
        matrix("sentence", 5, 3, -(2**46) + 1, 2**46 - 1),
    ]
    for stream in streams:
        made.append(Case("MDL-R18", "a mean", "Edge", "sentence", {"stream": rows_json(stream)}))
    return made


def sampling_cases() -> list[Case]:
    """Return weights of tokens, and draws."""
    made = []
    row, drawn = [5, 3, 5, -7, 5], numbers("logits", 8, -(2**20), 2**20)
    chosen: list[tuple[str, list[int], str, int | None, str]] = [
        ("all of them", drawn, "1/1", None, "1/1"),
        ("a low temperature", drawn, "1/64", None, "1/1"),
        ("a high temperature", drawn, "64/1", None, "1/1"),
        ("a temperature that is no power of two", drawn, "7/10", None, "1/1"),
        ("the first of equal logits", row, "1/1", 2, "1/1"),
        ("the order of logits, not of weights", [0, 1, 2], "64/1", 1, "1/1"),
        ("a share that is reached exactly", [4, 4, 4, 4], "1/1", None, "1/2"),
        ("a share just above", [4, 4, 4, 4], "1/1", None, "500001/1000000"),
        ("a share of what the count left", [4, 4, 4, 4], "1/1", 3, "2/3"),
        ("both", drawn, "3/2", 5, "9/10"),
        ("a weight of 0", [2**29, -(2**29)], "1/1", None, "1/1"),
    ]
    for comment, logits, temperature, count, share in chosen:
        made.append(weights_case(comment, logits, temperature, count, share))
    for flag, temperature, count, share in (
        ("Edge", "1/64", 1, "1/1"),
        ("Edge", "64/1", None, "1/1000000"),
        ("Refusal", "1/65", None, "1/1"),
        ("Refusal", "65/1", None, "1/1"),
        ("Refusal", "0/1", None, "1/1"),
        ("Refusal", "1/1", 0, "1/1"),
        ("Refusal", "1/1", None, "0/1"),
        ("Refusal", "1/1", None, "1000001/1000000"),
    ):
        given: Fields = {"temperature": temperature, "count": count, "share": share}
        made.append(Case("MDL-R22", "the ends of the ranges", flag, "sampling", given))
    third = -(-(2**64) // 3)
    for word in (0, third - 1, third, 2 * third, 2**64 - 1):
        tape = listed(Domain.SAMPLING, {2: [word]}, 7)
        made.append(token_case("Edge", "where tokens meet", [0, 1, 0, 1, 1, 0], tape, 2, 7))
    for sample, token in ((0, 0), (0, 1), (1, 0), (3, 2**17 - 1)):
        made.append(token_case("Known", "a seeded draw", [2**30] * 9, seeded("sampling"), sample, token))
    return made


def weights_case(comment: str, row: list[int], temperature: str, count: int | None, share: str) -> Case:
    """Return the weights of logits."""
    sampling: Fields = {"temperature": temperature, "count": count, "share": share}
    return Case("MDL-R20", comment, "Known", "sampling_weights", {"row": [*row], "sampling": sampling})


def token_case(flag: str, comment: str, weights: list[int], tape: Json, sample: int, token: int) -> Case:
    """Return one draw."""
    given: Fields = {"weights": [*weights], "tape": tape, "sample": sample, "token": token}
    return Case("MDL-R21", comment, flag, "sample_token", given)


# Masked outsourcing


def field_matrix(role: str, rows: int, columns: int, p: int) -> list[list[int]]:
    """Return field elements."""
    return matrix(f"{role} {p}", rows, columns, 0, p - 1)


def weights_of_norm(norm: int) -> list[list[int]]:
    """Return one row whose absolute values add up to norm."""
    full, rest = divmod(norm, constants.WEIGHT_LIMIT)
    return [[-constants.WEIGHT_LIMIT] * full + [rest]]


def masked_case(flag: str, comment: str, requirement: str, tokens: list[int], rank: str | None) -> Case:
    """Return the logits of masked inference on a tiny model."""
    given: Fields = {"model": model_bytes(TINY, "masked").hex(), "tokens": list(tokens)}
    given |= {"seed": seed("masks").hex(), "rank": rank}
    return Case(requirement, comment, flag, "masked_logits", given)


def arithmetic_cases(p: int) -> list[Case]:
    """Return mask, multiply and unmask in one field."""
    pads = write_elements(field_matrix("pads", 2, 3, p), p)
    activations = rows_json(matrix("activations", 2, 3, -32767, 32767))
    weights = rows_json(matrix("weights", 2, 3, -32639, 32639))
    masking: Fields = {"activations": activations, "pads": pads, "modulus": p}
    multiplying: Fields = {"masked": pads, "weights": weights, "modulus": p}
    made = [
        Case("RMO-R3", "mask", "Known", "mask", masking),
        Case("RMO-R4", "multiply", "Known", "multiply", multiplying),
    ]
    drawn = field_matrix("product", 2, 2, p), field_matrix("correction", 2, 2, p)
    ends = [[(p - 1) // 2, (p + 1) // 2]], [[0, 0]]
    for flag, (product_, correction) in (("Known", drawn), ("Edge", ends)):
        given: Fields = {"product": write_elements(product_, p), "correction": write_elements(correction, p)}
        made.append(Case("RMO-R5", "unmask", flag, "unmask", given | {"modulus": p}))
    return made


def rows_json(rows: Rows) -> Json:
    """Return a matrix of small integers."""
    return [list(row) for row in rows]


def remo_cases() -> list[Case]:
    """Return the suite of area RMO."""
    made = []
    for p in (P32, P40):
        norm = (p - 1) // 2 // 2**15
        for more in (0, 1):
            given: Fields = {"weights": rows_json(weights_of_norm(norm + more))}
            made.append(Case("RMO-R1", "at the edge of a field", "Edge", "choose_modulus", given))
    made.append(
        Case("RMO-R2", "a weight of 17 bits", "Refusal", "choose_modulus", {"weights": [[0, -32640]]})
    )
    for p in constants.PRIMES:
        made += arithmetic_cases(p)
        made.append(Case("RMO-R7", "pads", "Known", "pad", pad_input("pads", 2, 5, 2, 3, p)))
        given = {"tape": seeded("rank"), "basis": write_elements(field_matrix("basis", 2, 4, p), p)}
        given |= {"group": 3, "step": 8, "rows": 2, "modulus": p}
        made.append(Case("RMO-R9", "pads of the paper", "Known", "rank_pad", given))
        made.append(basis_case("Known", 3, 2, 4, p))
    for group, step in ((2**32 - 1, 2**32 - 1), (0, 1), (1, 0), (2**32, 0), (0, 2**32)):
        flag = "Refusal" if 2**32 in (group, step) else "Edge"
        made.append(
            Case("RMO-R6", "the stream of a pad", flag, "pad", pad_input("pads", group, step, 1, 2, P32))
        )
    made.append(masked_case("Known", "pad", "RMO-R8", [1, 3], None))
    made.append(masked_case("Known", "rank", "RMO-R8", [1, 3], "1/2"))
    for rank in (0, 4, 5):
        made.append(basis_case("Refusal", 3, rank, 4, P32))
    for used in ([[0, 0], [0, 1], [1, 0]], [[0, 1], [0, 1]], [[0, 1], [0, 0]], [[1, 4], [2, 0], [1, 3]]):
        flag = "Known" if used[1][1] == 1 and used[0][1] == 0 else "Refusal"
        made.append(Case("RMO-R11", "the order of steps", flag, "burn", {"addresses": rows_json(used)}))
    one = write_elements([[1]], P32)
    outside = write_elements([[P32]], P32)
    broken: list[tuple[str, Fields]] = [
        ("mask", {"activations": [[1, 2]], "pads": one, "modulus": P32}),
        ("mask", {"activations": [[32768]], "pads": one, "modulus": P32}),
        ("mask", {"activations": [[1]], "pads": outside, "modulus": P32}),
        ("multiply", {"masked": one, "weights": [[1, 2]], "modulus": P32}),
        ("multiply", {"masked": outside, "weights": [[1]], "modulus": P32}),
        ("multiply", {"masked": write_elements([[1]], 97), "weights": [[1]], "modulus": 97}),
        ("unmask", {"product": one, "correction": outside, "modulus": P32}),
        ("unmask", {"product": write_elements([[1, 2]], P32), "correction": one, "modulus": P32}),
    ]
    made += [Case("RMO-R12", "what does not fit", "Refusal", operation, given) for operation, given in broken]
    hidden: Fields = {"model": model_bytes(PRINTED, "encoder").hex(), "tokens": [1, 3]}
    hidden |= {"seed": seed("masks").hex()}
    encoder = Case("RMO-R8", "an encoder", "Known", "masked_stream", hidden)
    return [*made, *lwe_cases(), encoder, *choice_edges(), *step_edges(), *matrix_edges(), *burnt()]


def burnt() -> list[Case]:
    """Return the last address that can be burnt, and those next to the ends of their ranges."""
    last = [2**32 - 1, 2**32 - 1]
    made = [Case("RMO-R11", "the last address", "Edge", "burn", {"addresses": rows_json([last])})]
    return made + [
        Case("RMO-R6", "no address", "Refusal", "burn", {"addresses": rows_json([last, other])})
        for other in ([2**32, 0], [0, 2**32], [-1, 0], [0, -1])
    ]


def choice_edges() -> list[Case]:
    """Return matrices whose largest row, only column or shape decides."""
    large, small = [32639, 32639, 258], [[1, 2, 3], [4, 5, 6]]
    chosen: list[Rows] = [[[5]], [*small, large], [large, *small]]
    refused: list[Rows] = [[], [[]], [[1], [1, 2]]]
    made = [
        Case("RMO-R1", "the largest row decides", "Known", "choose_modulus", {"weights": rows_json(rows)})
        for rows in chosen
    ]
    return made + [
        Case("RMO-R2", "no matrix", "Refusal", "choose_modulus", {"weights": rows_json(rows)})
        for rows in refused
    ]


def step_edges() -> list[Case]:
    """Return orders of steps, and addresses of pads that are none."""
    orders: list[tuple[str, Rows]] = [
        ("Edge", []),
        ("Known", [[0, 5], [1, 3], [2, 4], [0, 6], [1, 5]]),
        ("Refusal", [[2, 0], [1, 4], [1, 3]]),
        ("Refusal", [[1, 4], [2, 0], [3, 0], [1, 3]]),
        ("Refusal", [[0, 7], [0, 9], [0, 8]]),
    ]
    made = [
        Case("RMO-R11", "steps of several groups", flag, "burn", {"addresses": rows_json(order)})
        for flag, order in orders
    ]
    return made + [
        Case("RMO-R6", "the stream of a pad", "Refusal", "pad", pad_input("pads", group, step, 1, 2, P32))
        for group, step in ((0, -1), (-1, 0))
    ]


def matrix_edges() -> list[Case]:
    """Return sums and products at the field's end, and matrices that do not fit in one place alone."""

    def masked(activations: Rows, pads: Rows, modulus: int = P32) -> Fields:
        return {
            "activations": rows_json(activations),
            "pads": write_elements(pads, modulus),
            "modulus": write_modulus(modulus),
        }

    def multiplied(elements_: Rows, weights: Rows) -> Fields:
        return {"masked": write_elements(elements_, P32), "weights": rows_json(weights), "modulus": P32}

    def unmasked(product_: Rows, correction: Rows, modulus: int = P32) -> Fields:
        return {
            "product": write_elements(product_, modulus),
            "correction": write_elements(correction, modulus),
            "modulus": modulus,
        }

    ends: list[tuple[str, str, Fields]] = [
        ("RMO-R3", "mask", masked([[5, 5, -32767]], [[P32 - 5, P32 - 6, 32767]])),
        ("RMO-R3", "mask", masked([[32767, -32767]], [[0, 0]])),
        ("RMO-R4", "multiply", multiplied([[1, P32 - 1]], [[1, 1], [-1, 1]])),
    ]
    last, zeros = [[0, 0], [0, P32]], [[0, 0], [0, 0]]
    misfits: list[tuple[str, Fields]] = [
        ("mask", masked([[1, 2], [3, 4]], last)),
        ("multiply", multiplied(last, [[1, 2]])),
        ("unmask", unmasked(last, zeros)),
        ("unmask", unmasked(zeros, last)),
        ("mask", masked([[1, 2], [3, -32768]], zeros)),
        ("mask", masked([], [])),
        ("multiply", multiplied([], [])),
        ("unmask", unmasked([], [])),
        ("mask", masked([[1], [2]], [[1, 2]])),
        ("mask", masked([[1, 2], [3]], [[1, 2], [3, 4]])),
        ("multiply", multiplied([[1, 2]], [[1, 2], [3]])),
        ("unmask", unmasked([[1], [2]], [[1, 2]])),
        ("mask", masked([[1]], [[1]], 2**61 - 1)),
        ("unmask", unmasked([[1]], [[1]], 97)),
    ]
    made = [Case(name, "the end of the field", "Edge", operation, given) for name, operation, given in ends]
    return made + [Case("RMO-R12", "what does not fit", "Refusal", *misfit) for misfit in misfits]


def lwe_words(stream: int, secret: Rows, noise: Rows) -> Json:
    """Return a listed tape with these secrets, each below q, and these words of noise."""
    words: dict[Address, int] = {}
    for domain, rows in ((Domain.LWE_SECRET, secret), (Domain.LWE_NOISE, noise)):
        flat = [word for row in rows for word in row]
        words |= {(domain, stream, index): word for index, word in enumerate(flat)}
    return write_listed(words)


def lwe_mask_case(
    requirement: str,
    flag: str,
    comment: str,
    tape: Json,
    basis: Rows,
    place: tuple[int, int],
    activations: Rows,
) -> Case:
    """Return the masking of rows with profile `lwe` at a place (group, step)."""
    given: Fields = {"tape": tape, "basis": write_elements(basis, Q), "group": place[0], "step": place[1]}
    return Case(requirement, comment, flag, "lwe_mask", given | {"activations": rows_json(activations)})


def lwe_unmask_case(
    requirement: str,
    flag: str,
    comment: str,
    tape: Json,
    product_: Rows,
    hint: Rows,
    place: tuple[int, int],
    inner: int,
) -> Case:
    """Return the unmasking of a product of profile `lwe` at a place (group, step)."""
    given: Fields = {"tape": tape, "product": write_elements(product_, Q), "hint": write_elements(hint, Q)}
    given |= {"group": place[0], "step": place[1], "inner": inner}
    return Case(requirement, comment, flag, "lwe_unmask", given)


def lwe_cases() -> list[Case]:
    """Return the ratchet and profile `lwe`."""
    made = []
    for role in ("ratchet", "ratchet again"):
        made.append(Case("RMO-R22", "the next seed", "Known", "ratchet", {"seed": seed(role).hex()}))
    for inner in (2048, 2113, 4096, 4097, 8192, 8193, 14336, 16384):
        made.append(Case("RMO-R13", "secrets a row", "Edge", "lwe_dimension", {"inner": inner}))
    for inner in (0, 2047, 2049, 2112, 16385):
        made.append(Case("RMO-R13", "no secure row", "Refusal", "lwe_dimension", {"inner": inner}))
    for inner in (1, 2, 3, 2048, 2049, 4096, 14336, 16384):
        made.append(Case("RMO-R14", "noise bits and scale", "Edge", "lwe_levels", {"inner": inner}))
    extremes = [[-32639, 32639, 32384, -32384], [0, 127, 128, -128], [-129, 255, -255, -384]]
    made.append(Case("RMO-R15", "extreme weights", "Edge", "halves", {"weights": rows_json(extremes)}))
    drawn = rows_json(matrix("split", 2, 3, -32639, 32639))
    made.append(Case("RMO-R15", "a matrix", "Known", "halves", {"weights": drawn}))
    shape: Fields = {"group": 5, "dimension": 2, "inner": 3}
    unlucky_words = {(Domain.LWE_BASIS, 5, i): Q - 1 - i for i in range(5)}
    unlucky_words |= {(Domain.LWE_BASIS, 5, 5): Q, (Domain.LWE_BASIS, 5 + 6 * 2**64, 0): 2**64 - 1}
    unlucky_words |= {(Domain.LWE_BASIS, 5 + 6 * 2**64, 1): 7}
    for flag, tape in (("Known", seeded("lwe basis")), ("Unlucky", write_listed(unlucky_words))):
        made.append(Case("RMO-R16", "a public matrix", flag, "lwe_basis", {"tape": tape} | shape))
    basis, inner = matrix("lwe matrix", 2, 3, 0, Q - 1), 3
    for activations in (matrix("lwe rows", 2, inner, -32767, 32767), [[32767, -32767, 0]]):
        tape = seeded("lwe mask")
        made.append(lwe_mask_case("RMO-R19", "Known", "masked rows", tape, basis, (3, 8), activations))
    made += [*lwe_word_cases(basis), *lwe_product_cases()]
    return made


def lwe_word_cases(basis: Rows) -> list[Case]:
    """Return what masking makes of chosen words, and of what it refuses, for a matrix [2, 3]."""
    made, stream, unit = [], 3 * 2**32 + 8, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    silent = [[2**29] * 3] * 2
    secret = [[0, 1, Q - 1], [2**63, 2, 3]]
    tape = lwe_words(stream, secret, silent)
    made.append(lwe_mask_case("RMO-R17", "Edge", "only secrets", tape, unit, (3, 8), [[0, 0, 0]] * 2))
    for words in ([0, 2**30 - 1, 2**29], [2**30, 2**64 - 1, 2**63]):
        tape = lwe_words(stream, [[0, 0]], [words])
        made.append(lwe_mask_case("RMO-R18", "Edge", "only noise", tape, basis, (3, 8), [[0, 0, 0]]))
    for inner, reach in ((1, 2**33), (2, 2**31), (4, 2**29), (5, 2**27)):
        tape = lwe_words(stream, [[0]], [[2 * reach - 1] + [2 * reach] * (inner - 1)])
        given = [[1] * inner], (3, 8), [[0] * inner]
        made.append(lwe_mask_case("RMO-R18", "Edge", f"noise of {inner} elements", tape, *given))
    tape = seeded("lwe mask")
    for place in ((2**32, 0), (0, 2**32)):
        made.append(lwe_mask_case("RMO-R6", "Refusal", "no stream", tape, basis, place, [[0, 0, 0]]))
    for comment, matrix_, activations in (
        ("no matrix", [], [[1]]),
        ("a matrix with q", [[0, Q]], [[1, 2]]),
        ("no rows", basis, []),
        ("rows of another length", basis, [[1, 2]]),
        ("ragged rows", basis, [[1, 2, 3], [1, 2]]),
        ("an activation of 17 bits", basis, [[0, 32768, 0]]),
        ("a negative activation of 17 bits", basis, [[0, -32768, 0]]),
    ):
        made.append(lwe_mask_case("RMO-R21", "Refusal", comment, tape, matrix_, (3, 8), activations))
    unsplit: list[list[list[int]]] = [[[0, 32640]], [[-32640]], [], [[]], [[1, 2], [3]]]
    for weights in unsplit:
        refused: Fields = {"weights": rows_json(weights)}
        made.append(Case("RMO-R21", "what is not split", "Refusal", "halves", refused))
    return made


def lwe_product_cases() -> list[Case]:
    """Return what unmasking makes of products, at an inner dimension of 3 and at the largest."""
    made, place, tape = [], (3, 8), seeded("lwe unmask")
    silent = lwe_words(3 * 2**32 + 8, [[0]], [])
    for inner in (3, 4, 2**14):
        step = Q // (2 * 32767 * 128 * inner + 1)
        half = step // 2
        lifted = [[0, half, half + 1, -half, -half - 1, step, 7 * step - half, -7 * step - half]]
        lifted.append([(Q - 1) // 2, -(Q - 1) // 2, 1 - half, half - 1, -1, 1, -step, step - 1])
        for row in lifted:
            products, hint = [[u % Q for u in row]], [[Q - 1] * len(row)]
            case = lwe_unmask_case("RMO-R20", "Edge", "rounding", silent, products, hint, place, inner)
            made.append(case)
    drawn = matrix("lwe product", 2, 4, 0, Q - 1), matrix("lwe hint", 2, 4, 0, Q - 1)
    made.append(lwe_unmask_case("RMO-R20", "Known", "any product", tape, *drawn, place, 2048))
    for comment, products, hint in (
        ("no product", [], [[1, 2]]),
        ("no hint", [[1, 2]], []),
        ("widths differ", [[1, 2]], [[1, 2, 3, 4]]),
        ("an odd width", [[1, 2, 3]], [[1, 2, 3]]),
        ("a product with q", [[1, Q]], [[1, 2]]),
        ("a hint with q", [[1, 2]], [[Q, 2]]),
    ):
        case = lwe_unmask_case("RMO-R21", "Refusal", comment, tape, products, hint, place, 3)
        made.append(case)
    wide: Fields = {"masked": write_elements([[Q - 1, 2**63, 0], [1, 2, Q // 2]], Q)}
    wide |= {"weights": [[-128, 127, 5], [127, -128, -1]], "modulus": write_modulus(Q)}
    return [*made, Case("RMO-R4", "multiply over q", "Edge", "multiply", wide)]


def pad_input(role: str, group: int, step: int, rows: int, columns: int, p: int) -> Fields:
    """Return the arguments of `pad`."""
    given: Fields = {"tape": seeded(role), "group": group, "step": step}
    return given | {"rows": rows, "columns": columns, "modulus": p}


def basis_case(flag: str, group: int, rank: int, columns: int, p: int) -> Case:
    """Return the drawing of a basis."""
    given: Fields = {"tape": seeded("basis"), "group": group, "rank": rank, "columns": columns, "modulus": p}
    return Case("RMO-R10", "a public basis", flag, "rank_basis", given)


# Integrity


def verify_case(flag: str, comment: str, product_: Rows, p: int, masked: Rows) -> Case:
    """Return a check under the weights 2, 3 and -1 and distinct secret vectors."""
    challenge = [[5, 7, 11], [1, 0, 2], [p - 1, 3, 1]][: 3 if p == P32 else 2]
    weights = [[2, 0], [0, 3], [-1, -1]]
    key = [
        [sum(z * w[i] for z, w in zip(row, weights, strict=True)) % p for i in range(2)] for row in challenge
    ]
    given: Fields = {"masked": write_elements(masked, p), "product": write_elements(product_, p)}
    given |= {"challenge": write_elements(challenge, p), "key": write_elements(key, p)}
    return Case("INT-R4", comment, flag, "verify", given | {"modulus": write_modulus(p)})


def integrity_cases() -> list[Case]:
    """Return the suite of area INT."""
    made = [Case("INT-R1", "repetitions", "Known", "repetitions", {"modulus": p}) for p in constants.PRIMES]
    for p in constants.PRIMES:
        given: Fields = {"tape": seeded("challenge"), "group": 6, "outputs": 3, "modulus": p}
        made.append(Case("INT-R2", "secret vectors", "Known", "challenge", given))
        count = 3 if p == P32 else 2
        secret = write_elements(field_matrix("secret", count, 2, p), p)
        weights = matrix("key weights", 2, 3, -32639, 32639)
        given = {"weights": rows_json(weights), "challenge": secret, "modulus": p}
        made.append(Case("INT-R3", "the key", "Known", "check_key", given))
        masked = [[4, p - 1], [0, 9]]
        right = [[8 % p, p - 3, (p - 3) % p], [0, 27, p - 9]]
        made.append(verify_case("Known", "the right product", right, p, masked))
        for row, column, error in ((0, 0, 1), (1, 2, p - 1), (0, 1, p // 2)):
            wrong = [list(line) for line in right]
            wrong[row][column] = (wrong[row][column] + error) % p
            made.append(verify_case("Refusal", "one wrong element", wrong, p, masked))
        made.append(verify_case("Refusal", "rows swapped", right[::-1], p, masked))
        made.append(verify_case("Refusal", "a row is missing", right[:1], p, masked))
    outside = [[8, P32, P32 - 3], [0, 27, P32 - 9]]
    made.append(verify_case("Refusal", "an element outside the field", outside, P32, [[4, P32 - 1], [0, 9]]))
    return [*made, *largest_field_cases(), *commitment_cases()]


def largest_field_cases() -> list[Case]:
    """Return the check over q, whose matrix has weights of 8 bits."""
    modulus = write_modulus(Q)
    made = [Case("INT-R1", "repetitions over q", "Known", "repetitions", {"modulus": modulus})]
    given: Fields = {"tape": seeded("challenge"), "group": 6, "outputs": 3, "modulus": modulus}
    made.append(Case("INT-R2", "secret vectors over q", "Known", "challenge", given))
    secret = write_elements(field_matrix("secret", 2, 2, Q), Q)
    given = {"weights": [[-128, 127, 3], [0, -1, 9]], "challenge": secret, "modulus": modulus}
    made.append(Case("INT-R3", "the key over q", "Known", "check_key", given))
    masked, right = [[4, Q - 1], [0, 9]], [[8, Q - 3, Q - 3], [0, 27, Q - 9]]
    made.append(verify_case("Known", "the right product over q", right, Q, masked))
    for comment, element in (("one more", 28), ("the top bit", 2**63 + 27), ("q", Q), ("a word", 2**64 - 1)):
        wrong = [right[0], [0, element, Q - 9]]
        made.append(verify_case("Refusal", f"{comment}, over q", wrong, Q, masked))
    return made


def commitment_cases() -> list[Case]:
    """Return leaves and the tree hashes of lists of leaves."""
    made = []
    for flag, group, weights in (
        ("Known", 258, [[1, -1, 256], [-32639, 32639, 0]]),
        ("Edge", 0, [[0]]),
        ("Edge", 2**32 - 1, [[-32768], [32767]]),
    ):
        given: Fields = {"group": group, "weights": rows_json(weights)}
        made.append(Case("INT-R5", "a leaf", flag, "weight_leaf", given))
    for count in (0, 1, 2, 3, 4, 5, 8, 13):
        leaves: Json = [(bytes([index]) * (5 * index % 7)).hex() for index in range(count)]
        flag = "Edge" if count < 2 else "Known"
        made.append(Case("INT-R6", f"{count} leaves", flag, "merkle_root", {"leaves": leaves}))
    return made


# Wire


EPOCH: Final = bytes(range(16))
PIECE: Final = Frame(FrameKind.MULTIPLY, EPOCH, 7, 8, 1, 2, 4, 3, 5, bytes(range(30)))
HELLO: Final = Frame(FrameKind.HELLO, EPOCH, 0, 0, 0, 0, 0, 0, 0, bytes(range(32)))
SILENT: Final = Frame(FrameKind.REFUSAL, bytes(16), 0, 0, 0, 0, 0, 0, 0, b"")


def frame_bytes(frame: Frame, version: bytes | None = None) -> bytes:
    """Return a frame's bytes by the table of spec/wire.md, whatever its fields say."""
    version = version or bytes(int(part) for part in veil_spec.__version__.split("."))
    counts = (frame.group, frame.step, frame.first_row, frame.rows, frame.total_rows, frame.columns)
    header = b"VEIL" + version + bytes([frame.kind]) + frame.epoch
    header += b"".join(count.to_bytes(4, "little") for count in counts) + bytes([frame.element_bytes])
    return header + len(frame.payload).to_bytes(4, "little") + frame.payload


def decode_case(requirement: str, comment: str, data: bytes) -> Case:
    """Return bytes that are no frame."""
    return Case(requirement, comment, "Refusal", "decode", {"data": data.hex()})


def join_case(flag: str, comment: str, frames: Sequence[Frame]) -> Case:
    """Return the joining of pieces of a message of 3 rows and 2 columns."""
    given: Fields = {
        "frames": [write_frame(frame) for frame in frames],
        "kind": "PRODUCT",
        "epoch": EPOCH.hex(),
    }
    given |= {"group": 3, "step": 4, "columns": 2, "element_bytes": 4, "total_rows": 3}
    return Case("WIR-R7", comment, flag, "join", given)


def wire_cases() -> list[Case]:
    """Return the suite of area WIR."""
    frames = [
        HELLO,
        replace(HELLO, kind=FrameKind.WELCOME),
        PIECE,
        replace(PIECE, kind=FrameKind.PRODUCT),
        replace(PIECE, kind=FrameKind.PRODUCT, element_bytes=8, payload=bytes(range(48))),
        SILENT,
        replace(HELLO, kind=FrameKind.ASK, step=2**32 - 1, payload=bytes(range(8))),
        replace(HELLO, kind=FrameKind.SEED, step=9),
    ]
    made = [
        Case("WIR-R1", frame.kind.name, "Known", "encode", {"frame": write_frame(frame)}) for frame in frames
    ]
    made += [Case("WIR-R1", f.kind.name, "Known", "decode", {"data": frame_bytes(f).hex()}) for f in frames]
    for broken in (replace(PIECE, rows=1), replace(HELLO, payload=b""), replace(PIECE, total_rows=2**32 - 1)):
        made.append(
            Case("WIR-R1", "fields that do not fit", "Refusal", "encode", {"frame": write_frame(broken)})
        )
    whole = frame_bytes(PIECE)
    for comment, data in (
        ("nothing", b""),
        ("half a header", whole[:30]),
        ("cut", whole[:-1]),
        ("more", whole + b"\0"),
    ):
        made.append(decode_case("WIR-R2", comment, data))
    for version in (b"\0\0\1", b"\1\0\0", b"\xff\xff\xff"):
        made.append(decode_case("WIR-R3", "another version", frame_bytes(PIECE, version)))
    made.append(decode_case("WIR-R3", "another version and nonsense", b"VEIL\x09\x09\x09" + b"\xff" * 46))
    for comment, frame in (
        ("rows beyond the total", replace(PIECE, first_row=3)),
        ("element_bytes 3", replace(PIECE, element_bytes=3, payload=bytes(18))),
        ("no rows", replace(PIECE, rows=0, payload=b"")),
        ("payload and rows differ", replace(PIECE, payload=bytes(31))),
        ("a HELLO with rows", replace(HELLO, total_rows=1)),
        ("a refusal that says something", replace(SILENT, payload=b"why")),
        ("a seed with rows", replace(HELLO, kind=FrameKind.SEED, total_rows=1)),
        ("a seed of 31 bytes", replace(HELLO, kind=FrameKind.SEED, payload=bytes(31))),
        ("an ASK of 9 bytes", replace(HELLO, kind=FrameKind.ASK, payload=bytes(9))),
        ("a HELLO with a step", replace(HELLO, step=1)),
        ("element_bytes 7", replace(PIECE, element_bytes=7, payload=bytes(42))),
        ("a refusal that names an epoch", replace(SILENT, epoch=EPOCH)),
    ):
        made.append(decode_case("WIR-R4", comment, frame_bytes(frame)))
    made.append(decode_case("WIR-R4", "magic", b"LIEV" + whole[4:]))
    made.append(decode_case("WIR-R4", "kind", whole[:7] + b"\x0a" + whole[8:]))
    made.append(decode_case("WIR-R5", "payload", whole[:49] + (2**20 + 1).to_bytes(4, "little")))
    made.append(decode_case("WIR-R5", "message", frame_bytes(replace(PIECE, total_rows=2**30 // 15 + 1))))
    for p, width in ((P32, 4), (P40, 5), (P48, 6), (Q, 8)):
        row = write_elements([[0, 1, p - 1]], p)
        made.append(Case("WIR-R6", "packed", "Known", "pack", {"elements": row, "modulus": write_modulus(p)}))
        data = b"".join(value.to_bytes(width, "little") for value in (p - 1, 258, 0))
        made.append(
            Case(
                "WIR-R6",
                "unpacked",
                "Known",
                "unpack",
                {"data": data.hex(), "count": 3, "modulus": write_modulus(p)},
            )
        )
        outside = p.to_bytes(width, "little").hex()
        made.append(
            Case(
                "WIR-R6", "p", "Refusal", "unpack", {"data": outside, "count": 1, "modulus": write_modulus(p)}
            )
        )
        made.append(
            Case(
                "WIR-R6",
                "p",
                "Refusal",
                "pack",
                {"elements": write_elements([[p]], p), "modulus": write_modulus(p)},
            )
        )
    piece = Frame(FrameKind.PRODUCT, EPOCH, 3, 4, 0, 1, 3, 2, 4, bytes(range(8)))
    first, second, third = (replace(piece, first_row=n, payload=bytes([n]) * 8) for n in range(3))
    made.append(join_case("Known", "in order", [first, second, third]))
    for comment, chosen in (
        ("reordered", [second, first, third]),
        ("repeated", [first, first, second, third]),
        ("missing", [first, third]),
        ("ends early", [first, second]),
        ("another step", [first, replace(second, step=5), third]),
        ("another epoch", [first, second, replace(third, epoch=bytes(16))]),
        ("another kind", [first, replace(second, kind=FrameKind.MULTIPLY), third]),
    ):
        made.append(join_case("Refusal", comment, chosen))
    return [*made, *split_cases()]


def split_cases() -> list[Case]:
    """Return frames of mode `split`."""
    made = []
    rows = replace(PIECE, kind=FrameKind.EMBEDDED, element_bytes=6, payload=bytes(range(36)))
    answer = replace(rows, kind=FrameKind.ANSWER, first_row=0, rows=1, total_rows=1, payload=bytes(range(18)))
    for frame in (rows, answer):
        name = frame.kind.name
        made.append(Case("WIR-R1", name, "Known", "encode", {"frame": write_frame(frame)}))
        made.append(Case("WIR-R1", name, "Known", "decode", {"data": frame_bytes(frame).hex()}))
        for width in (4, 5, 8):
            payload = bytes(frame.rows * frame.columns * width)
            broken = frame_bytes(replace(frame, element_bytes=width, payload=payload))
            made.append(decode_case("WIR-R4", f"{name} with elements of {width} bytes", broken))
    made.append(
        decode_case("WIR-R4", "EMBEDDED without rows", frame_bytes(replace(rows, rows=0, payload=b"")))
    )
    made.append(decode_case("WIR-R5", "EMBEDDED", frame_bytes(replace(rows, total_rows=2**30 // 18 + 1))))
    return made


# Transcripts


TRANSCRIPT_ROWS: Final = (3, 1, 2)
"""Rows of the steps of the transcript."""
TRANSCRIPT_GROUPS: Final = ((P32, 4, 3), (P40, 3, 5))
"""Field, inner dimension and outputs of its groups."""


def transcript_cases() -> list[Case]:
    """Return all that an enclave and a worker compute in three steps of two groups, each thing alone.

    The enclave mints itself; from its epoch's seed and the activations everything else follows.
    """
    made, seed_ = [], seed("transcript").hex()
    for step, rows in enumerate(TRANSCRIPT_ROWS):
        for group, about in enumerate(TRANSCRIPT_GROUPS):
            made += exchanged(f"step {step}, group {group}", seed_, step, group, rows, *about)
        following = f"the seed of step {step + 1}"
        made.append(Case("RMO-R22", following, "Known", "ratchet", {"seed": seed_}))
        seed_ = OUTPUT_OF + following
    return made


def exchanged(
    at: str, seed_: str, step: int, group: int, rows: int, p: int, inner: int, outputs: int
) -> list[Case]:
    """Return one exchange: pads, masked rows, product, check, correction, plain product."""

    def of(what: str) -> str:
        return f"{OUTPUT_OF}{at}: {what}"

    weights = rows_json(matrix(f"weights {group}", outputs, inner, -32639, 32639))
    activations = rows_json(matrix(f"activations {at}", rows, inner, -32767, 32767))
    pads: Fields = {"tape": {"seed": seed_}, "group": group, "step": step, "rows": rows, "columns": inner}
    vectors: Fields = {"tape": seeded("transcript check"), "group": group, "outputs": outputs}
    checked: Fields = {"masked": of("masked rows"), "product": of("the worker's product")}
    secret: Fields = {"challenge": of("secret vectors"), "key": of("the key of the check")}
    parts: list[tuple[str, str, str, Fields]] = [
        ("RMO-R7", "pads", "pad", pads),
        ("RMO-R3", "masked rows", "mask", {"activations": activations, "pads": of("pads")}),
        ("RMO-R4", "the worker's product", "multiply", {"masked": of("masked rows"), "weights": weights}),
        ("INT-R2", "secret vectors", "challenge", vectors),
        (
            "INT-R3",
            "the key of the check",
            "check_key",
            {"weights": weights, "challenge": of("secret vectors")},
        ),
        ("INT-R4", "the check", "verify", checked | secret),
        ("RMO-R4", "the correction", "multiply", {"masked": of("pads"), "weights": weights}),
        (
            "RMO-R5",
            "the plain product",
            "unmask",
            {"product": of("the worker's product"), "correction": of("the correction")},
        ),
    ]
    return [
        Case(requirement, f"{at}: {what}", "Known", operation, given | {"modulus": p})
        for requirement, what, operation, given in parts
    ]


SUITES: Final = {
    "tape": ("tap", tape_cases),
    "noisy_max": ("nmx", noisy_max_cases),
    "accounting": ("acc", accounting_cases),
    "fixed_point": ("fxp", fixed_point_cases),
    "model": ("mdl", model_cases),
    "remo": ("rmo", remo_cases),
    "integrity": ("int", integrity_cases),
    "wire": ("wir", wire_cases),
    "transcript": ("rmt", transcript_cases),
}
"""Suite to (prefix of its identifiers, cases)."""
