"""`python -m benchmarks.whole_model FOLDER GGUF` times one model in both arithmetics, and prints JSON.

The kernel is the one that the environment names. Every process has one thread: this one, and that of the
worker, with which it speaks over a Unix socket. They work at once where a step is long enough for parts.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import torch
from benchmarks.fidelity import sources
from benchmarks.ratios import FEWEST, in_turns
from benchmarks.sides import Sides, decodes, integers, prefills, steps_after, transformers
from benchmarks.splitting import split

from veil.engines import VeilConfig, open_engine
from veil_optimized.enclave import MINTED_AT_ONCE

PROMPT: Final = 192
"""Tokens of a prefill."""
READ: Final = 64
"""Tokens that are read before steps are timed."""
CROSSING: Final = "between processes"
"""What a worker in another process costs beyond one in this process."""


def check_agreement(sides: Sides) -> None:
    """Raise RuntimeError unless masked logits equal plain ones, and float32 chooses the same token."""
    logits = {name: begin()([list(range(READ))])[-1] for name, begin in sides.items()}
    if not torch.equal(logits["plain"], logits["masked"]):
        raise RuntimeError("masked logits differ from plain ones")
    if int(logits["float32"].argmax()) != int(logits["plain"].argmax()):
        raise RuntimeError("float32 chooses another token than integers")


def measured(folder: Path, gguf: Path, rounds: int) -> dict[str, object]:
    """Return the seconds of every side in each round, and where those of a masked token go."""
    from transformers import AutoModelForCausalLM

    with ExitStack() as stack:
        plain = stack.enter_context(open_engine(folder, VeilConfig(mode="plain")))
        masked = stack.enter_context(open_engine(folder, VeilConfig()))
        enclave = masked.enclave
        if enclave is None:
            raise RuntimeError("mode masked has no enclave")
        floats = sources.floats(gguf, AutoModelForCausalLM)
        sides: Sides = {
            "float32": lambda: transformers(floats),
            "plain": lambda: integers(plain.decoder),
            "masked": lambda: integers(masked.decoder),
        }
        check_agreement(sides)
        prompts, expect = [list(range(READ))], enclave.expect
        works = decodes(sides, enclave, prompts, MINTED_AT_ONCE)
        works["background"] = steps_after(
            prompts, sides["masked"], MINTED_AT_ONCE, lambda: expect(enclave.next_step, MINTED_AT_ONCE)
        )
        decode = in_turns(works, rounds)
        prefill = in_turns(prefills(sides, enclave, [list(range(PROMPT))]), rounds)
        parts = split(plain.model, list(range(PROMPT)), MINTED_AT_ONCE)
    whole = median(prefill["masked"]) / PROMPT, median(decode["masked"])
    splits = [
        seconds | {CROSSING: max(0.0, total - sum(seconds.values()))}
        for seconds, total in zip(parts, whole, strict=True)
    ]
    return {
        "prefill": prefill,
        "decode": decode,
        "splits": dict(zip(("prefill", "decode"), splits, strict=True)),
    }


def main() -> int:
    """Return the exit status, 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_model", description=__doc__)
    parser.add_argument("folder", type=Path, help="what `veil import` made")
    parser.add_argument("gguf", type=Path, help="the checkpoint that it was made from")
    parser.add_argument("--rounds", type=int, default=FEWEST)
    given = parser.parse_args()
    torch.set_num_threads(1)
    json.dump(measured(given.folder, given.gguf, given.rounds), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
