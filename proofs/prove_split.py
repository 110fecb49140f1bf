"""What a worker of mode `split` sees is computed from sanitized tokens, sampling words and its own answers.

1. The enclave's side of the mode gets tokens and nothing else of a prompt, and code that knows private text
   is not even imported by it (`test_split_is_given_*`).
2. So its view is a function of those three (`test_the_view_*`, `test_the_encoders_view_*`), whatever the
   worker answers, and whatever was private before in the same epoch.
3. A function of the sanitizer's output is no more private than that output, and no less
   (`test_the_certificate_*`).

The complete enumerations replace the 2**64 words of a draw by four, and those of sampling by three.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

import veil_optimized
from veil_conformance import tiny_model
from veil_optimized import wire
from veil_optimized.generate import Drawn, generate
from veil_optimized.model import Model, load
from veil_optimized.session import Channel
from veil_optimized.split import SplitDecoder, SplitEncoder
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, inference, place
from veil_reference.tabulated import draw
from veil_spec import constants
from veil_spec.refusals import Refused
from veil_spec.types import Domain, Frame, FrameKind, ListedTape, Sampling

PACKAGE: Final = Path(veil_optimized.__file__).parent
EPOCH: Final = bytes(constants.EPOCH_BYTES)
ZEROS: Final = (0, 0, 0, 0, 0, 0, 0)
PRIVATE: Final = ("sanitizer", "tabulated", "noisy_max", "partition", "ledger", "table_file", "plaintext")
"""Modules that handle private text or what is drawn for it."""

# 1. What the mode is given


def imported(source: str) -> set[str]:
    """Return the modules of the optimized package that a source imports anywhere."""
    found = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "veil_optimized":
            found |= {alias.name for alias in node.names}
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[1] for name in names if name.startswith("veil_optimized.")}
    return found


def reached(module: str) -> set[str]:
    """Return all modules of the package that a module imports, or that these import."""
    found, waiting = set[str](), [module]
    while waiting:
        for source in sources(waiting.pop()):
            waiting += imported(source) - found
            found |= imported(source)
    return found


def sources(module: str) -> list[str]:
    """Return the source of a module of the package, or of all modules of a folder."""
    files = (PACKAGE / module).glob("*.py") if (PACKAGE / module).is_dir() else [PACKAGE / f"{module}.py"]
    return [path.read_text("utf-8") for path in files]


def parameters(source: str) -> dict[str, list[str]]:
    """Return the parameters of every function of a source by its name, `self` left out."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {f.name: [each.arg for each in f.args.args if each.arg != "self"] for f in functions}


def reads_of(source: str, attribute: str) -> list[str]:
    """Return what is read of `self.<attribute>`, in order."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            held = node.value
            if held.attr == attribute and isinstance(held.value, ast.Name) and held.value.id == "self":
                found.append(node.attr)
    return sorted(found)


def is_given_tokens_alone(source: str) -> bool:
    """Return whether the mode's functions take tokens, types and sequences, and send embeddings of them."""
    taken = parameters(source)
    asked = {name: taken.get(name) for name in ("advance", "streams", "labels", "new_cache")}
    wanted = {"advance": ["caches", "tokens"], "streams": ["tokens", "types"], "labels": ["tokens", "types"]}
    return (
        asked == wanted | {"new_cache": []}
        and reads_of(source, "_channel") == ["infer", "infer", "sequence", "sequence"]
        and reads_of(source, "_model") == ["look_up"]
        and reads_of(source, "_encoder") == ["embed", "shape"]
        and "global" not in source
    )


@pytest.mark.requirement("MDL-G3")
def test_split_is_given_tokens_alone_and_reaches_no_code_that_knows_private_text() -> None:
    """The messages are functions of the tokens that the mode is given, the model and sequence numbers.

    Given: the source of the enclave's side (by machine: its syntax tree).
    Then: what it takes of a prompt is tokens and types; rows come from `look_up` or `embed`, and reach the
    worker in two places, through `infer`; no module that handles private text is imported by it or by what it
    imports. So whoever hands it sanitized tokens has sent nothing else (argued: `infer` sends its words, the
    number and the position of a sequence, and these count calls and rows).
    Assuming: nothing.
    Proves: MDL-G3.
    Pins: veil_optimized.split.SplitDecoder 79737451.
    Pins: veil_optimized.split.SplitEncoder 40875a3f.
    Pins: veil_optimized.session.Channel.infer 1f0534a8.
    Pins: veil_optimized.session.Channel.sequence 0df5a988.
    """
    source = (PACKAGE / "split.py").read_text("utf-8")
    assert is_given_tokens_alone(source)
    assert all((PACKAGE / f"{name}.py").is_file() for name in PRIVATE)
    assert {"session", "encoder", "model"} <= reached("split")
    assert not reached("split") & set(PRIVATE)


