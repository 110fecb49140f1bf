"""Mode `split`, the enclave's side: embeddings of given tokens leave, and the worker's words come back.

Whoever calls this has sanitized the tokens: nothing else of a prompt comes here, and so nothing else leaves.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from veil_optimized.encoder import Encoder
from veil_optimized.generate import check_room
from veil_optimized.model import Model
from veil_optimized.session import Channel, Kept
from veil_optimized.transcript import Header
from veil_optimized.transport import DEADLINE_S, RecordingTransport, RemoteTransport, Transport
from veil_spec import __version__, constants
from veil_spec.architecture import DecoderShape
from veil_spec.refusals import Refusal, Refused

PROFILE: Final = "split"
"""What a transcript's header states in the place of a mask profile."""
PIECE: Final = 64
"""Most rows of an exchange of a decoder: each has the whole deadline to itself."""


class SplitDecoder:
    """A decoder whose layers run at the worker, which keeps at most `SEQUENCE_LIMIT` sequences an epoch.

    Refuses: MODEL_UNSUPPORTED.
    """

    def __init__(self, model: Model, channel: Channel) -> None:
        if not isinstance(model.shape, DecoderShape):
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model is an encoder: it cannot generate text")
        self.shape = model.shape
        self._model = model
        self._channel = channel

    def new_cache(self) -> Kept:
        """Return a sequence that has not begun. Refuses: MODE_UNAVAILABLE."""
        return self._channel.sequence()

    def advance(self, caches: Sequence[Kept], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits after new tokens of each sequence, int64 [sequences, vocabulary].

        Nothing is sent before all tokens are known to be good; then one exchange follows another, sequence by
        sequence and piece by piece.

        Implements: MDL-P4, MDL-P5.
        Refuses: PROMPT_EMPTY, TOKEN_OUT_OF_RANGE, CONTEXT_EXCEEDED, and what `Channel.infer` refuses.
        """
        if not tokens or not all(tokens):
            raise Refused(Refusal.PROMPT_EMPTY, "the prompt has no tokens: give some text")
        for cache, part in zip(caches, tokens, strict=True):
            check_room(self.shape.context, cache.position + len(part))
            if not 0 <= min(part) <= max(part) < self.shape.vocabulary:
                raise Refused(Refusal.TOKEN_OUT_OF_RANGE, f"there are {self.shape.vocabulary} tokens")
        return torch.cat([self._answer(*pair) for pair in zip(caches, tokens, strict=True)])

    def _answer(self, cache: Kept, tokens: Sequence[int]) -> torch.Tensor:
        """Return the logits after new tokens of one sequence, int64 [1, vocabulary]."""
        size, limit = (1, self.shape.vocabulary), constants.HIDDEN_LIMIT
        for piece in torch.split(self._model.look_up("embedding", tokens), PIECE):
            logits = self._channel.infer(cache, piece, size, limit, alone=False)
        return logits


class SplitEncoder:
    """An encoder whose layers run at the worker. Refuses: MODEL_UNSUPPORTED."""

    def __init__(self, model: Model, channel: Channel) -> None:
        self._encoder = Encoder(model)
        self.shape = self._encoder.shape
        self._channel = channel

    def streams(
        self, tokens: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> list[torch.Tensor]:
        """Return the last stream of each sequence, int64 [n_i, width], 24 fractional bits.

        Refuses: MODEL_UNSUPPORTED for a model with a classifier, whose worker answers with labels alone, and
        as `Encoder.embed` and `Channel.infer` do.
        """
        if self.shape.labels:
            remedy = "in mode split a model with a classifier gives labels alone: use one without"
            raise Refused(Refusal.MODEL_UNSUPPORTED, remedy)
        sizes = [(len(part), self.shape.width) for part in tokens]
        return self._answers(tokens, types, sizes, constants.RESIDUAL_LIMIT)

    def labels(
        self, tokens: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> torch.Tensor:
        """Return the labels' logits of each sequence, int64 [sequences, labels], 18 fractional bits.

        Refuses: MODEL_UNSUPPORTED for a model without a classifier, and as `Encoder.embed` and
        `Channel.infer` do.
        """
        if not self.shape.labels:
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model has no classifier: give one with labels")
        sizes = [(1, self.shape.labels)] * len(tokens)
        return torch.cat(self._answers(tokens, types, sizes, constants.HIDDEN_LIMIT))

    def _answers(
        self,
        tokens: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]] | None,
        sizes: Sequence[tuple[int, int]],
        limit: int,
    ) -> list[torch.Tensor]:
        """Return the worker's words for each sequence. Implements: MDL-P4, MDL-P5."""
        kinds = types or [[0] * len(part) for part in tokens]
        streams = (self._encoder.embed(*pair) for pair in zip(tokens, kinds, strict=True))
        return [
            self._channel.infer(self._channel.sequence(), stream, size, limit, alone=True)
            for stream, size in zip(streams, sizes, strict=True)
        ]


@contextmanager
def epoch(
    model: Model, address: str, transcript: Path | None = None, deadline_s: float = DEADLINE_S
) -> Iterator[Channel]:
    """Yield a channel to the worker at an address, which has named the same model.

    Refuses: MODEL_MISMATCH, WORKER_LOST, what `decode` refuses.
    """
    name = os.urandom(constants.EPOCH_BYTES)
    transport: Transport = RemoteTransport(address, deadline_s)
    if transcript is not None:
        header = Header(__version__, model.digest, PROFILE, None, name, ())
        transport = RecordingTransport(transport, transcript, header)
    with Channel(transport, name) as channel:
        channel.hello(model.digest)
        yield channel
