"""Conformance classes: a name for what an implementation can be used for, and what it then has to fulfil.

A class is claimed by an implementation that claims all its operations. It asks of each of its requirements
what its own operations can show: tests that also need other operations count for other classes.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Class:
    """A named set of requirements, and the operations that fulfil them."""

    name: str
    purpose: str
    requirements: tuple[str, ...]
    operations: frozenset[str]


def _ids(area: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{area}-R{number}" for number in numbers)


def _class(name: str, purpose: str, requirements: tuple[str, ...], operations: str) -> Class:
    return Class(name, purpose, requirements, frozenset(operations.split()))


FXP_OPERATIONS: Final = (
    "round_shift rescale quantise exp2_digits normal_tail rope exp2 silu gelu tanh rms_norm layer_norm "
    "head_norm attention_score softmax_average rotate"
)
ACC_OPERATIONS: Final = (
    "noise exact_pmf certificate calibrate tabulate calibrate_part tabulated_certificate weighted_recovery "
    "paper_certificate document_cost divide"
)

CLASSES: Final = {
    each.name: each
    for each in (
        _class(
            "TAP",
            "Draws every random word as specified.",
            _ids("TAP", *range(1, 8)),
            "seeded_tape listed_tape field_elements",
        ),
        _class(
            "NMX-Core",
            "Selects by noisy max, with exact noise.",
            _ids("NMX", *range(1, 8)),
            "noise sample select seeded_tape",
        ),
        _class(
            "NMX-Certified",
            "Certifies a table with a noise, from the exact law.",
            _ids("NMX", 5, 6, 8) + _ids("ACC", *range(1, 10), 14),
            "exact_pmf certificate calibrate",
        ),
        _class(
            "NMX-Build",
            "Builds the parts and scores of a table from vectors.",
            _ids("NMX", 9, 10, 11),
            "direction partition part_scores",
        ),
        _class(
            "NMX-Tabulated",
            "Makes, reads, certifies and draws from tabulated tables.",
            _ids("NMX", 12, 13, 14, 15, 17) + _ids("ACC", *range(10, 15)),
            "noise exact_pmf certificate tabulate draw draw_uniformly load_tabulated calibrate_part "
            "tabulated_certificate weighted_recovery seeded_tape",
        ),
        _class(
            "NMX-Paper",
            "Has the sanitizer of CMIF as published, and says that its epsilon is infinite.",
            _ids("NMX", 16) + _ids("ACC", 15),
            "paper_candidates paper_certificate",
        ),
        _class("ACC", "Accounts for all mechanisms.", _ids("ACC", *range(1, 19)), ACC_OPERATIONS),
        _class(
            "ACC-Budget",
            "Adds up costs and divides a document's budget.",
            _ids("ACC", 16, 17, 18),
            "document_cost divide",
        ),
        _class("FXP", "Computes in fixed point.", _ids("FXP", *range(1, 17)), FXP_OPERATIONS),
        _class(
            "MDL-Llama",
            "Quantises, reads and runs decoders.",
            _ids("MDL", *range(1, 14)),
            "quantise_weights quantise_gains logits greedy attention_score head_norm quantise rms_norm "
            "rotate silu softmax_average",
        ),
        _class(
            "MDL-BERT",
            "Quantises, reads and runs encoders.",
            _ids("MDL", 1, 2, 3, 4, 11, 12, *range(14, 20)),
            "quantise_weights quantise_gains stream labels sentence attention_score gelu layer_norm quantise "
            "softmax_average tanh",
        ),
        _class(
            "MDL-Sampling",
            "Samples tokens exactly.",
            _ids("MDL", 20, 21, 22),
            "sampling sampling_weights sample_token exp2 seeded_tape",
        ),
        _class(
            "RMO-Pad",
            "Chooses fields, masks, multiplies and unmasks with fresh pads.",
            _ids("RMO", *range(1, 8), 11, 12, 22),
            "choose_modulus pad burn ratchet mask multiply unmask field_elements seeded_tape",
        ),
        _class(
            "RMO-LWE",
            "Masks under LWE, without a minter.",
            _ids("RMO", 6, *range(13, 22)),
            "lwe_dimension lwe_levels halves lwe_basis lwe_mask lwe_unmask multiply seeded_tape",
        ),
        _class(
            "RMO-Rank",
            "Makes the pads of Talaria as published, which are not private.",
            _ids("RMO", 6, 9, 10),
            "rank_basis rank_pad field_elements seeded_tape",
        ),
        _class(
            "RMO-Inference",
            "Runs whole models masked, with the bits of plain inference.",
            _ids("RMO", 8),
            "masked_logits masked_stream logits stream",
        ),
        _class(
            "INT",
            "Checks products, and commits to weights.",
            _ids("INT", *range(1, 7)),
            "repetitions challenge check_key verify weight_leaf merkle_root field_elements seeded_tape",
        ),
        _class(
            "WIR",
            "Reads and writes frames and messages.",
            _ids("WIR", *range(1, 8)),
            "encode decode pack unpack split join",
        ),
    )
}
"""Every class by its name."""