@pytest.mark.requirement("MDL-G3")
def test_negative_control_a_mode_that_is_given_the_text_is_seen() -> None:
    """Code that takes private text, or sends by another way, fails the check above.

    Controls: MDL-G3.
    """
    source = (PACKAGE / "split.py").read_text("utf-8")
    with_text = source.replace(
        "caches: Sequence[Kept], tokens:", "caches: Sequence[Kept], text: str, tokens:"
    )
    by_hand = source.replace(
        "        if not tokens or", "        self._channel.multiply(0)\n        if not tokens or"
    )
    for wrong in (with_text, by_hand):
        assert wrong != source
        assert not is_given_tokens_alone(wrong)
    assert imported("from veil_optimized.sanitizer import Sanitizer") & set(PRIVATE)
    assert imported("def late():\n    from veil_optimized import tabulated") & set(PRIVATE)


# 2. The view

DECODER: Final = replace(
    tiny_model.SMALL, vocabulary=4, width=2, inner=1, layers=1, heads=1, kv_heads=1, head_width=2
)
ENCODER: Final = replace(
    tiny_model.ENCODER, vocabulary=4, width=3, inner=1, layers=1, heads=1, types=1, labels=2
)
ROWS: Final = ((3, 1), (1, 3))
"""The law of the sanitizer: of four words, how many turn private token 0 or 1 into token 2 or 3."""
NOISE: Final = range(4)
COINS: Final = (0, 2**63, 2**64 - 1)
"""Words of the sampling tape."""
NEW: Final = 2
"""New tokens of a response."""
Prompt = tuple[int, ...]
View = tuple[bytes, ...]
Answer = Callable[[Sequence[bytes]], Iterator[bytes]]
"""A worker: the frames that it sends once it has seen these."""


@cache
def model_of(encoder: bool) -> Model:
    """Return the small model."""
    with TemporaryDirectory() as folder:
        shape = ENCODER if encoder else DECODER
        return load(tiny_model.write(Path(folder) / "model", shape, b"proof"))


def sanitized(private: Prompt, noise: Sequence[int], document: int = 0) -> Prompt:
    """Return the output of the reference's sanitizer for a prompt of tokens 0 and 1."""
    tape = ListedTape({(Domain.DRAW, document, n): word for n, word in enumerate(noise)})
    return tuple(2 + draw(ROWS[token], tape, n, document).index for n, token in enumerate(private))


def embedded(private: Prompt, public: Prompt) -> Prompt:
    """Return what an enclave embeds: the sanitized tokens."""
    return public


Embeds = Callable[[Prompt, Prompt], Prompt]
"""Returns the tokens that an enclave embeds for a private prompt and its sanitized form."""


def view(
    pairs: Sequence[tuple[Prompt, Prompt]], coins: Sequence[int], answer: Answer, embeds: Embeds = embedded
) -> View:
    """Return all that the worker is sent in an epoch with these (private, sanitized) prompts."""
    model, sent = model_of(encoder=False), list[bytes]()

    def handle(data: bytes) -> Iterator[bytes]:
        sent.append(data)
        yield from answer(sent)

    channel = Channel(LocalTransport(handle), EPOCH)
    words = {
        (Domain.SAMPLING, n, number): word for n in range(len(pairs)) for number, word in enumerate(coins)
    }
    try:
        channel.hello(model.digest)
        engine = SplitDecoder(model, channel)
        for n, pair in enumerate(pairs):
            generate(engine, embeds(*pair), NEW, choose=Drawn(Sampling(), ListedTape(words), n))
    except Refused:
        assert channel.ended
    return tuple(sent)


def welcome(seen: Sequence[bytes]) -> Iterator[bytes]:
    """Answer a HELLO with the model's own digest."""
    yield wire.encode(replace(wire.decode(seen[0]), kind=FrameKind.WELCOME))


def logits_of(seen: Sequence[bytes]) -> list[int]:
    """Return logits that depend on every byte that a worker has seen."""
    digest = hashlib.sha256(b"".join(seen)).digest()
    return [int.from_bytes(digest[4 * n : 4 * n + 2], "little") * 2**5 for n in range(DECODER.vocabulary)]


