"""The reference as a subject of the conformance suite: its public functions under one name."""

from collections.abc import Sequence
from fractions import Fraction

from veil_reference import (
    accounting,
    budget,
    decoder,
    encoder,
    fixed_point,
    integrity,
    lwe,
    noisy_max,
    remo,
    sampling,
    table_file,
    tables,
    tabulated,
    tape,
    wire,
)
from veil_reference import partition as building
from veil_reference.noise import sample
from veil_reference.quantise import quantise_gains, quantise_weights
from veil_spec import __version__
from veil_spec.types import Geometric, Noise, TwoSidedGeometric


def make_noise(alpha: Fraction, two_sided: bool) -> Noise:
    """Return a noise. Refuses: ALPHA_OUT_OF_RANGE."""
    return TwoSidedGeometric(alpha) if two_sided else Geometric(alpha)


def burn(addresses: Sequence[tuple[int, int]]) -> None:
    """Return nothing if these (group, step) may be used in this order in one epoch. Refuses: PAD_REUSED."""
    used = remo.Addresses()
    for group, step in addresses:
        used.burn(group, step)


class Reference:
    """`veil_spec.interface.Implementation`, with nothing of its own."""

    name = "veil_reference"
    spec_version: str = __version__
    seeded_tape = staticmethod(tape.SeededTape)
    listed_tape = staticmethod(tape.ListedTape)
    field_elements = staticmethod(tape.field_elements)
    noise = staticmethod(make_noise)
    sample = staticmethod(sample)
    select = staticmethod(noisy_max.select)
    exact_pmf = staticmethod(accounting.exact_pmf)
    certificate = staticmethod(accounting.certificate)
    calibrate = staticmethod(accounting.calibrate)
    direction = staticmethod(building.direction)
    partition = staticmethod(building.partition)
    part_scores = staticmethod(building.part_scores)
    paper_candidates = staticmethod(building.paper_candidates)
    paper_certificate = staticmethod(building.paper_certificate)
    tabulate = staticmethod(tabulated.tabulate)
    draw = staticmethod(tabulated.draw)
    draw_uniformly = staticmethod(tabulated.draw_uniformly)
    calibrate_part = staticmethod(tabulated.calibrate_part)
    tabulated_certificate = staticmethod(tabulated.tabulated_certificate)
    weighted_recovery = staticmethod(tabulated.weighted_recovery)
    load_tabulated = staticmethod(table_file.load_tabulated)
    document_cost = staticmethod(budget.document_cost)
    divide = staticmethod(budget.divide)
    round_shift = staticmethod(fixed_point.round_shift)
    rescale = staticmethod(fixed_point.rescale)
    quantise = staticmethod(fixed_point.quantise)
    exp2_digits = staticmethod(tables.exp2_digits)
    normal_tail = staticmethod(tables.normal_tail)
    rope = staticmethod(tables.rope)
    exp2 = staticmethod(fixed_point.exp2)
    silu = staticmethod(fixed_point.silu)
    gelu = staticmethod(fixed_point.gelu)
    tanh = staticmethod(fixed_point.tanh)
    layer_norm = staticmethod(fixed_point.layer_norm)
    head_norm = staticmethod(fixed_point.head_norm)
    rms_norm = staticmethod(fixed_point.rms_norm)
    attention_score = staticmethod(fixed_point.attention_score)
    softmax_average = staticmethod(fixed_point.softmax_average)
    rotate = staticmethod(fixed_point.rotate)
    quantise_weights = staticmethod(quantise_weights)
    quantise_gains = staticmethod(quantise_gains)
    greedy = staticmethod(sampling.greedy)
    sampling_weights = staticmethod(sampling.sampling_weights)
    sample_token = staticmethod(sampling.sample_token)
    sampling = staticmethod(sampling.make_sampling)
    logits = staticmethod(decoder.logits)
    masked_logits = staticmethod(decoder.masked_logits)
    stream = staticmethod(encoder.stream)
    masked_stream = staticmethod(encoder.masked_stream)
    labels = staticmethod(encoder.labels)
    sentence = staticmethod(encoder.sentence)
    choose_modulus = staticmethod(remo.choose_modulus)
    pad = staticmethod(remo.pad)
    burn = staticmethod(burn)
    rank_basis = staticmethod(remo.rank_basis)
    rank_pad = staticmethod(remo.rank_pad)
    ratchet = staticmethod(remo.ratchet)
    lwe_dimension = staticmethod(lwe.lwe_dimension)
    lwe_levels = staticmethod(lwe.lwe_levels)
    halves = staticmethod(lwe.halves)
    lwe_basis = staticmethod(lwe.lwe_basis)
    lwe_mask = staticmethod(lwe.lwe_mask)
    lwe_unmask = staticmethod(lwe.lwe_unmask)
    mask = staticmethod(remo.mask)
    multiply = staticmethod(remo.multiply)
    unmask = staticmethod(remo.unmask)
    repetitions = staticmethod(integrity.repetitions)
    challenge = staticmethod(integrity.challenge)
    check_key = staticmethod(integrity.check_key)
    verify = staticmethod(integrity.verify)
    weight_leaf = staticmethod(integrity.weight_leaf)
    merkle_root = staticmethod(integrity.merkle_root)
    encode = staticmethod(wire.encode)
    decode = staticmethod(wire.decode)
    pack = staticmethod(wire.pack)
    unpack = staticmethod(wire.unpack)
    split = staticmethod(wire.split)
    join = staticmethod(wire.join)
    operations = frozenset(name for name, member in list(vars().items()) if isinstance(member, staticmethod))
