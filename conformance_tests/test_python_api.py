"""The Python API: what transformers takes and returns, under every mode, and what is refused by name."""

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    TextStreamer,
    pipeline,
)

import veil
from veil import engines
from veil.engines import Opened, Turns, VeilConfig
from veil.modeling import folder_of
from veil.quantization import source_of
from veil.vectors import UNKNOWN
from veil_optimized import transcript, wire
from veil_optimized.launching import start_worker
from veil_optimized.sanitizer import Recipe, Sanitizer, build
from veil_optimized.tape import SeededTape
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import FrameKind

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)
VOCABULARY = 259
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
DECODER = SIZES | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**DECODER)),
    "mistral": (MistralForCausalLM, MistralConfig(**DECODER, sliding_window=5)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**DECODER)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**DECODER, head_dim=6)),
    "bert": (BertForSequenceClassification, BertConfig(**SIZES, num_labels=3)),
    "encoder": (BertModel, BertConfig(**SIZES)),
}
PLAIN = VeilConfig(mode="plain")
PRIVATE = "red blue green pink gold grey"
WORDS = [*PRIVATE.split(), "black", "white", UNKNOWN]
IDS = torch.tensor([[0, 0, 70, 71, 72], [80, 81, 82, 83, 84]])
MASK = (IDS != 0).long()


def write_tokenizer(folder: Path, side: str) -> None:
    """Write a tokenizer of one token a byte, with three special tokens and a chat template."""
    signs = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(signs)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=side, **SPECIAL)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


