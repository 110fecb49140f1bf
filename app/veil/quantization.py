"""`quantization_config=VeilQuantizationConfig(...)`: a model class of transformers with Veil underneath.

The checkpoint's float weights are never loaded: the skeleton is emptied before, and `forward` runs the cached
integer form. What transformers does around `forward`, such as float sampling or beam search, stays its own.
"""

import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedConfig
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from veil.checkpoint import locate, shards
from veil.engines import Opened, VeilConfig, open_engine
from veil.forward import (
    decoder_forward,
    encoder_labels,
    encoder_streams,
    refuse_others,
    shown_streams,
)
from veil.modeling import folder_of, read_config
from veil_spec.architecture import DecoderShape
from veil_spec.refusals import Refusal, Refused

METHOD: Final = "veil"
CLASSES: Final[Mapping[str, str]] = {
    "LlamaForCausalLM": "decoder",
    "MistralForCausalLM": "decoder",
    "Qwen2ForCausalLM": "decoder",
    "Qwen3ForCausalLM": "decoder",
    "BertForSequenceClassification": "labels",
    "BertModel": "encoder",
}
"""What each class's `forward` returns."""
WITHOUT_EFFECT: Final = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "bos_token_id",
        "classifier_dropout",
        "dtype",
        "eos_token_id",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "label2id",
        "pad_token_id",
        "problem_type",
        "quantization_config",
        "return_dict",
        "transformers_version",
        "use_cache",
    }
)
"""What of a configuration may differ from the checkpoint's: none of it changes what a forward call gives."""


@register_quantization_config(METHOD)
class VeilQuantizationConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The arguments of VeilConfig, in the place where transformers takes a quantization; masked or plain.

    Refuses: MODE_UNAVAILABLE, RANK_OUT_OF_RANGE.
    """

    def __init__(self, **settings: Any) -> None:
        settings.pop("quant_method", None)
        unknown = set(settings) - {field.name for field in fields(VeilConfig)}
        if unknown:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"{min(unknown)} is no setting of VeilConfig")
        self.quant_method = METHOD
        self.settings = VeilConfig(**settings)
        if self.settings.sanitized:
            mode = self.settings.mode
            remedy = f"mode {mode} sanitizes text, and a forward call has none: use veil.from_pretrained"
            raise Refused(Refusal.MODE_UNAVAILABLE, remedy)

    def to_dict(self) -> dict[str, Any]:
        """Return what is set, ready for JSON."""
        stated = {name: value for name, value in asdict(self.settings).items() if value is not None}
        return {name: value if isinstance(value, str) else str(value) for name, value in stated.items()} | {
            "quant_method": METHOD
        }


@register_quantizer(METHOD)
class VeilQuantizer(HfQuantizer):  # type: ignore[misc]
    """Empties a model before its weights are read, and lets integers answer in its place."""

    requires_calibration = False
    is_trainable = False
    source: str | Path

    def is_serializable(self) -> bool:
        """Return whether the model can be saved: a checkpoint is saved by what made it."""
        return False

    def validate_environment(self, *given: Any, **options: Any) -> None:
        """Refuse a device for weights that are nowhere on one. Refuses: MODE_UNAVAILABLE."""
        if options.get("device_map") not in (None, "cpu", {"": "cpu"}, {"": torch.device("cpu")}):
            raise Refused(
                Refusal.MODE_UNAVAILABLE,
                "device_map means nothing here: a worker's is `veil worker --device`",
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return float32: logits are shown as such, whatever a checkpoint holds."""
        return torch.float32

    def _process_model_before_weight_loading(self, model: Any, **options: Any) -> Any:
        """Leave nothing of the skeleton that a weight would be loaded into.

        Refuses: MODEL_UNSUPPORTED, MODEL_MISMATCH, MODEL_MALFORMED.
        """
        if type(model).__name__ not in CLASSES:
            supported = ", ".join(CLASSES)
            detail = f"{type(model).__name__} is not supported: these are: {supported}"
            raise Refused(Refusal.MODEL_UNSUPPORTED, detail)
        files: Sequence[str] = options.get("checkpoint_files") or ()
        self.source = source_of(model.name_or_path, files)
        check_config(model.config, read_config(Path(files[0]).parent))
        for name in list(model._modules):
            setattr(model, name, Emptied())
        model.all_tied_weights_keys = {}
        model._keys_to_ignore_on_load_unexpected = {".*"}
        return model

    def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:
        """Open the integer form and put it behind `forward`. Refuses: as `veil.from_pretrained` does."""
        config = self.quantization_config.settings
        folder = folder_of(self.source, config.precision)
        with ExitStack() as stack:
            opened = stack.enter_context(open_engine(folder, config))
            install(model, opened, stack.pop_all())
        return model


