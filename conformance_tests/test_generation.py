"""Text in and out of a model: characters, stop strings, chat templates, sampling, ragged batches, labels."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from veil import requests
from veil.answering import Service
from veil.engines import Opened, Turns, VeilConfig, open_engine
from veil.importer import import_model
from veil.requests import Drawing, Request, TextsRequest, drawing, read
from veil.text import REPLACEMENT, Answer, StopStrings, Text, Turn
from veil_optimized import decoder, generate, transcript, wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.encoder import Encoder, sentence
from veil_optimized.generate import batch_steps, steps_of
from veil_optimized.model import Model, load, plain_products
from veil_optimized.profiles import Masking
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport, RecordingTransport
from veil_optimized.worker import Worker, inference, place
from veil_spec import __version__
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import FrameKind, Sampling

EPOCH = bytes(range(16))
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('a system turn comes first') }}{% endif %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% set ns = namespace(said=false) %}{% set ns.said = true %}"
    "{% if add_generation_prompt and ns.said %}<|assistant|>\n{% endif %}"
)
CHATTED = [Turn("system", "Be brief."), Turn("user", " naïve 日本 <|end|>"), Turn("assistant", "ok")]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tokenizer of bytes with a chat template, special tokens and two tokens that end a text."""
    folder = tmp_path_factory.mktemp("chatty")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "<|end|>", "<|stop|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>")
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    ends = [tokenizer.token_to_id("<|stop|>"), 5]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


@pytest.fixture(scope="module")
def text(chatty: Path) -> Text:
    """Return the tokenizer."""
    return Text(chatty)


def refused(action: Any) -> Refused:
    """Return how an action is refused."""
    with pytest.raises(Refused) as caught:
        action()
    assert caught.value.detail and "\n" not in caught.value.detail
    return caught.value


# Characters