@pytest.fixture(scope="module", autouse=True)
def kept_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep integer models in a directory of this module's own."""
    before = os.environ.get("VEIL_CACHE")
    os.environ["VEIL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("VEIL_CACHE")
    os.environ |= {} if before is None else {"VEIL_CACHE": before}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what gives the directory of a family's random checkpoint."""
    root = tmp_path_factory.mktemp("checkpoints")

    def of(family: str) -> Path:
        if not (root / family).exists():
            kind, config = KINDS[family]
            torch.manual_seed(3)
            kind(config).save_pretrained(root / family)
            write_tokenizer(root / family, "left" if hasattr(config, "num_key_value_heads") else "right")
        return root / family

    return of


@pytest.fixture(scope="module")
def llama(checkpoint: Callable[[str], Path]) -> Iterator[Any]:
    """Return a decoder in mode plain."""
    with veil.from_pretrained(checkpoint("llama"), PLAIN) as model:
        yield model


@pytest.fixture(scope="module")
def original(checkpoint: Callable[[str], Path]) -> Any:
    """Return the float model of the same checkpoint."""
    return AutoModelForCausalLM.from_pretrained(checkpoint("llama"))


@pytest.fixture(scope="module")
def tables(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return tables of words and of tokens whose draws are close to uniform in parts of four."""
    folder = tmp_path_factory.mktemp("tables")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("llama"))
    names = [tokenizer.convert_ids_to_tokens(number) for number in range(VOCABULARY)]
    made = {}
    for kind, entries, kept in (("words", WORDS, {len(WORDS) - 1}), ("tokens", names, {0, 1, 2})):
        vectors = np.random.default_rng(5).standard_normal((len(entries), 6)).astype(np.float32)
        recipe = Recipe(kind, kind, part_size=4, epsilons=("0.1",), verbatim=frozenset(kept))
        made[kind] = folder / kind
        Sanitizer(build(entries, vectors, recipe)).save(made[kind])
    return made


@pytest.fixture(scope="module")
def workers(checkpoint: Callable[[str], Path]) -> Iterator[Callable[[str], str]]:
    """Return what gives the address of a running worker for a family's checkpoint."""
    with ExitStack() as stack:

        @cache
        def of(family: str) -> str:
            return stack.enter_context(start_worker(folder_of(checkpoint(family), None) / INTEGER_FILE))

        yield of


@pytest.fixture
def fixed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sanitizers draw from one tape: which words and tokens come is then the same in every run."""
    monkeypatch.setattr(engines, "SeededTape", lambda _: SeededTape(bytes(range(32))))


def refusal(action: Callable[[], object]) -> str:
    """Return the one line with which an action is refused."""
    with pytest.raises(Refused) as caught:
        action()
    assert "\n" not in caught.value.detail
    return str(caught.value)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_greedy_generation_returns_the_tensor_that_transformers_returns(
    family: str, checkpoint: Callable[[str], Path]
) -> None:
    folder = checkpoint(family)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    config = veil.VeilQuantizationConfig(mode="plain")
    quantized = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    with veil.from_pretrained(folder, PLAIN) as model:
        stop = int(theirs.generate(IDS, attention_mask=MASK, max_new_tokens=12)[0, 8])
        for more in (
            {},
            {"max_new_tokens": 12},
            {"max_length": 9},
            {"max_new_tokens": 9, "eos_token_id": [stop, 2]},
        ):
            expected = theirs.generate(IDS, attention_mask=MASK, **more)
            made = model.generate(IDS, MASK, **more)
            assert made.dtype == torch.int64 and torch.equal(made, expected)
            assert torch.equal(quantized.generate(IDS, attention_mask=MASK, **more), expected)
        ours, again = model(IDS, MASK).logits, quantized(IDS, attention_mask=MASK).logits
        assert torch.equal(ours, again)
        assert (ours - theirs(IDS, attention_mask=MASK).logits)[MASK > 0].abs().max() < 0.01
        assert model.config.model_type == quantized.config.model_type == family
    assert sum(tensor.numel() for tensor in quantized.parameters()) == 0
    quantized.close()


def test_without_a_mask_padding_is_guessed_as_transformers_guesses_it(llama: Any, original: Any) -> None:
    expected = original.generate(IDS, attention_mask=MASK, max_new_tokens=6)
    assert torch.equal(llama.generate(IDS, max_new_tokens=6), expected)
    masked_nothing = llama.generate(IDS, torch.ones_like(IDS), max_new_tokens=6)
    assert not torch.equal(masked_nothing, expected)


@pytest.mark.requirement("MDL-P3")
def test_a_ragged_batch_gives_each_prompt_what_it_gets_alone(llama: Any) -> None:
    options = {"max_new_tokens": 8, "do_sample": True, "seed": 5, "num_return_sequences": 3}
    together = llama.generate(IDS, MASK, **options).reshape(2, 3, -1)
    for row, ids, mask in zip(together, IDS, MASK, strict=True):
        alone = llama.generate(ids[mask > 0].unsqueeze(0), **options)
        new = alone[:, int(mask.sum()) :]
        assert torch.equal(row[:, 5 : 5 + new.shape[1]], new)
        assert bool((row[:, 5 + new.shape[1] :] == 0).all())
    assert len({tuple(row.tolist()) for row in together[1]}) == 3


def test_seeds_decide_and_the_system_gives_one_where_none_is_given(llama: Any) -> None:
    def drawn(**options: Any) -> list[int]:
        made = llama.generate(IDS[1:], do_sample=True, max_new_tokens=12, top_k=0, **options)
        return list(made[0].tolist())

    assert drawn(seed=9) == drawn(seed=(9).to_bytes(32, "big")) != drawn(seed=10)
    torch.manual_seed(0)
    first = drawn()
    torch.manual_seed(0)
    assert drawn() != first
    assert drawn(seed=9, top_p=1e-9) == llama.generate(IDS[1:], max_new_tokens=12)[0].tolist()
    assert refusal(lambda: drawn(seed=b"short")).startswith(Refusal.SEED_LENGTH)


def test_scores_and_logits_are_those_that_chose(llama: Any, original: Any) -> None:
    options = {
        "max_new_tokens": 4,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    made = llama.generate(IDS, MASK, **options)
    theirs = original.generate(IDS, attention_mask=MASK, **options)
    assert torch.equal(made.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        ours, expected = torch.stack(made[name]), torch.stack(theirs[name])
        assert ours.shape == expected.shape and (ours - expected).abs().max() < 0.01
    sampled = llama.generate(IDS, MASK, do_sample=True, top_k=3, seed=1, **options)
    chosen = sampled.sequences[:, 5:].T
    for scores, tokens in zip(sampled.scores, chosen, strict=True):
        assert bool((scores.isfinite().sum(-1) == 3).all())
        assert bool(scores[torch.arange(2), tokens].isfinite().all())
    assert llama.generate(IDS, MASK, return_dict_in_generate=True).scores is None


def test_stop_strings_end_a_text_where_transformers_ends_it(llama: Any, original: Any) -> None:
    tokenizer = llama.tokenizer
    new = llama.generate(IDS[1:], max_new_tokens=12)[0, 5:]
    text = next(sign for sign in map(tokenizer.decode, new) if sign.isascii() and sign.isprintable())
    options = {"max_new_tokens": 12, "stop_strings": [text], "tokenizer": tokenizer}
    made = llama.generate(IDS[1:], **options)
    assert torch.equal(made, original.generate(IDS[1:], **options))
    assert tokenizer.decode(made[0, -1]) == text and made.shape[1] < 17
    assert "tokenizer" in refusal(lambda: llama.generate(IDS, stop_strings=text))


def test_a_streamer_gets_what_is_returned_and_takes_one_prompt(llama: Any) -> None:
    class Listener(TextStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.heard: list[int] = []
            self.ended = False

        def put(self, value: torch.Tensor) -> None:
            self.heard += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    listener = Listener()
    made = llama.generate(IDS[1:], streamer=listener, max_new_tokens=5)
    assert listener.ended and listener.heard == made[0].tolist()
    assert "streamer" in refusal(lambda: llama.generate(IDS, streamer=listener))


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 2},
        {"repetition_penalty": 1.1},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5]]},
        {"min_new_tokens": 3},
        {"min_length": 3},
        {"do_sample": True, "min_p": 0.1},
        {"do_sample": True, "typical_p": 0.5},
        {"penalty_alpha": 0.6},
        {"max_time": 1.0},
        {"logits_processor": [print]},
        {"assistant_model": print},
        {"output_attentions": True},
        {"suppress_tokens": [4]},
        {"nonsense": 3},
    ],
)
def test_what_would_change_a_text_is_refused_by_its_name(setting: dict[str, Any], llama: Any) -> None:
    assert list(setting)[-1] in refusal(lambda: llama.generate(IDS, MASK, **setting))


def test_neutral_values_and_those_of_sampling_under_greedy_choice_are_taken(llama: Any) -> None:
    neutral = {"num_beams": 1, "repetition_penalty": 1.0, "typical_p": 1.0, "min_p": 0.3, "temperature": 0.2}
    made = llama.generate(IDS, MASK, max_new_tokens=6, use_cache=True, length_penalty=1.0, **neutral)
    assert torch.equal(made, llama.generate(IDS, MASK, max_new_tokens=6))


def test_the_checkpoints_own_settings_hold_and_a_penalty_in_them_is_not_ignored(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint("llama")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = {"max_new_tokens": 3, "repetition_penalty": 1.2}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    with veil.from_pretrained(tmp_path, PLAIN) as model:
        said = refusal(lambda: model.generate(IDS, MASK))
        assert "repetition_penalty" in said and "1.2" not in said
        assert model.generate(IDS, MASK, repetition_penalty=1.0).shape[1] == 8


def test_lengths_and_shapes_are_refused_by_name(llama: Any) -> None:
    assert "max_length" in refusal(lambda: llama.generate(IDS, MASK, max_length=5))
    assert refusal(lambda: llama.generate(IDS, MASK, max_new_tokens=93)).startswith(Refusal.CONTEXT_EXCEEDED)
    assert refusal(lambda: llama.generate(torch.zeros(1, 0).long())).startswith(Refusal.PROMPT_EMPTY)
    assert refusal(lambda: llama.generate(IDS, MASK * 0)).startswith(Refusal.PROMPT_EMPTY)
    assert "greedy" in refusal(lambda: llama.generate(IDS, MASK, num_return_sequences=2))
    assert "temperature" in refusal(lambda: llama.generate(IDS, MASK, do_sample=True, temperature=0.0))
    assert "inputs_embeds" in refusal(lambda: llama(IDS, inputs_embeds=torch.zeros(1)))
    assert "past_key_values" in refusal(lambda: llama(IDS, past_key_values=_float_cache()))


def _float_cache() -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0)
    return cache


def test_a_forward_call_goes_on_from_its_cache(llama: Any) -> None:
    whole = llama(IDS, MASK).logits
    first = llama(IDS[:, :3], MASK[:, :3])
    rest = llama(IDS[:, 3:], MASK, past_key_values=first.past_key_values)
    assert torch.equal(torch.cat([first.logits, rest.logits], dim=1), whole)
    assert torch.equal(llama(IDS, MASK, logits_to_keep=1).logits, whole[:, -1:])


@pytest.mark.parametrize("family", ["bert", "encoder"])
def test_encoders_answer_as_transformers_does(family: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint(family)
    auto = AutoModelForSequenceClassification if family == "bert" else AutoModel
    config = veil.VeilQuantizationConfig(mode="plain")
    quantized, theirs = auto.from_pretrained(folder, quantization_config=config), auto.from_pretrained(folder)
    with veil.from_pretrained(folder, PLAIN) as model:
        batch = model.tokenizer(["red blue", "pink"], padding=True, return_tensors="pt")
        kinds = torch.tensor([[0] * 4 + [1] * 4, [1] * 8])
        name = "logits" if family == "bert" else "last_hidden_state"
        present = slice(None) if family == "bert" else batch["attention_mask"] > 0
        for more in ({}, {"token_type_ids": kinds}):
            ours = model(**{**batch, **more})[name]
            assert torch.equal(ours, quantized(**{**batch, **more})[name])
            assert (ours - theirs(**{**batch, **more})[name])[present].abs().max() < 0.01
        alone = model(**model.tokenizer(["pink"], return_tensors="pt"))[name]
        assert torch.equal(alone[0], model(**batch)[name][1, : alone.shape[1]])
        sentences = model.embed(["red blue", "pink"])
        assert sentences.dtype == torch.float32 and sentences.shape == (2, SIZES["hidden_size"])
        if family == "encoder":
            assert (sentences[1] - alone[0].mean(0)).abs().max() < 1e-5
    quantized.close()


def test_pipelines_run_on_either_way_in(checkpoint: Callable[[str], Path], llama: Any, original: Any) -> None:
    folder, config = checkpoint("bert"), veil.VeilQuantizationConfig(mode="plain")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    quantized = AutoModelForSequenceClassification.from_pretrained(folder, quantization_config=config)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    texts = ["red", "green gold", "a"]
    with veil.from_pretrained(folder, PLAIN) as model:
        made = [
            pipeline("text-classification", model=each, tokenizer=tokenizer)(texts, batch_size=2)
            for each in (model, quantized, theirs)
        ]
        assert made[0] == made[1]
        assert [each["label"] for each in made[0]] == [each["label"] for each in made[2]]
        assert model.classify_text(texts) == [each["label"] for each in made[0]]
    quantized.close()
    tokenizer = llama.tokenizer
    answers = [
        pipeline("text-generation", model=each, tokenizer=tokenizer)(
            ["red", "blue and"], max_new_tokens=5, do_sample=False, batch_size=2, return_full_text=False
        )
        for each in (llama, original)
    ]
    assert answers[0] == answers[1]
    assert llama.generate_text(["red", "blue and"], max_new_tokens=5) == [
        each[0]["generated_text"] for each in answers[0]
    ]


def test_what_is_no_decoder_or_encoder_of_the_families_is_refused_by_name(tmp_path: Path) -> None:
    config = MixtralConfig(**DECODER, num_local_experts=2)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "left")
    quantization = veil.VeilQuantizationConfig(mode="plain")
    load = AutoModelForCausalLM.from_pretrained
    assert "Mixtral" in refusal(lambda: load(tmp_path, quantization_config=quantization))
    assert refusal(lambda: veil.from_pretrained(tmp_path, PLAIN)).startswith(Refusal.MODEL_UNSUPPORTED)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"mode": "hidden"}, "hidden"),
        ({"precision": "w4a4"}, "w4a4"),
        ({"profile": "none"}, "none"),
        ({"profile": "rank"}, "m-over-d"),
        ({"profile": "rank", "m_over_d": "3/2"}, "m_over_d"),
        ({"m_over_d": "1/2"}, "m-over-d"),
        ({"mode": "plain", "profile": "lwe"}, "profile"),
        ({"mode": "plain", "worker": "a:1"}, "worker"),
        ({"mode": "split"}, "table"),
        ({"mode": "split", "table": "t", "profile": "lwe"}, "profile"),
        ({"mode": "masked", "table": "t"}, "table"),
        ({"mode": "masked", "epsilon": "1"}, "epsilon"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_loaded(
    settings: dict[str, str], word: str
) -> None:
    assert word in refusal(lambda: VeilConfig(**settings))
    if settings.get("mode") != "split":
        assert word in refusal(lambda: veil.VeilQuantizationConfig(**settings))


def test_a_quantization_of_text_modes_is_refused() -> None:
    assert "from_pretrained" in refusal(lambda: veil.VeilQuantizationConfig(mode="both", table="t"))
    assert "tabel" in refusal(lambda: veil.VeilQuantizationConfig(tabel="t"))


@pytest.mark.requirement("MDL-G1")
def test_masked_models_give_the_bits_of_plain_ones_and_leave_no_process(
    checkpoint: Callable[[str], Path], llama: Any
) -> None:
    before = children()
    model = veil.from_pretrained(checkpoint("llama"))
    assert model.private and not llama.private and len(children()) == len(before) + 1
    options = {"do_sample": True, "seed": 4, "max_new_tokens": 6}
    assert torch.equal(model.generate(IDS, MASK, **options), llama.generate(IDS, MASK, **options))
    assert torch.equal(model.generate(IDS[1:], max_new_tokens=6), llama.generate(IDS[1:], max_new_tokens=6))
    del model
    gc.collect()
    assert children() == before
    config = veil.VeilQuantizationConfig(mode="masked")
    quantized = AutoModelForCausalLM.from_pretrained(checkpoint("llama"), quantization_config=config)
    assert quantized.private and len(children()) == len(before) + 1
    assert torch.equal(quantized(IDS, attention_mask=MASK).logits, llama(IDS, MASK).logits)
    del quantized
    gc.collect()
    assert children() == before


def children() -> set[int]:
    """Return the processes that this one started and that live."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "ps" not in line.split()[1]}


def test_a_program_that_forgets_to_close_ends_with_its_worker(checkpoint: Callable[[str], Path]) -> None:
    program = (
        "import sys, veil, subprocess, os\n"
        "model = veil.from_pretrained(sys.argv[1])\n"
        "print(subprocess.run(['ps', '-o', 'pid=', '--ppid', str(os.getpid())], "
        "capture_output=True, text=True).stdout.split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint("llama"))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def listen(model: Any) -> list[str]:
    """Return a list that fills with every text that a model's sanitizer gives out."""
    said: list[str] = []
    opened: Opened = model.opened
    assert opened.sanitizer is not None
    draw = opened.sanitizer.text

    def text(given: str) -> str:
        said.append(draw(given))
        return said[-1]

    opened.sanitizer.text = text  # type: ignore[method-assign, assignment]
    return said


def sent_tokens(model: Any, path: Path) -> list[list[int]]:
    """Return the tokens whose embeddings a transcript of split holds, by sequence, in their order."""
    rows = model.opened.model.look_up("embedding", range(VOCABULARY))
    names = {tuple(row): token for token, row in enumerate(rows.tolist())}
    found: list[list[int]] = []
    for message in transcript.messages(transcript.read(path)):
        if message.kind is FrameKind.EMBEDDED:
            if message.step == 0:
                found.append([])
            for row in message.elements.tolist():
                words = [word - wire.SPLIT_MODULUS if 2 * word > wire.SPLIT_MODULUS else word for word in row]
                found[-1].append(names[tuple(words)])
    return found


@pytest.mark.usefixtures("fixed_draws")
@pytest.mark.requirement("MDL-P5")
def test_a_conversation_in_split_sends_each_turn_once_sanitized_and_never_as_it_was(
    checkpoint: Callable[[str], Path],
    tables: dict[str, Path],
    llama: Any,
    workers: Callable[[str], str],
    tmp_path: Path,
) -> None:
    config = VeilConfig("split", worker=workers("llama"), table=tables["words"], transcript=tmp_path / "seen")
    with veil.from_pretrained(checkpoint("llama"), config) as model:
        assert model.private
        said, turns = listen(model), model.conversation()
        first = [{"role": "user", "content": PRIVATE}]
        answer = model.chat(first, turns, max_new_tokens=3)
        later = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": PRIVATE}]
        model.chat(later, turns, max_new_tokens=3)
        assert len(said) == 2
        assert PRIVATE not in said and said[0] != said[1]
        tokenizer = llama.tokenizer
        sent = [{"role": "user", "content": said[0]}]
        both = [*sent, later[1], {"role": "user", "content": said[1]}]
        prompts = [
            tokenizer.apply_chat_template(each, add_generation_prompt=True, return_dict=True)["input_ids"]
            for each in (sent, both)
        ]
        assert "conversation" in refusal(lambda: model.chat(later))
        ids = tokenizer(PRIVATE, return_tensors="pt")["input_ids"]
        assert "words" in refusal(lambda: model.generate(ids))
        assert "words" in refusal(lambda: model(ids, logits_to_keep=1))
        run = pipeline("text-generation", model=model, tokenizer=model.tokenizer)
        assert "words" in refusal(lambda: run(PRIVATE, max_new_tokens=3, do_sample=False))
        made = model.generate_text(PRIVATE, max_new_tokens=3)
        text = tokenizer(said[2])["input_ids"]
        assert made == llama.generate_text(said[2], max_new_tokens=3)
    found = sent_tokens(llama, tmp_path / "seen")
    assert [row[: len(prompt)] for row, prompt in zip(found, [*prompts, text], strict=True)] == [
        *prompts,
        text,
    ]
    assert [len(row) - len(prompt) for row, prompt in zip(found, [*prompts, text], strict=True)] == [2, 2, 2]


@pytest.mark.usefixtures("fixed_draws")
def test_a_table_of_tokens_sanitizes_ids_and_keeps_what_it_states(
    checkpoint: Callable[[str], Path],
    tables: dict[str, Path],
    llama: Any,
    workers: Callable[[str], str],
    tmp_path: Path,
) -> None:
    config = VeilConfig(
        "split", worker=workers("llama"), table=tables["tokens"], transcript=tmp_path / "seen"
    )
    with veil.from_pretrained(checkpoint("llama"), config) as model:
        prompt = torch.tensor([[1, *llama.tokenizer(PRIVATE)["input_ids"], 2]])
        made = model.generate(prompt, max_new_tokens=1)
        assert torch.equal(made[:, :-1], prompt)
        model.generate(prompt, max_new_tokens=1)
        assert "past_key_values" in refusal(
            lambda: model(prompt, past_key_values=llama(prompt).past_key_values)
        )
    first, second = sent_tokens(llama, tmp_path / "seen")
    for row in (first, second):
        assert len(row) == prompt.shape[1] and (row[0], row[-1]) == (1, 2)
        same = sum(given == sent for given, sent in zip(prompt[0].tolist(), row, strict=True))
        assert same < 2 + 0.7 * (len(row) - 2)
    assert first != second
    with veil.from_pretrained(checkpoint("llama"), PLAIN) as plain:
        assert int(plain.generate(torch.tensor([first]), max_new_tokens=1)[0, -1]) == int(made[0, -1])


@pytest.mark.parametrize("mode", ["split", "both"])
def test_sanitized_classification_gives_the_label_of_the_sanitized_text(
    mode: str, checkpoint: Callable[[str], Path], tables: dict[str, Path], workers: Callable[[str], str]
) -> None:
    texts = [PRIVATE, "red", "gold pink"]
    config = VeilConfig(mode, worker=workers("bert"), table=tables["words"])
    with (
        veil.from_pretrained(checkpoint("bert"), config) as model,
        veil.from_pretrained(checkpoint("bert"), PLAIN) as plain,
    ):
        said = listen(model)
        labels = model.classify_text(texts)
        assert labels == plain.classify_text(said) and len(said) == 3
        del said[:]
        if mode == "both":
            assert torch.equal(model.embed(texts), plain.embed(said)) and len(said) == 3
        raw = plain.tokenizer(texts[0], return_tensors="pt")
        assert "words" in refusal(lambda: model(**raw))


def test_turns_are_known_by_their_place_and_not_by_their_text() -> None:
    drawn = iter(range(100))
    turns = Turns(lambda text: f"{text}{next(drawn)}")
    assert turns.sent(["yes", "yes"]) == ["yes0", "yes1"]
    turns.answered("no")
    assert turns.sent(["yes", "yes", "no", "more"]) == ["yes0", "yes1", "no", "more2"]
    assert turns.sent(["yes", "altered", "no"]) == ["yes0", "altered3", "no4"]


def spied(model: Any) -> list[list[int]]:
    """Return a list that fills with every prompt that a decoder's engine takes in."""
    seen: list[list[int]] = []
    advance = model._engine.advance

    def noted(caches: Any, rows: Any, **options: Any) -> torch.Tensor:
        seen.extend(list(row) for row in rows)
        logits: torch.Tensor = advance(caches, rows, **options)
        return logits

    model._engine.advance = noted
    return seen


def test_ids_are_drawn_anew_whatever_was_cut_before_and_special_ones_as_the_table_says(
    checkpoint: Callable[[str], Path], workers: Callable[[str], str], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("llama"))
    names = [tokenizer.convert_ids_to_tokens(number) for number in range(VOCABULARY)]
    vectors = np.random.default_rng(5).standard_normal((VOCABULARY, 6)).astype(np.float32)
    recipe = Recipe("tokens", "tokens", part_size=4, epsilons=("0.1",), verbatim=frozenset({1}))
    Sanitizer(build(names, vectors, recipe)).save(tmp_path / "table")
    config = VeilConfig("both", worker=workers("llama"), table=tmp_path / "table")
    with veil.from_pretrained(checkpoint("llama"), config) as model:
        seen = spied(model)
        cut = model.tokenizer("a" * 80, return_tensors="pt")
        model.generate(**cut, max_new_tokens=1)
        special = torch.tensor([[1, 2] * 40])
        model.generate(special, max_new_tokens=1)
        run = pipeline("text-generation", model=model, tokenizer=model.tokenizer)
        run("a" * 80, max_new_tokens=1, do_sample=False)
        assert "attention_mask" in refusal(lambda: model.generate(special, torch.ones(1, 82)))
        assert "attention_mask" in refusal(lambda: model(special, torch.ones(80), logits_to_keep=1))
    text, marks, piped = seen
    same = cut["input_ids"][0].tolist()
    for row in (text, piped):
        assert sum(given == sent for given, sent in zip(same, row, strict=True)) < 56
    assert marks[::2] == [1] * 40 and marks[1::2].count(2) < 28


@pytest.mark.usefixtures("fixed_draws")
def test_a_conversation_belongs_to_the_model_that_made_it(
    checkpoint: Callable[[str], Path], tables: dict[str, Path], llama: Any, workers: Callable[[str], str]
) -> None:
    config = VeilConfig("both", worker=workers("llama"), table=tables["words"])
    turn = [{"role": "user", "content": PRIVATE}]
    with veil.from_pretrained(checkpoint("llama"), config) as model:
        seen = spied(model)
        for foreign in (llama.conversation(), Turns(str)):
            assert "conversation" in refusal(partial(model.chat, turn, foreign))
        assert seen == []
        model.chat(turn, model.conversation(), max_new_tokens=1)
    tokenizer = llama.tokenizer
    given = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert len(seen) == 1 and seen[0] != given


@pytest.mark.parametrize("part", ["config", "generation_config", "tokenizer"])
def test_code_of_a_model_is_never_run_and_unreadable_files_are_refused(
    part: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folder_of(checkpoint("llama"), None), folder)
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig, PreTrainedTokenizerFast\n"
        "class Own(LlamaConfig):\n    model_type = 'own'\nclass Cut(PreTrainedTokenizerFast):\n    pass\n"
    )
    altered: dict[str, dict[str, Any]] = {
        "config": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
        "tokenizer": {"tokenizer_class": "Cut", "auto_map": {"AutoTokenizer": ["own.Cut", "own.Cut"]}},
    }
    if part == "generation_config":
        (folder / "generation_config.json").write_text("{")
    else:
        path = folder / ("config.json" if part == "config" else "tokenizer_config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | altered[part]))
    monkeypatch.setattr("builtins.input", lambda *given: "y")

    def opened() -> None:
        with veil.from_pretrained(folder, PLAIN) as model:
            assert part == "tokenizer"
            _ = model.tokenizer

    assert refusal(opened).startswith(Refusal.MODEL_MALFORMED)
    assert not ran.exists() and "y/N" not in capsys.readouterr().out


def test_a_quantized_model_has_the_weights_that_transformers_would_load(
    checkpoint: Callable[[str], Path], tmp_path: Path, llama: Any
) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(checkpoint("llama"), outer)
    torch.manual_seed(4)
    LlamaForCausalLM(KINDS["llama"][1]).save_pretrained(outer / "inner")
    write_tokenizer(outer / "inner", "left")
    load, config = AutoModelForCausalLM.from_pretrained, veil.VeilQuantizationConfig(mode="plain")
    theirs = load(outer, subfolder="inner")
    with contextlib.closing(load(outer, subfolder="inner", quantization_config=config)) as quantized:
        logits = quantized(IDS[1:]).logits
        assert (logits - theirs(IDS[1:]).logits).abs().max() < 0.01
        assert (logits - llama(IDS[1:]).logits).abs().max() > 0.1
    for name, value in {"num_hidden_layers": 1, "rms_norm_eps": 1e-5, "hidden_act": "gelu"}.items():
        assert name in refusal(partial(load, outer, quantization_config=config, **{name: value}))
    (outer / "model.half.safetensors").write_bytes((outer / "model.safetensors").read_bytes())
    assert "variant" in refusal(lambda: load(outer, variant="half", quantization_config=config))
    load(outer, use_cache=False, quantization_config=config).close()


def test_a_name_of_the_hub_stands_for_its_default_revision_alone(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, other = checkpoint("llama"), checkpoint("qwen2")
    monkeypatch.setattr("veil.quantization.locate", lambda name: (fetched, "model"))
    assert source_of("someone/model", [str(fetched / "model.safetensors")]) == "someone/model"
    files = [str(other / "model.safetensors")]
    assert "revision" in refusal(lambda: source_of("someone/model", files))
    assert "state_dict" in refusal(lambda: source_of("someone/model", []))


def test_without_a_seed_each_prompt_draws_from_a_tape_of_its_own(llama: Any) -> None:
    options = {"do_sample": True, "max_new_tokens": 12, "top_k": 0, "eos_token_id": None}
    drawn = llama.generate(IDS[1:].repeat(3, 1), num_return_sequences=2, **options)
    assert len({tuple(row) for row in drawn.tolist()}) == 6
    seeded = llama.generate(IDS[1:].repeat(3, 1), seed=3, **options)
    assert len({tuple(row) for row in seeded.tolist()}) == 1


def test_padding_is_on_the_side_that_positions_are_counted_from(
    checkpoint: Callable[[str], Path], llama: Any
) -> None:
    wrong = [
        torch.tensor([[1, 1, 1, 0, 0]]),
        torch.tensor([[1, 0, 1, 1, 1]]),
        torch.tensor([[0, 0, 1, 2, 2]]),
    ]
    for mask in [*wrong, [[1] * 5]]:
        for call in (llama, llama.generate):
            assert "attention_mask" in refusal(partial(call, IDS[1:], mask))
    first = llama(IDS[1:, :3])
    for mask in (torch.tensor([[1, 1, 0, 1, 1]]), torch.ones(1, 2)):
        more = {"past_key_values": first.past_key_values}
        assert "attention_mask" in refusal(partial(llama, IDS[1:, 3:], mask, **more))
    with veil.from_pretrained(checkpoint("bert"), PLAIN) as model:
        for mask in (MASK[:1], wrong[1], torch.ones(1, 6)):
            assert "attention_mask" in refusal(partial(model, IDS[1:], mask))
        assert torch.equal(model(IDS[1:], wrong[0]).logits, model(IDS[1:, :3]).logits)
        types = torch.zeros(1, 4).long()
        assert "token_type_ids" in refusal(lambda: model(IDS[1:], token_type_ids=types))


def test_no_limit_is_none_as_in_transformers(llama: Any) -> None:
    options = {"do_sample": True, "return_dict_in_generate": True, "output_scores": True, "seed": 1}
    for given, kept in (({"top_k": None}, VOCABULARY), ({"top_k": 0}, VOCABULARY), ({}, 50)):
        scores = llama.generate(IDS[1:], max_new_tokens=1, **options, **given).scores[0]
        assert int(scores.isfinite().sum()) == kept


SECRET = 70123


@pytest.mark.parametrize(
    "name, value",
    [
        ("bad_words_ids", [[SECRET]]),
        ("prompt", f"{SECRET}"),
        ("max_new_tokens", -SECRET),
        ("max_length", f"{SECRET}"),
        ("temperature", "1/0"),
        ("temperature", "1e999999999"),
        ("temperature", f"{SECRET}"),
        ("top_p", torch.tensor([SECRET])),
        ("top_k", torch.tensor([SECRET, SECRET])),
        ("token_type_ids", torch.tensor([[SECRET, SECRET]])),
        ("do_sample", torch.tensor([SECRET, SECRET])),
        ("eos_token_id", f"{SECRET}"),
        ("seed", SECRET + 0.5),
        ("inputs", [[SECRET]]),
        ("inputs", torch.tensor([[70.5]])),
    ],
)
def test_a_refusal_names_an_argument_and_never_its_value(name: str, value: Any, llama: Any) -> None:
    given = {"inputs": IDS[1:], "do_sample": True, name: value}
    said = refusal(lambda: llama.generate(**given))
    shown = {"inputs": "input_ids"}.get(name, name)
    assert shown in said and str(SECRET) not in said and "70.5" not in said


def test_forward_refuses_a_tensor_of_places_and_goes_on_outside_inference_mode(llama: Any) -> None:
    places = torch.tensor([0, 2])
    assert "logits_to_keep" in refusal(lambda: llama(IDS, MASK, logits_to_keep=places))
    with torch.inference_mode():
        first = llama(IDS[:, :3], MASK[:, :3])
    rest = llama(IDS[:, 3:], MASK, past_key_values=first.past_key_values)
    assert torch.equal(rest.logits, llama(IDS, MASK).logits[:, 3:])
    assert "batch" in refusal(lambda: llama(IDS[:1], past_key_values=first.past_key_values))