def lying(seen: Sequence[bytes]) -> Iterator[bytes]:
    """Answer with logits that depend on all that was seen."""
    asked = wire.decode(seen[-1])
    if asked.kind is FrameKind.HELLO:
        yield from welcome(seen)
        return
    payload = wire.pack(logits_of(seen), wire.SPLIT_MODULUS)
    numbers = (asked.group, asked.step, 0, 1, 1, DECODER.vocabulary, 6)
    yield wire.encode(Frame(FrameKind.ANSWER, asked.epoch, *numbers, payload))


def stopping(seen: Sequence[bytes]) -> Iterator[bytes]:
    """Answer like `lying`, and refuse where a bit of what was seen says so."""
    stops = len(seen) > 1 and logits_of(seen)[0] & 2**5
    yield from [wire.encode(wire.REFUSAL)] if stops else lying(seen)


def honest() -> Answer:
    """Return a worker that infers."""
    model = model_of(encoder=False)
    weights = place(model, "cpu")
    peer = Worker(weights, model.digest, "cpu", inference(model, weights))
    return lambda seen: peer.handle(seen[-1])


Seen = Mapping[tuple[object, ...], set[View]]


def views(embeds: Embeds = embedded, words: Sequence[int] = COINS) -> Seen:
    """Return the set of views for each (sanitized prompt, sampling words, worker): all prompts and tapes."""
    found: dict[tuple[object, ...], set[View]] = defaultdict(set)
    workers: dict[str, Answer] = {"lying": lying, "stopping": stopping}
    for length in (1, 2):
        for private, noise in product(product((0, 1), repeat=length), product(NOISE, repeat=length)):
            public = sanitized(private, noise)
            for coins, (name, worker) in product(product(words, repeat=NEW), workers.items()):
                found[public, coins, name].add(view([(private, public)], coins, worker, embeds))
            if length == 1:
                found[public, "honest"].add(view([(private, public)], COINS[1:], honest(), embeds))
    return found


@pytest.mark.requirement("MDL-G3")
def test_the_view_is_a_function_of_sanitized_tokens_sampling_words_and_answers() -> None:
    """Private prompts of equal sanitized text give byte for byte the same view.

    Given: all prompts of one and two private tokens, all words of the sanitizer's and the sampling tape, two
    workers that answer by all that they have seen, one of which stops by it (by machine: complete, on the
    running enclave with a small model); an honest worker for one token (checked).
    Then: one view for each sanitized prompt, sampling words and worker. More tokens: by the claim above, the
    enclave has nothing else to compute a message from (argued).
    Assuming: ACC-A1 and NMX-A3, for the sanitizer's words to be drawn once.
    Proves: MDL-G3.
    Pins: veil_optimized.generate.batch_steps 64dae6be.
    """
    found = views()
    assert len(found) == (2 + 4) * 2 * 3**NEW + 2
    assert all(len(each) == 1 for each in found.values())
    assert {len(next(iter(each))) for each in found.values()} == {2, 3}


@pytest.mark.requirement("MDL-G3")
def test_the_view_does_not_depend_on_what_was_private_before_in_the_epoch() -> None:
    """A second prompt's messages do not tell what the first one was before it was sanitized.

    Given: all pairs of private prompts of one token in one epoch, all words of the sanitizer's tape, one
    worker that answers by all that it has seen (by machine: complete).
    Then: one view for each pair of sanitized prompts.
    Assuming: nothing.
    Proves: MDL-G3.
    """
    found: dict[tuple[Prompt, Prompt], set[View]] = defaultdict(set)
    for (x, y), (a, b) in product(product((0, 1), repeat=2), product(NOISE, repeat=2)):
        first, second = sanitized((x,), [a]), sanitized((y,), [b], 1)
        found[first, second].add(view([((x,), first), ((y,), second)], COINS[:NEW], lying))
    assert len(found) == 4
    assert all(len(each) == 1 for each in found.values())


@pytest.mark.requirement("MDL-G3")
def test_negative_control_an_enclave_that_uses_the_private_prompt_has_another_view() -> None:
    """Each of these enclaves gives several views for one sanitized prompt.

    Controls: MDL-G3.
    """
    wrong: dict[str, Embeds] = {
        "embeds the private tokens": lambda private, public: private,
        "embeds one private token": lambda private, public: (*public[:-1], private[-1]),
        "pads where the private prompt says so": lambda private, public: public + (2,) * private[0],
    }
    for embeds in wrong.values():
        assert any(len(each) > 1 for each in views(embeds, COINS[:1]).values())