@given(st.text(max_size=12), st.lists(st.integers(6, 255), max_size=12), st.integers(0, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_add_up_to_the_text_without_half_a_character(
    text: Text, whole: str, others: list[int], count: int
) -> None:
    cut = text.plain_tokens(whole.encode("utf-8", "replace").decode())
    tokens = [token for token in cut + others if token not in text.stop][:count]
    pieces = list(text.pieces(tokens))
    assert "".join(pieces) == text.shown(tokens).rstrip(REPLACEMENT)
    assert all(pieces)


def test_a_character_of_four_tokens_comes_as_one_piece(text: Text) -> None:
    tokens = text.plain_tokens("a🙂b")
    assert len(tokens) == 6
    assert list(text.pieces(tokens)) == ["a", "🙂", "b"]
    assert list(text.pieces(tokens[:4])) == ["a"]


def test_negative_control_pieces_of_single_tokens_would_show_halves(text: Text) -> None:
    tokens = text.plain_tokens("🙂")
    assert "".join(text.token(token) for token in tokens) == 4 * REPLACEMENT


# Stop strings


def first_end(whole: str, stops: list[str]) -> str:
    """Return the text before the stop string that is complete first, found by looking at every beginning."""
    for end in range(len(whole) + 1):
        ended = [stop for stop in stops if whole[:end].endswith(stop)]
        if ended:
            return whole[: end - max(map(len, ended))]
    return whole


@given(
    st.lists(st.text(alphabet="ab", max_size=4), max_size=8),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_ends_the_text_wherever_pieces_begin(pieces: list[str], stops: list[str]) -> None:
    strings, said = StopStrings(stops), ""
    for piece in pieces:
        if not strings.found:
            said += strings.add(piece)
            assert first_end("".join(pieces), stops).startswith(said)
    said += "" if strings.found else strings.end()
    assert said == first_end("".join(pieces), stops)


def test_stop_strings_and_stop_tokens_end_an_answer(text: Text) -> None:
    tokens = text.plain_tokens("one\nUser: two")
    answer = Answer(text.shown, text.stop, ["\nUser:"])
    said = "".join(answer.add(token) for token in tokens[: len("one\nUser:")])
    assert (said + answer.end(), answer.stopped) == ("one", True)
    unfinished = Answer(text.shown, text.stop, ["\nUser:"])
    said = "".join(unfinished.add(token) for token in tokens[: len("one\nUser")])
    assert (said, unfinished.stopped) == ("one", False)
    assert unfinished.end() == "\nUser"
    ended = Answer(text.shown, text.stop)
    assert (ended.add(5), ended.stopped) == ("", True)


# Tokens and chat templates


def test_tokens_are_those_of_transformers(text: Text, chatty: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(chatty)
    said = " naïve <|end|> 日本 🙂"
    assert text.raw(said) == theirs(said)["input_ids"]
    assert text.raw(said)[0] == theirs.bos_token_id
    assert (
        text.plain_tokens(said)
        == theirs(said, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    )
    for turns in ([Turn("user", said)], CHATTED):
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert text.chat(turns) == list(expected["input_ids"])
    assert text.size == len(theirs) == 259
    names = [theirs.convert_ids_to_tokens(number) for number in range(259)]
    assert text.vocabulary(260) == [*names, "<unused 259>"]


def test_every_token_of_the_configuration_and_of_the_tokenizer_ends_a_text(text: Text, chatty: Path) -> None:
    ids = {
        name: AutoTokenizer.from_pretrained(chatty).convert_tokens_to_ids(name)
        for name in ("<|end|>", "<|stop|>")
    }
    assert text.stop == {*ids.values(), 5}


def test_a_template_that_refuses_is_named_and_its_message_is_never_shown(
    text: Text, chatty: Path, tmp_path: Path
) -> None:
    late = refused(lambda: text.chat([Turn("user", "hi"), Turn("system", "late")]))
    (tmp_path / "tokenizer.json").write_bytes((chatty / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception(messages[0]['content']) }}")
    private = [Turn("user", "secret words")]
    repeated = refused(lambda: Text(tmp_path).chat(private))
    assert late.reason is repeated.reason is Refusal.PROMPT_MALFORMED
    assert "chat template refuses" in late.detail
    assert late.detail == repeated.detail
    assert "secret" not in "".join(traceback.format_exception(repeated))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(_x=1) }}",
        "{{ 1 / 0 }}",
        "{% for",
    ],
)
def test_a_template_that_leaves_its_sandbox_or_breaks_is_refused(
    chatty: Path, tmp_path: Path, template: str
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((chatty / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    broken = refused(lambda: Text(tmp_path).chat([Turn("user", "secret words")]))
    assert broken.reason in (Refusal.PROMPT_MALFORMED, Refusal.MODEL_MALFORMED)
    assert "secret" not in str(broken)


def test_turns_without_a_template_are_refused(chatty: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((chatty / "tokenizer.json").read_bytes())
    text = Text(tmp_path)
    assert text.chat([Turn("user", "hi")]) == text.raw("hi")
    assert refused(lambda: text.chat(CHATTED)).reason is Refusal.PROMPT_MALFORMED


# Requests


def test_a_request_survives_its_line() -> None:
    drawn = Drawing(Sampling(Fraction(4, 5), 40, Fraction(19, 20)), bytes(range(32)), 3)
    turns = (
        requests.Message(role="system", content="Be brief."),
        requests.Message(role="user", content="Hi"),
    )
    asked = [
        Request("text", 8),
        Request(turns, 8, stop=("\n",), drawing=drawn, conversation="a", at_once=2),
        Request("", 1, batch=("text", turns), system="Be kind.", raw=True),
    ]
    for request in asked:
        assert read(request.line()) == request
    assert read(TextsRequest("embed", ("a", "b")).line()) == TextsRequest("embed", ("a", "b"))
    assert read('{"prompt": "a", "new_tokens": 1, "temperature": 0.25, "seed": 7}') == Request(
        "a", 1, drawing=Drawing(Sampling(Fraction(1, 4)), bytes(31) + b"\7")
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a"},
        {"prompt": "a", "messages": [], "new_tokens": 1},
        {"messages": [], "new_tokens": 1},
        {"messages": [{"role": "user"}], "new_tokens": 1},
        {"batch": [], "new_tokens": 1},
        {"batch": ["a"], "new_tokens": 1},
        {"prompt": "a", "new_tokens": True},
        {"prompt": "a", "new_tokens": 1, "stop": [""]},
        {"prompt": "a", "new_tokens": 1, "temprature": 1},
        {"prompt": "a", "new_tokens": 1, "temperature": "1e9999999"},
        {"prompt": "a", "new_tokens": 1, "temperature": "1/0"},
        {"prompt": "a", "new_tokens": 1, "temperature": 1, "samples": 0},
        {"prompt": "a", "new_tokens": 1, "temperature": 1, "seed": "xyz"},
        {"prompt": "a", "new_tokens": 1, "top_k": 3},
        {"prompt": "a", "new_tokens": 1, "at_once": 0},
        {"classify": []},
        {"classify": ["a"], "new_tokens": 1},
    ],
)
def test_a_broken_request_is_refused_by_name(fields: Mapping[str, object]) -> None:
    names = (Refusal.FRAME_MALFORMED, Refusal.SAMPLING_OUT_OF_RANGE, Refusal.SEED_LENGTH)
    assert refused(lambda: read(json.dumps(fields))).reason in names


@pytest.mark.requirement("MDL-R22")
@pytest.mark.parametrize(
    ("name", "value"), [("temperature", "65"), ("temperature", "0.01"), ("top_p", "1.5"), ("top_k", 0)]
)
def test_a_sampling_out_of_range_is_refused_under_the_user_s_name(name: str, value: object) -> None:
    caught = refused(lambda: drawing({"temperature": "1", name: value}, lambda field: f"<{field}>"))
    assert caught.reason is Refusal.SAMPLING_OUT_OF_RANGE
    assert caught.detail.startswith(f"<{name}>")


# Batches


@pytest.fixture(scope="module")
def model(imported: Path) -> Model:
    """Return the small Llama."""
    return load(imported / INTEGER_FILE)


@pytest.fixture(scope="module")
def service(imported: Path, model: Model) -> Service:
    """Return what answers requests with plain inference."""
    return Service(Opened(model, VeilConfig(mode="plain")), Text(imported))


def said(service: Service, request: Request) -> dict[tuple[int, int], tuple[str, int, str]]:
    """Return text, count of tokens and reason to end of each sequence."""
    texts: dict[tuple[int, int], str] = {}
    found = {}
    for reply in service.replies(request.line()):
        assert "refusal" not in reply, reply
        if "done" in reply:
            continue
        place = reply["index"], reply["sample"]
        texts[place] = texts.get(place, "") + reply.get("piece", "")
        if "finish" in reply:
            found[place] = texts[place], reply["tokens"], reply["finish"]
    return found


PROMPTS = ("w3 w1 w4", "w2", "w9 w8 w7 w6 w5 w4", "w2")
DRAWN = Drawing(Sampling(Fraction(3, 2), 30, Fraction(9, 10)), bytes(range(32)), 2)


@pytest.mark.requirement("MDL-P3")
@pytest.mark.parametrize("drawn", [requests.GREEDY, DRAWN])
def test_a_prompt_gets_the_same_text_alone_and_among_others(service: Service, drawn: Drawing) -> None:
    request = Request("", 6, batch=PROMPTS, drawing=drawn)
    together = said(service, request)
    assert len(together) == len(PROMPTS) * drawn.samples
    assert len({text for text, _, _ in together.values()}) > 2
    assert together == said(service, replace(request, at_once=3))
    for index, prompt in enumerate(PROMPTS):
        alone = said(service, replace(request, batch=(prompt,)))
        assert alone == {(0, n): together[index, n] for n in range(drawn.samples)}


def test_a_sequence_that_ends_leaves_the_batch_and_changes_nothing_for_others(service: Service) -> None:
    request = Request("", 6, batch=PROMPTS)
    free = said(service, request)
    word = free[0, 0][0].split()[2]
    stopped = said(service, replace(request, stop=(word,)))
    for sequence, (words, _, _) in free.items():
        before, found, _ = words.partition(word)
        text, count, reason = stopped[sequence]
        assert (text, reason) == (before, "stop" if found else "length")
        assert (count < 6) == bool(found and words.split()[-1] != word)


def test_without_a_seed_each_prompt_has_one_of_its_own(service: Service) -> None:
    drawn = Drawing(Sampling(Fraction(64)), None, 1)
    found = said(service, Request("", 12, batch=("w2", "w2"), drawing=drawn))
    assert found[0, 0] != found[1, 0]


def test_a_bad_prompt_of_several_is_refused_with_its_place(service: Service) -> None:
    replies = list(service.replies(Request("", 2, batch=("w1", " ")).line()))
    assert (replies[-1]["refusal"], replies[-1]["index"]) == (Refusal.PROMPT_EMPTY, 1)


@pytest.mark.requirement("MDL-P3")
def test_a_batch_sends_the_rows_of_all_sequences_in_order_and_none_for_padding(
    model: Model, tmp_path: Path
) -> None:
    prompts, masked = [[3, 1, 4], [2], [9, 8, 7, 6, 5]], dict[tuple[int, int], torch.Tensor]()
    alone: list[dict[tuple[int, int], torch.Tensor]] = []
    lengths = [4, 1, 3]
    for prompt, length in zip(prompts, lengths, strict=True):
        alone.append(rows_alone(model, prompt, length))
    header = transcript.Header(
        __version__, model.digest, "pad", None, EPOCH, tuple(g.modulus for g in model.groups)
    )
    inner = LocalTransport(Worker(place(model, "cpu"), model.digest).handle)
    with Channel(RecordingTransport(inner, tmp_path / "seen", header), EPOCH) as channel:
        enclave = Enclave(
            model, channel, Masking(), witness=lambda group, step, rows: masked.update({(group, step): rows})
        )
        enclave.open()
        counts = [0, 0, 0]

        def ends(place: int, token: int) -> bool:
            counts[place] += 1
            return counts[place] == lengths[place]

        list(batch_steps(Decoder(model, enclave.products), prompts, 4, ends))
        enclave.close()
    steps = sorted({step for _, step in masked})
    for number, step in enumerate(steps):
        for group in model.groups:
            expected = torch.cat(
                [part[group.number, number] for part in alone if (group.number, number) in part]
            )
            assert torch.equal(masked[group.number, step], expected)
    sent = dict[tuple[int, int], int]()
    for record in transcript.read(tmp_path / "seen").records:
        frame = wire.decode(record.data)
        if frame.kind is FrameKind.MULTIPLY:
            sent[frame.group, frame.step] = frame.total_rows
    assert sent == {place: len(rows) for place, rows in masked.items()}
    assert [sent[0, step] for step in steps] == [9, 2, 2, 1]


@pytest.mark.requirement("MDL-P3")
@pytest.mark.parametrize("piece", [1, 3, 6])
def test_a_prompt_of_several_steps_gets_the_same_words(
    model: Model, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, widest = [[3, 1, 4, 1, 5, 9, 2], [2], [6, 5, 3]], list[int]()

    def products(group: Any, inputs: torch.Tensor) -> torch.Tensor:
        widest.append(len(inputs))
        return plain_products(group, inputs)

    def made() -> list[list[int]]:
        found = list(batch_steps(Decoder(model, products), prompts, 3, lambda place, token: False))
        return [[step[place].token for step in found] for place in range(len(prompts))]

    whole = made()
    assert (steps_of(prompts), max(widest)) == (1, 11)
    monkeypatch.setattr(generate, "PIECE", piece)
    widest.clear()
    assert made() == whole
    assert max(widest) <= max(piece, len(prompts))
    assert steps_of(prompts) == -(-7 // max(1, piece // 3))
    assert len(widest) == (steps_of(prompts) + 2) * len(model.groups)


@pytest.mark.requirement("MDL-P3")
def test_a_cache_that_grows_keeps_what_it_held(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    expected = Decoder(model).step(tokens, every_position=True)
    monkeypatch.setattr(decoder, "FIRST_ROOM", 2)
    running = Decoder(model)
    assert torch.equal(torch.cat([running.step([token]) for token in tokens]), expected)


@pytest.mark.requirement("MDL-P3")
@pytest.mark.parametrize("failing", [0, 5, -1])
def test_a_step_that_failed_can_be_taken_again(model: Model, failing: int) -> None:
    broken = [model.groups[failing].number]

    def products(group: Any, inputs: torch.Tensor) -> torch.Tensor:
        if group.number in broken:
            broken.remove(group.number)
            raise KeyboardInterrupt
        return plain_products(group, inputs)

    running = Decoder(model, products)
    with pytest.raises(KeyboardInterrupt):
        running.step([3, 1, 4])
    assert torch.equal(running.step([3, 1, 4]), Decoder(model).step([3, 1, 4]))
    assert torch.equal(running.step([1]), Decoder(model).step([3, 1, 4, 1]))


@pytest.mark.requirement("MDL-P3")
def test_pads_are_minted_for_the_steps_after_a_long_prompt(
    imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "PIECE", 2)
    prompt = [3, 1, 4, 1, 5]
    with open_engine(imported, VeilConfig()) as opened:
        assert opened.enclave is not None
        opened.mint_ahead(prompt, 4)
        list(batch_steps(opened.decoder(), [prompt], 4, lambda place, token: False))
        layers = sum(group.weights.numel() for group in opened.model.groups[:-1])
        head = opened.model.groups[-1].weights.numel()
        assert opened.enclave._profile.macs == (len(prompt) + 3) * layers + (3 + 3) * head


def rows_alone(model: Model, prompt: list[int], length: int) -> dict[tuple[int, int], torch.Tensor]:
    """Return the rows of each group and step of a sequence that runs alone."""
    rows: dict[tuple[int, int], torch.Tensor] = {}
    calls = [0] * len(model.groups)

    def products(group: Any, inputs: torch.Tensor) -> torch.Tensor:
        rows[group.number, calls[group.number]] = inputs
        calls[group.number] += 1
        return plain_products(group, inputs)

    list(batch_steps(Decoder(model, products), [prompt], length, lambda place, token: False))
    return rows


# Labels and embeddings


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Service]]:
    """Yield an imported BERT with two labels, and what answers requests with it."""
    base = tmp_path_factory.mktemp("bert")
    folder = write_bert(base / "float")
    import_model(folder, base / "model")
    opened = Opened(load(base / "model" / INTEGER_FILE), VeilConfig(mode="plain"))
    yield folder, Service(opened, Text(base / "model"))


def write_bert(folder: Path) -> Path:
    """Return a random BERT with labels NO and YES and 40 words."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=24,
        id2label={0: "NO", 1: "YES"},
        label2id={"NO": 0, "YES": 1},
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(36))]
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


TEXTS = ("w1 w2 w3", "w4", "w9 w8 w7 w6 w5 nonsense", "w30 w31")


def test_labels_are_those_of_transformers_whatever_the_batch(classifier: tuple[Path, Service]) -> None:
    folder, service = classifier
    theirs = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    together = list(service.replies(TextsRequest("classify", TEXTS).line()))
    assert together.pop() == {"done": True, "not_private": True}
    for text, reply in zip(TEXTS, together, strict=True):
        with torch.no_grad():
            logits = theirs(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = dict(zip(("NO", "YES"), logits.softmax(0).tolist(), strict=True))
        assert reply["label"] == max(expected, key=lambda name: expected[name])
        assert reply["scores"] == pytest.approx(expected, abs=1e-3)
        (alone, _) = service.replies(TextsRequest("classify", (text,)).line())
        assert alone == {**reply, "index": 0}
    assert len({reply["label"] for reply in together}) == 2


def test_an_embedding_is_the_mean_of_the_last_stream(classifier: tuple[Path, Service]) -> None:
    folder, service = classifier
    model, cut = load(folder.parent / "model" / INTEGER_FILE), Text(folder)
    replies = list(service.replies(TextsRequest("embed", TEXTS).line()))[:-1]
    for text, reply in zip(TEXTS, replies, strict=True):
        words = sentence(Encoder(model).streams([cut.sequence(text)[0]])[0])
        assert reply["embedding"] == [word / 2**24 for word in words.tolist()]


def test_a_decoder_has_no_labels_and_an_encoder_no_text(
    service: Service, classifier: tuple[Path, Service]
) -> None:
    for answering, request in (
        (service, TextsRequest("classify", ("w1",))),
        (service, TextsRequest("embed", ("w1",))),
        (classifier[1], Request("w1", 2)),
    ):
        (reply,) = answering.replies(request.line())
        assert reply["refusal"] == Refusal.MODEL_UNSUPPORTED


def test_a_text_that_is_too_long_is_refused_with_its_place(classifier: tuple[Path, Service]) -> None:
    (reply,) = classifier[1].replies(TextsRequest("classify", ("w1", "w1 " * 40)).line())
    assert (reply["refusal"], reply["index"]) == (Refusal.CONTEXT_EXCEEDED, 1)


@pytest.mark.requirement("MDL-P5")
def test_a_named_conversation_sends_its_turns_again_as_they_were(imported: Path, model: Model) -> None:
    drawn = iter(range(10))
    opened = Opened(model, VeilConfig(mode="split", table="unused"))
    opened.turns = lambda: Turns(lambda text: f"{text}{next(drawn)}")  # type: ignore[method-assign]
    service = Service(opened, Text(imported))
    turns = tuple(requests.Message(role="user", content=word) for word in ("a", "b", "c"))

    def sent(prompt: requests.Prompt, name: str | None) -> list[str]:
        return [turn.content for turn in service._turns(prompt, Request(prompt, 1, conversation=name))]

    assert sent(turns[:2], "one") == ["a0", "b1"]
    assert sent(turns, "one") == ["a0", "b1", "c2"]
    assert sent(turns[:1], "two") == ["a3"]
    assert sent(turns[:1], None) == ["a4"]
    assert sent(turns[:1], None) == ["a5"]
    with pytest.raises(Refused, match="name the conversation"):
        sent(turns, None)


def test_an_answer_that_comes_back_without_its_white_space_redraws_nothing() -> None:
    drawn = iter(range(10))
    turns = Turns(lambda text: f"{text}{next(drawn)}")
    assert turns.sent(["a"]) == ["a0"]
    turns.answered(" yes ")
    assert turns.sent(["a", "yes", "b"]) == ["a0", " yes ", "b1"]
    assert turns.sent(["a", "no", "b"]) == ["a0", "no2", "b3"]
    assert turns.sent(["a", "no ", "b"]) == ["a0", "no 4", "b5"]
    assert turns.sent(["a"]) == ["a0"]
    assert turns.sent(["a", "no "]) == ["a0", "no 6"]


def seen_of(
    imported: Path, model: Model, path: Path, prompt: str, sanitize: Callable[[str], str]
) -> list[bytes]:
    """Return all frames that a worker sees of one request in mode split."""
    header = transcript.Header(__version__, model.digest, "split", None, EPOCH, ())
    weights = place(model, "cpu")
    inner = LocalTransport(Worker(weights, model.digest, "cpu", inference(model, weights)).handle)
    with Channel(RecordingTransport(inner, path, header), EPOCH) as channel:
        channel.hello(model.digest)
        opened = Opened(model, VeilConfig(mode="split", table="unused"), channel=channel)
        opened.turns = lambda: Turns(sanitize)  # type: ignore[method-assign]
        service = Service(opened, Text(imported))
        service._statement = lambda: ""  # type: ignore[method-assign]
        drawn = Drawing(Sampling(), bytes(range(32)), 1)
        replies = list(service.replies(Request(prompt, 4, raw=True, drawing=drawn).line()))
        assert replies[-1].get("done")
    return [record.data for record in transcript.read(path).records]


@pytest.mark.requirement("MDL-G3")
def test_private_texts_of_one_sanitized_text_look_the_same_to_a_worker(
    imported: Path, model: Model, tmp_path: Path
) -> None:
    def hide(text: str) -> str:
        return text.replace("w4", "w3")

    one, other = (
        seen_of(imported, model, tmp_path / name, prompt, hide)
        for name, prompt in (("one", "w3 w1 w3"), ("other", "w4 w1 w3"))
    )
    assert one == other
    control = seen_of(imported, model, tmp_path / "control", "w4 w1 w3", str)
    assert control != one
