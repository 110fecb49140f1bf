"""Models that are called as those of transformers are, and run on integers under a mode."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
)
from transformers.models.auto import modeling_auto

from veil.engines import Opened, Turns, VeilConfig, open_engine
from veil.forward import (
    Clean,
    IntegerCache,
    batch_of,
    decoder_forward,
    encoder_labels,
    encoder_streams,
    present_of,
    refuse_others,
    rows_of,
    shown_streams,
    unchanged,
)
from veil.gate import sanitized
from veil.generation import Plan, plan, shown_logits
from veil.loading import resolve
from veil_optimized import encoder as encoders
from veil_optimized.generate import Engine, Step, batch_steps
from veil_spec import constants
from veil_spec.architecture import DecoderShape, EncoderShape, Precision
from veil_spec.refusals import Refusal, Refused

Progress = Callable[[str], None]
Message = Mapping[str, str]


def config_of_shape(shape: DecoderShape | EncoderShape) -> PreTrainedConfig:
    """Return what transformers would call a model of this shape, where its own configuration is gone."""
    common: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.context,
    }
    if isinstance(shape, EncoderShape):
        common |= {"num_labels": shape.labels} if shape.labels else {}
        return BertConfig(**common, type_vocab_size=shape.types, layer_norm_eps=float(shape.norm_epsilon))
    kind = LlamaConfig
    if shape.head_norms:
        kind = Qwen3Config
    elif shape.qkv_biased and not shape.o_biased:
        kind = Qwen2Config
    elif shape.window:
        kind = MistralConfig
    return kind(
        **common,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        rms_norm_eps=float(shape.norm_epsilon),
        tie_word_embeddings=shape.tied,
    )


UNREADABLE: Final = (OSError, ValueError, TypeError, AttributeError, KeyError, ImportError)
"""What transformers raises where a file of a model cannot be read, or asks to run code of its own."""


def _config(opened: Opened, folders: Sequence[Path]) -> PreTrainedConfig:
    """Return the first configuration. Refuses: MODEL_MALFORMED."""
    for folder in folders:
        if (folder / "config.json").is_file():
            return read_config(folder)
    return config_of_shape(opened.model.shape)


def read_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration in a directory; no code of it is run. Refuses: MODEL_MALFORMED."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE:
        remedy = f"{folder / 'config.json'} cannot be read, or needs code of its own, which is never run"
        raise Refused(Refusal.MODEL_MALFORMED, remedy) from None


def _generation_config(config: PreTrainedConfig, folders: Sequence[Path]) -> GenerationConfig:
    """Return the first settings of generation. Refuses: MODEL_MALFORMED."""
    for folder in folders:
        path = folder / "generation_config.json"
        if path.is_file():
            try:
                return GenerationConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            except UNREADABLE:
                raise Refused(Refusal.MODEL_MALFORMED, f"{path} cannot be read: mend or remove it") from None
    return GenerationConfig.from_model_config(config)


def _plain_tokenizer(folders: Sequence[Path]) -> Any:
    """Return the first tokenizer; no code of a model is run. Refuses: MODEL_MALFORMED."""
    for folder in folders:
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except UNREADABLE:
            continue
    remedy = f"{folders[0]} holds no tokenizer that can be read without code of its own: use `veil import`"
    raise Refused(Refusal.MODEL_MALFORMED, remedy)


class VeilPreTrainedModel:
    """An opened model with what transformers asks of every model; `close` ends its epoch and worker."""

    main_input_name = "input_ids"
    device: Final = torch.device("cpu")
    dtype: Final = torch.float32

    def __init__(self, stack: ExitStack, opened: Opened, folders: Sequence[Path]) -> None:
        self._close = weakref.finalize(self, stack.close)
        self.opened = opened
        self.config = _config(opened, folders)
        self.name_or_path = str(folders[-1])
        self._folders = folders
        self._loaded: Any = None

    @property
    def private(self) -> bool:
        """Return whether a guarantee of the specification covers what runs."""
        return self.opened.private

    def num_parameters(self) -> int:
        """Return the number of weights, gains and biases."""
        return self.opened.model.parameters

    @property
    def tokenizer(self) -> Any:
        """Return the checkpoint's tokenizer, which sanitizes nothing. Refuses: MODEL_MALFORMED."""
        if self._loaded is None:
            self._loaded = _plain_tokenizer(self._folders)
        return self._loaded

    def _clean(self, input_ids: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return tokens that may go on: in modes split and both, drawn anew. Refuses: as `sanitized` does."""
        sanitizer = self.opened.sanitizer
        return input_ids if sanitizer is None else sanitized(sanitizer, input_ids, present)

    def _sanitized(self, texts: str | Sequence[str]) -> list[str]:
        """Return texts, sanitized where the mode says so. Refuses: PROMPT_EMPTY, PROMPT_MALFORMED."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        for text in listed:
            _check_text(text)
        return [self.sanitize(text) for text in listed] if self.opened.config.sanitized else listed

    def sanitize(self, text: str) -> str:
        """Return a text sanitized, drawn afresh. Refuses: MODE_UNAVAILABLE, PROMPT_MALFORMED."""
        return self.opened.sanitize(text)

    def eval(self) -> Self:
        """Return the model: it knows no training."""
        return self

    def to(self, *places: Any, **more: Any) -> Self:
        """Return the model, which stays on the CPU; a worker's device is chosen by `veil worker --device`.

        Refuses: MODE_UNAVAILABLE.
        """
        if any(isinstance(value, torch.dtype) for value in (*places, *more.values())):
            raise Refused(Refusal.MODE_UNAVAILABLE, "a model of integers has no other dtype: leave it out")
        return self

    def can_generate(self) -> bool:
        """Return whether `generate` is there."""
        return False

    def close(self) -> None:
        """End the epoch, and the worker process if one was started; a second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class VeilForCausalLM(VeilPreTrainedModel):
    """A decoder under a mode, called as a transformers model for causal language modelling is."""

    def __init__(self, stack: ExitStack, opened: Opened, folders: Sequence[Path]) -> None:
        super().__init__(stack, opened, folders)
        self.generation_config = _generation_config(self.config, folders)
        self._engine: Engine[Any] = opened.decoder()
        self._conversations: weakref.WeakSet[Turns] = weakref.WeakSet()

    def can_generate(self) -> bool:
        """Return whether `generate` is there."""
        return True

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: IntegerCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return the logits after each token as float32 [batch, length, vocabulary]; padding has zeros.

        Refuses: MODE_UNAVAILABLE, SHAPE_MISMATCH, and as `Decoder.advance` does.
        """
        refuse_others(others)
        private = self.opened.config.sanitized
        if private and past_key_values is not None:
            remedy = "past_key_values cannot be told from a private prompt: use generate"
            raise Refused(Refusal.MODE_UNAVAILABLE, remedy)
        made = decoder_forward(
            self._engine, input_ids, attention_mask, past_key_values, logits_to_keep, self._clean
        )
        if use_cache is False or private:
            made.past_key_values = None
        return made

    __call__ = forward

    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: Any = None,
        tokenizer: Any = None,
        seed: bytes | int | None = None,
        **arguments: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """Return prompts with what follows them, int64 [batch * num_return_sequences, length].

        Takes and returns what transformers does: left-padded prompts, the checkpoint's generation_config
        where nothing else is said, `stop_strings` with a `tokenizer`, a `streamer` for a batch of one. What
        would change the text and is not supported is refused by name. Sampling draws by integers from the
        tape of `seed` (32 bytes or a whole number; by default from the operating system), and a prompt gets
        the same text alone and in any batch.

        In modes split and both, every token is drawn anew, which needs a table of tokens.

        Refuses: MODE_UNAVAILABLE, PROMPT_EMPTY, CONTEXT_EXCEEDED, SAMPLING_OUT_OF_RANGE, SEED_LENGTH,
        SHAPE_MISMATCH.
        """
        given = arguments.pop("inputs", None)
        given = given if input_ids is None else input_ids
        return self._generated(
            given, attention_mask, self._clean, generation_config, streamer, tokenizer, seed, **arguments
        )

    def _generated(
        self,
        given: Any,
        attention_mask: torch.Tensor | None,
        clean: Clean,
        /,
        generation_config: GenerationConfig | None = None,
        streamer: Any = None,
        tokenizer: Any = None,
        seed: bytes | int | None = None,
        **arguments: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """Return what `generate` does, of prompts that `clean` lets go on. Refuses: as `generate` does."""
        if given is None or (isinstance(given, torch.Tensor) and given.numel() == 0):
            raise Refused(Refusal.PROMPT_EMPTY, "the prompt has no tokens: give some text")
        prompts = batch_of(given, "input_ids")
        shape = (prompts.shape[0], prompts.shape[1])
        chosen = plan(self.generation_config, generation_config, arguments, shape, self.config, tokenizer)
        sequences = len(prompts) * chosen.copies
        if streamer is not None and sequences > 1:
            raise Refused(Refusal.MODE_UNAVAILABLE, "a streamer takes a batch of one")
        mask = chosen.mask(prompts) if attention_mask is None else attention_mask
        present = present_of(prompts, mask, "left")
        rows = rows_of(clean(prompts, present), present)
        shown = prompts.repeat_interleave(chosen.copies, dim=0)
        _tell(streamer, shown)
        steps = self._steps([row for row in rows for _ in range(chosen.copies)], chosen, seed, streamer)
        if streamer is not None:
            streamer.end()
        return _returned(shown, steps, chosen)

    def _steps(
        self, rows: list[list[int]], chosen: Plan, seed: bytes | int | None, streamer: Any
    ) -> list[Mapping[int, Step]]:
        """Return the steps of the sequences that had not ended, with logits only where they are asked for."""
        so_far = [list(row) for row in rows]

        def ends(place: int, token: int) -> bool:
            so_far[place].append(token)
            return chosen.ends(so_far[place])

        if len(rows) == 1:
            self.opened.mint_ahead(rows[0], chosen.new_tokens)
        choices, made = chosen.choices(len(rows), seed), []
        for step in batch_steps(self._engine, rows, chosen.new_tokens, ends, choices):
            made.append(step if chosen.keeps_logits else _tokens_only(step))
            _tell(streamer, torch.tensor([each.token for each in step.values()]))
        return made

    def generate_text(self, texts: str | Sequence[str], **arguments: Any) -> list[str]:
        """Return what follows each text; in modes split and both, texts are sanitized first.

        Refuses: as `generate` does.
        """
        rows = [self.tokenizer(text)["input_ids"] for text in self._sanitized(texts)]
        return self._answers(rows, arguments)

    def conversation(self) -> Turns:
        """Return the memory of a new conversation, for `chat`: each turn of it is sanitized once."""
        turns = self.opened.turns()
        self._conversations.add(turns)
        return turns

    def chat(
        self, messages: Sequence[Message], conversation: Turns | None = None, **arguments: Any
    ) -> str | list[str]:
        """Return the answer to messages with roles and contents, in the model's chat template.

        In modes split and both, each content is sanitized once: a later call of the same conversation sends
        it as it was. Without a `conversation`, only a first turn is taken. Several answers come as a list.

        A conversation is one of this model's own: another's would not sanitize as this mode does.

        Refuses: MODE_UNAVAILABLE, PROMPT_EMPTY, and as `generate` does.
        """
        if conversation is not None and conversation not in self._conversations:
            remedy = "the conversation is not of this model: pass one that its conversation() made"
            raise Refused(Refusal.MODE_UNAVAILABLE, remedy)
        roles, contents = [each["role"] for each in messages], [each["content"] for each in messages]
        later = roles.count("user") > 1 or "assistant" in roles
        if conversation is None and later and self.opened.config.sanitized:
            remedy = "turns are sanitized once: pass conversation=model.conversation(), the same each time"
            raise Refused(Refusal.MODE_UNAVAILABLE, remedy)
        for content in contents:
            _check_text(content)
        turns = conversation or self.conversation()
        sent = [
            {"role": role, "content": content}
            for role, content in zip(roles, turns.sent(contents), strict=True)
        ]
        tokenizer = self.tokenizer
        if tokenizer.chat_template is None:
            raise Refused(Refusal.MODE_UNAVAILABLE, "the model has no chat template: use generate_text")
        encoded = tokenizer.apply_chat_template(sent, add_generation_prompt=True, return_dict=True)
        answers = self._answers([encoded["input_ids"]], arguments)
        if len(answers) > 1:
            return answers
        turns.answered(answers[0])
        return answers[0]

    def _answers(self, rows: Sequence[Sequence[int]], arguments: Mapping[str, Any]) -> list[str]:
        """Return the new text after each sequence of tokens, which are sent as they are."""
        tokenizer, width = self.tokenizer, max(map(len, rows))
        padded = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        made = self._generated(padded, mask, unchanged, **{"tokenizer": tokenizer, **arguments})
        sequences = made if isinstance(made, torch.Tensor) else made.sequences
        return [str(tokenizer.decode(row[width:], skip_special_tokens=True)) for row in sequences]


def _check_text(text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise Refused(Refusal.PROMPT_EMPTY, "the prompt is empty: give some text")


def _tell(streamer: Any, tokens: torch.Tensor) -> None:
    if streamer is not None:
        streamer.put(tokens)


def _tokens_only(step: Mapping[int, Step]) -> Mapping[int, Step]:
    return {place: Step(each.token, each.logits[:0]) for place, each in step.items()}


def _returned(
    prompts: torch.Tensor, steps: Sequence[Mapping[int, Step]], chosen: Plan
) -> torch.Tensor | GenerateDecoderOnlyOutput:
    """Return prompts with their new tokens, padded where a sequence has ended, as transformers does."""
    pad = 0 if chosen.pad is None else chosen.pad
    new = [[step[place].token if place in step else pad for step in steps] for place in range(len(prompts))]
    sequences = torch.cat([prompts, torch.tensor(new, dtype=prompts.dtype)], dim=1)
    if not chosen.as_dict:
        return sequences
    shown = {
        "scores": _stacked(steps, len(prompts), chosen.scored) if chosen.scores else None,
        "logits": _stacked(steps, len(prompts), shown_logits) if chosen.logits else None,
    }
    return GenerateDecoderOnlyOutput(sequences=sequences, **shown)


def _stacked(
    steps: Sequence[Mapping[int, Step]], places: int, show: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Return a float32 tensor [sequences, vocabulary] for each step; sequences that have ended have zeros."""
    result = []
    for step in steps:
        shown = {place: show(each.logits) for place, each in step.items()}
        zeros = torch.zeros_like(next(iter(shown.values())))
        result.append(torch.stack([shown.get(place, zeros) for place in range(places)]))
    return tuple(result)


class VeilModel(VeilPreTrainedModel):
    """An encoder under a mode, called as a transformers model without a head is."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the last streams as float32 [batch, length, width]; padding has zeros, no pooler is run.

        Refuses: MODE_UNAVAILABLE, SHAPE_MISMATCH, and as `Encoder.embed` does.
        """
        refuse_others(others)
        streams = encoder_streams(self.opened, input_ids, attention_mask, token_type_ids, self._clean)
        return shown_streams(streams, input_ids, attention_mask)

    __call__ = forward

    def embed(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Return the mean of each text's last stream, float32 [texts, width]; see MDL-R18.

        In modes split and both, texts are sanitized first. Refuses: PROMPT_EMPTY, CONTEXT_EXCEEDED.
        """
        rows = self._cut(texts)
        streams = encoder_streams(self.opened, *rows)
        words = torch.stack([encoders.sentence(stream) for stream in streams])
        return (words.to(torch.float64) / 2**constants.RESIDUAL_FRACTION).float()

    def _cut(self, texts: str | Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return the tokens of texts, sanitized where the mode says so, with their mask and types."""
        sent = self._sanitized(texts)
        made = self.tokenizer(sent, padding=True, padding_side="right", return_tensors="pt")
        return made["input_ids"], made["attention_mask"], made.get("token_type_ids")


class VeilForSequenceClassification(VeilModel):
    """An encoder with labels under a mode, called as a transformers model for classification is."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Return the labels' logits as float32 [batch, labels].

        Refuses: MODE_UNAVAILABLE, SHAPE_MISMATCH, and as `Encoder.embed` does.
        """
        refuse_others(others)
        return encoder_labels(self.opened, input_ids, attention_mask, token_type_ids, self._clean)

    __call__ = forward

    def classify_text(self, texts: str | Sequence[str]) -> list[str]:
        """Return the label of each text; in modes split and both, texts are sanitized first.

        Refuses: PROMPT_EMPTY, CONTEXT_EXCEEDED.
        """
        logits = encoder_labels(self.opened, *self._cut(texts)).logits
        return [str(self.config.id2label[int(row.argmax())]) for row in logits]


modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["veil"] = VeilForCausalLM.__name__
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["veil"] = VeilForSequenceClassification.__name__


def _kind(opened: Opened) -> type[VeilPreTrainedModel]:
    shape = opened.model.shape
    if isinstance(shape, DecoderShape):
        return VeilForCausalLM
    return VeilForSequenceClassification if shape.labels else VeilModel


def folder_of(source: str | Path, precision: str | None, progress: Progress | None = None) -> Path:
    """Return the directory that holds a source's integer file. Refuses: as `loading.resolve` does."""
    chosen = None if precision is None else Precision(precision)
    return resolve(source, chosen, progress or (lambda line: None))


def from_pretrained(
    source: str | Path, config: VeilConfig | None = None, progress: Progress | None = None
) -> Any:
    """Return the model of a directory, a .gguf file or a hub's name, running under a mode.

    A decoder is a VeilForCausalLM, an encoder a VeilForSequenceClassification, or without labels a VeilModel.
    `progress` is told what is being done. Close the model, or use it as a context manager.

    Refuses: as `loading.resolve` and `open_engine` do.
    """
    chosen = config or VeilConfig()
    folder = folder_of(source, chosen.precision, progress)
    folders = list(dict.fromkeys([folder, Path(source)]))
    with ExitStack() as stack:
        opened = stack.enter_context(open_engine(folder, chosen))
        return _kind(opened)(stack.pop_all(), opened, folders)