def encoder_view(private: Prompt, public: Prompt, embeds: Embeds) -> View:
    """Return all that a worker is sent for one sequence of an encoder."""
    model, sent = model_of(encoder=True), list[bytes]()
    weights = place(model, "cpu")
    peer = Worker(weights, model.digest, "cpu", inference(model, weights))

    def handle(data: bytes) -> Iterator[bytes]:
        sent.append(data)
        yield from peer.handle(data)

    channel = Channel(LocalTransport(handle), EPOCH)
    channel.hello(model.digest)
    SplitEncoder(model, channel).labels([embeds(private, public)])
    return tuple(sent)


def encoder_views(embeds: Embeds) -> list[set[View]]:
    """Return the set of views for each sanitized sequence of two tokens."""
    found: dict[Prompt, set[View]] = defaultdict(set)
    for private, noise in product(product((0, 1), repeat=2), product(NOISE, repeat=2)):
        public = sanitized(private, noise)
        found[public].add(encoder_view(private, public, embeds))
    return list(found.values())


@pytest.mark.requirement("MDL-G3")
def test_the_encoders_view_is_a_function_of_sanitized_tokens() -> None:
    """Private sequences of equal sanitized text give byte for byte the same view.

    Given: all sequences of two private tokens, all words of the sanitizer's tape (by machine: complete, on
    the running enclave with a small model).
    Then: one view for each sanitized sequence, and another for another one.
    Assuming: nothing.
    Proves: MDL-G3.
    """
    found = encoder_views(embedded)
    assert [len(each) for each in found] == [1] * 4
    assert len(set.union(*found)) == 4


@pytest.mark.requirement("MDL-G3")
def test_negative_control_an_encoder_that_embeds_the_private_tokens_has_another_view() -> None:
    """Embeddings of private tokens give several views for one sanitized sequence.

    Controls: MDL-G3.
    """
    assert any(len(each) > 1 for each in encoder_views(lambda private, public: private))


# 3. The certificate


def law(private: Prompt, embeds: Embeds) -> dict[View, Fraction]:
    """Return the probability of every view over uniform words, with a worker that lies."""
    found: dict[View, Fraction] = defaultdict(Fraction)
    tapes = list(product(product(NOISE, repeat=len(private)), product(COINS, repeat=NEW)))
    for noise, coins in tapes:
        public = sanitized(private, noise)
        found[view([(private, public)], coins, lying, embeds)] += Fraction(1, len(tapes))
    return found


def worst(embeds: Embeds) -> Fraction | None:
    """Return the largest ratio of a view's probabilities for prompts that differ in one token, if any."""
    laws = {private: law(private, embeds) for private in product((0, 1), repeat=2)}
    ratios = list[Fraction]()
    for one, other in product(laws, repeat=2):
        if sum(a != b for a, b in zip(one, other, strict=True)) == 1:
            if set(laws[one]) - set(laws[other]):
                return None
            ratios += [laws[one][seen] / laws[other][seen] for seen in laws[one]]
    return max(ratios)


@pytest.mark.requirement("MDL-G3")
def test_the_certificate_of_the_table_is_that_of_the_view() -> None:
    """What a worker sees is exactly as private as the sanitizer's output.

    Given: all prompts of two private tokens and all their neighbours, uniform words, a worker that answers by
    all that it has seen (by machine: complete, with exact fractions). In general: a function of an output and
    of independent words has no larger ratio (argued: sums of fractions), and embeddings of distinct rows tell
    the tokens, so it has no smaller one.
    Then: the largest ratio of two views' probabilities is 3, that of the table's weights.
    Assuming: ACC-A1, and that the words of sampling are independent of those of the sanitizer (TAP-A1).
    Proves: MDL-G3.
    """
    assert worst(embedded) == Fraction(max(map(max, ROWS)), min(map(min, ROWS))) == 3


@pytest.mark.requirement("MDL-G3")
def test_negative_control_one_private_token_in_the_view_has_no_certificate() -> None:
    """A view that one of two neighbours never gives has no finite ratio.

    Controls: MDL-G3.
    """
    assert worst(lambda private, public: (*public[:-1], private[-1])) is None
