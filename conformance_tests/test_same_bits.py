"""One model, one set of words: alone or in a batch, plain or masked, on one thread or two, AVX2 or better."""

from pathlib import Path
from typing import Final

import pytest
import torch

import same_bits
from veil_conformance import tiny_model
from veil_optimized.model import Group, load, plain_products
from veil_spec.architecture import ModelShape, Precision

MODELS: Final[tuple[tuple[ModelShape, Precision], ...]] = (
    (tiny_model.SMALL, Precision.W8A16),
    (tiny_model.SWITCHED, Precision.W16A16),
    (tiny_model.ENCODER, Precision.W16A16),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the files of two small decoders and an encoder."""
    folder = tmp_path_factory.mktemp("same_bits")
    return [
        tiny_model.write(folder / f"{number}.safetensors", shape, b"same", precision)
        for number, (shape, precision) in enumerate(MODELS)
    ]


@pytest.mark.requirement("MDL-G1")
def test_threads_instructions_batches_and_masks_change_no_bit(files: list[Path]) -> None:
    found = same_bits.in_environments(files)
    assert same_bits.differences(found) == []
    assert [len(each) for each in found.values()] == [len(files)] * len(same_bits.ENVIRONMENTS)


@pytest.mark.requirement("MDL-G1")
def test_the_reference_agrees_with_what_was_digested(files: list[Path]) -> None:
    for path in files:
        shape = load(path).shape
        prompt = same_bits.sequences(shape.vocabulary, shape.context)[same_bits.SHORTEST]
        assert same_bits.by_reference(path, prompt) == same_bits.ways(path)["alone"][same_bits.SHORTEST]


def test_one_wrong_product_in_a_batch_is_noticed(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(group: Group, rows: torch.Tensor) -> torch.Tensor:
        return plain_products(group, rows) + (len(rows) > len(same_bits.LENGTHS)) * 2**32

    right = {"right": {str(files[0]): same_bits.ways(files[0])}}
    monkeypatch.setattr(same_bits, "plain_products", wrong)
    assert same_bits.differences(right | {"wrong": {str(files[0]): same_bits.ways(files[0])}})
