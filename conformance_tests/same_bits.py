"""Digests of what a model computes: alone, in batches, through masks. Run it in any environment and compare.

`python same_bits.py FILE...` prints one JSON object: for each integer file and each way to run it, a SHA-256
for every sequence. All ways, all thread counts and all instruction sets have to agree.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from veil_optimized import kernels
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.encoder import Encoder, sentence
from veil_optimized.generate import batch_steps
from veil_optimized.model import Model, Products, load, plain_products
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_reference import decoder as reference_decoder
from veil_reference import encoder as reference_encoder
from veil_reference import model as reference
from veil_reference import sampling as reference_sampling
from veil_spec import constants
from veil_spec.architecture import DecoderShape

Digests = dict[str, dict[str, list[str]]]
"""File to way to one digest for each sequence."""
LENGTHS: Final = (5, 1, 9, 2, 7, 3, 4, 6)
"""Tokens of the sequences of a ragged batch of eight."""
SHORTEST: Final = LENGTHS.index(min(LENGTHS))
NEW_TOKENS: Final = 3
ENVIRONMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "default, 1 thread": {"OMP_NUM_THREADS": "1"},
    "default, 2 threads": {"OMP_NUM_THREADS": "2"},
    "AVX2, 1 thread": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    **{f"kernel {k.name}": {"OMP_NUM_THREADS": "1", kernels.CHOICE: k.name} for k in kernels.usable("cpu")},
}
"""Where the same bits are asked for."""


def sequences(vocabulary: int, context: int) -> list[list[int]]:
    """Return eight sequences of different lengths that fit the context with the new tokens."""
    most = context - NEW_TOKENS
    return [
        [(7 + 31 * n + 17 * n * k) % vocabulary for k in range(min(length, most))]
        for n, length in enumerate(LENGTHS)
    ]


def digest(words: torch.Tensor) -> str:
    """Return the SHA-256 of int64 words."""
    return hashlib.sha256(words.contiguous().numpy().astype("<i8").tobytes()).hexdigest()


def batch(model: Model, products: Products, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Return a digest for each sequence of a batch: all logits of a greedy generation, or stream and mean."""
    if isinstance(model.shape, DecoderShape):
        rows: list[list[torch.Tensor]] = [[] for _ in prompts]
        for made in batch_steps(Decoder(model, products), prompts, NEW_TOKENS, lambda _, __: False):
            for place_, step in made.items():
                rows[place_].append(step.logits)
        return [digest(torch.stack(each)) for each in rows]
    encoder = Encoder(model, products)
    streams = encoder.streams(prompts)
    extra = (
        encoder.labels(streams) if encoder.shape.labels else torch.zeros(len(prompts), 1, dtype=torch.int64)
    )
    return [
        digest(torch.cat([stream.flatten(), sentence(stream), labels]))
        for stream, labels in zip(streams, extra, strict=True)
    ]


@contextmanager
def masked(model: Model) -> Iterator[Products]:
    """Yield the products of an enclave whose worker is in this process."""
    worker = Worker(place(model, "cpu"), model.digest)
    with Channel(LocalTransport(worker.handle), os.urandom(constants.EPOCH_BYTES)) as channel:
        enclave = Enclave(model, channel)
        enclave.open()
        yield enclave.products


def ways(path: Path) -> dict[str, list[str]]:
    """Return for each way to run a model a digest for each of the eight sequences."""
    model = load(path)
    prompts = sequences(model.shape.vocabulary, model.shape.context)
    with masked(model) as products:
        through = batch(model, products, prompts)
    return {
        "alone": [batch(model, plain_products, [prompt])[0] for prompt in prompts],
        "ragged batch of 8": batch(model, plain_products, prompts),
        "each in a batch of 8 equal ones": [
            "".join(sorted(set(batch(model, plain_products, [prompt] * 8)))) for prompt in prompts[:2]
        ],
        "masked, ragged batch of 8": through,
    }


def in_environments(paths: Sequence[Path]) -> dict[str, Digests]:
    """Return the digests of each environment, each made by a process of its own."""
    found = {}
    for name, changed in ENVIRONMENTS.items():
        command = [sys.executable, __file__, *map(str, paths)]
        run = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, check=True)
        found[name] = json.loads(run.stdout)
    return found


def differences(found: Mapping[str, Digests]) -> list[str]:
    """Return every environment, file, way and sequence whose digest is not that of the first environment."""
    first = next(iter(found.values()))
    return [
        f"{environment}: {path}: {way}: sequence {number}"
        for environment, digests in found.items()
        for path, each in digests.items()
        for way, listed in each.items()
        for number, value in enumerate(listed)
        if value != first[path]["alone"][number]
    ]


def by_reference(path: Path, prompt: Sequence[int]) -> str:
    """Return the digest of a short sequence as the reference computes it, in seconds a token."""
    model = reference.load(path)
    if isinstance(model.shape, DecoderShape):
        running, rows = reference_decoder.Decoder(model), list[list[int]]()
        for token in prompt:
            logits = running.step(token)
        for number in range(NEW_TOKENS):
            rows.append(logits)
            logits = running.step(reference_sampling.greedy(logits)) if number + 1 < NEW_TOKENS else logits
        return digest(torch.tensor(rows))
    encoder = reference_encoder.Encoder.of(model)
    stream = encoder.stream(prompt)
    labels = encoder.labels(stream) if encoder.shape.labels else [0]
    words = [word for row in stream for word in row]
    return digest(torch.tensor([*words, *reference_encoder.sentence(stream), *labels]))


def compare(paths: Sequence[Path]) -> list[str]:
    """Return the differences between environments, ways and, for the shortest sequence, the reference."""
    found = in_environments(paths)
    wrong = []
    for path in paths:
        shape = load(path).shape
        prompt = sequences(shape.vocabulary, shape.context)[SHORTEST]
        expected = next(iter(found.values()))[str(path)]["alone"][SHORTEST]
        wrong += [f"reference: {path}"] * (by_reference(path, prompt) != expected)
    return differences(found) + wrong


def main() -> int:
    """Print digests of the files that are named; with --compare what differs, and return 1 if any does."""
    if sys.argv[1:2] != ["--compare"]:
        print(json.dumps({path: ways(Path(path)) for path in sys.argv[1:]}))
        return 0
    wrong = compare([Path(path) for path in sys.argv[2:]])
    print("\n".join(wrong) or f"{len(sys.argv) - 2} models: the same bits in every way and environment")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