def source_of(name: str, files: Sequence[str]) -> str | Path:
    """Return the directory, or the hub's name, of the weights that transformers was about to load.

    Refuses: MODEL_MISMATCH, MODEL_MALFORMED.
    """
    if not files:
        raise Refused(Refusal.MODEL_MISMATCH, "the weights are in no file: give a directory, no state_dict")
    folder = Path(files[0]).parent
    if {Path(file).name for file in files} != {shard.name for shard in shards(folder)}:
        raise Refused(
            Refusal.MODEL_MISMATCH, f"{folder} also holds other weights: leave out variant and gguf_file"
        )
    if Path(name).exists():
        return folder
    if locate(name)[0].resolve() != folder.resolve():
        remedy = "give the directory of that revision or subfolder"
        raise Refused(Refusal.MODEL_MISMATCH, f"the files are not those of {name}: {remedy}")
    return name


def check_config(config: PreTrainedConfig, stored: PreTrainedConfig) -> None:
    """Refuse a configuration that was altered where it counts. Refuses: MODEL_MISMATCH."""
    ours, theirs = config.to_dict(), stored.to_dict()
    names = sorted((ours.keys() | theirs.keys()) - WITHOUT_EFFECT)
    altered = next((name for name in names if ours.get(name) != theirs.get(name)), None)
    if altered is None and config.num_labels != stored.num_labels:
        altered = "num_labels"
    if altered is not None:
        detail = f"{altered} is not what the checkpoint's config.json states: leave it out"
        raise Refused(Refusal.MODEL_MISMATCH, detail)


class Emptied(torch.nn.Module):
    """The place of a part whose weights are not loaded."""

    def forward(self, *given: Any, **options: Any) -> Any:
        """Refuse: only the whole model can be called. Refuses: MODE_UNAVAILABLE."""
        raise Refused(Refusal.MODE_UNAVAILABLE, "only the whole model can be called, not a part of it")


def install(model: Any, opened: Opened, stack: ExitStack) -> None:
    """Let an opened model answer in the place of a transformers model, which gets `close` and `private`.

    Refuses: MODEL_MISMATCH.
    """
    kind = CLASSES[type(model).__name__]
    shape = opened.model.shape
    found = "decoder" if isinstance(shape, DecoderShape) else "labels" if shape.labels else "encoder"
    if found != kind and (found, kind) != ("labels", "encoder"):
        stack.close()
        raise Refused(
            Refusal.MODEL_MISMATCH, f"the checkpoint is no {type(model).__name__}: load it as what it is"
        )
    model.register_parameter("placed", torch.nn.Parameter(torch.zeros(0), requires_grad=False))
    model.veil = opened
    model.private = opened.private
    model.close = weakref.finalize(model, stack.close)
    forwards: dict[str, Callable[..., Any]] = {"decoder": _decoder, "labels": _labels, "encoder": _encoder}
    model.forward = types.MethodType(forwards[kind], weakref.proxy(model))


def _decoder(
    model: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = None,
    logits_to_keep: int = 0,
    return_dict: bool | None = None,
    **others: Any,
) -> Any:
    """Return logits and cache; see `forward.decoder_forward`."""
    refuse_others(others)
    if input_ids is None:
        raise Refused(Refusal.PROMPT_EMPTY, "the prompt has no tokens: give some text")
    if "engine" not in model.__dict__:
        model.__dict__["engine"] = model.veil.decoder()
    made = decoder_forward(model.engine, input_ids, attention_mask, past_key_values, logits_to_keep)
    if use_cache is False:
        made.past_key_values = None
    return made


def _labels(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    return_dict: bool | None = None,
    **others: Any,
) -> Any:
    """Return labels' logits; see `forward.encoder_labels`."""
    refuse_others(others)
    return encoder_labels(model.veil, input_ids, attention_mask, token_type_ids)


def _encoder(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    return_dict: bool | None = None,
    **others: Any,
) -> Any:
    """Return last streams; see `forward.shown_streams`."""
    refuse_others(others)
    streams = encoder_streams(model.veil, input_ids, attention_mask, token_type_ids)
    return shown_streams(streams, input_ids, attention_mask)
