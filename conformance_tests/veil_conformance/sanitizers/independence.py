"""Whether outputs are independent: across places in a stream, calls, documents and processes.

Every check compares how often suspected pairs of outputs are equal with how often pairs are that nothing
should connect. If all outputs are independent and of one law, both have the same chance, whatever the law, so
Fisher's exact test holds at any sample size. Pairs share no output.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from veil_conformance.sanitizers import chances
from veil_conformance.sanitizers.chances import Pairs
from veil_conformance.sanitizers.laws import symbol
from veil_conformance.sanitizers.subject import Subject
from veil_conformance.sanitizers.verdicts import Finding

LENGTH: Final = 32
"""Tokens of a document: one token, repeated."""
STREAM: Final = 4000
"""Most outputs of a stream."""
STREAMS: Final = 7
"""Streams that are drawn, of a quarter of the documents' tokens each or more."""

Stream = Sequence[str]


def findings(
    subject: Subject, one: Subject, two: Subject, token: str, draws: int, level: float
) -> list[Finding]:
    """Return one finding for each way in which outputs may hang together; `one` and `two` are fresh."""
    length = max(2 * LENGTH, min(STREAM, draws // STREAMS) // LENGTH * LENGTH)
    compared = _streams(subject, one, two, token, length)
    each = level / len(compared)
    return [_finding(name, token, pairs, each) for name, pairs in compared.items()]


def _streams(
    subject: Subject, one: Subject, two: Subject, token: str, length: int
) -> Mapping[str, tuple[Pairs, Pairs]]:
    def sample(source: Subject) -> Stream:
        return [symbol(output) for output in source.sample(token, length)]

    def document(source: Subject) -> list[str]:
        return [symbol(output) for output in source.sanitize([token] * LENGTH)]

    # The two processes are fresh: their first outputs are compared, then their first documents.
    processes = two_streams(sample(one), sample(two))
    first, second, own = (
        [document(source) for _ in range(length // LENGTH)] for source in (one, two, subject)
    )
    stream = sample(subject)
    return {
        "two processes": processes,
        "two processes, documents": two_streams(_flat(first), _flat(second)),
        "two calls": two_streams(sample(subject), sample(subject)),
        "one stream": one_stream(stream),
        "two documents": two_streams(_flat(own[::2]), _flat(own[1::2])),
        "one document": one_stream(_flat(own)),
        "documents and samples": like(_flat(first), stream, symbol(token)),
    }


def _flat(documents: Sequence[Sequence[str]]) -> Stream:
    return [output for document in documents for output in document]


def like(one: Stream, two: Stream, own: str) -> tuple[Pairs, Pairs]:
    """Return every output of two streams beside one that both may hold: the own word, or their first."""
    reference = own if own in one or own in two else two[0]
    return [(output, reference) for output in one], [(output, reference) for output in two[1:]]


def two_streams(one: Stream, two: Stream) -> tuple[Pairs, Pairs]:
    """Return pairs of equal places from the first halves, and of places one apart from the second."""
    half = min(len(one), len(two)) // 2
    return list(zip(one[:half], two[:half], strict=True)), list(
        zip(one[half:-1], two[half + 1 :], strict=False)
    )


def one_stream(stream: Stream) -> tuple[Pairs, Pairs]:
    """Return pairs of neighbours from the first half, and of places a quarter apart from the second."""
    half, quarter = len(stream) // 2, len(stream) // 4
    neighbours = list(zip(stream[0:half:2], stream[1:half:2], strict=False))
    return neighbours, list(zip(stream[half : half + quarter], stream[half + quarter :], strict=False))


def _finding(name: str, token: str, compared: tuple[Pairs, Pairs], level: float) -> Finding:
    suspects, controls = compared
    equal, expected, p_value = chances.matching_p_value(suspects, controls)
    rejects = p_value <= level
    copies = chances.detectable_copies(expected, min(len(suspects), len(controls)), level)
    figures: dict[str, str | int | float] = {"pairs": len(suspects), "equal": f"{equal:.4f}"}
    figures |= {"expected": f"{expected:.4f}", "p": f"{p_value:.3g}", "level": level}
    reason = (
        f"outputs hang together ({name}): {equal:.1%} of these pairs and {expected:.1%} of others are equal"
    )
    power = f"{name}: no dependence can show in {len(suspects)} pairs"
    if copies is not None:
        power = f"{name}: a share of {copies:.3f} copied outputs would show"
    return Finding(
        f"independence, {name}", rejects, reason if rejects else "", f"token {token!r}", figures, power
    )
