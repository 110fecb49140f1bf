"""Every number that the specification fixes, each with its reason; spec/*.md states the same values."""

from typing import Final

# Tape (spec/tape.md)
SEED_BYTES: Final = 32
"""A seed is a ChaCha20 key's worth of entropy."""
WORD_BITS: Final = 64
"""One tape word."""
WORDS_PER_BLOCK: Final = 8
"""A ChaCha20 block is 64 bytes."""
STREAM_BITS: Final = 96
"""A stream number is the 96-bit nonce of RFC 8439."""
RETRY_SHIFT: Final = 64
"""Retry stream i of stream s is s + (i + 1) * 2**64, so callers own the streams below 2**64."""
INDEX_LIMIT: Final = 2**35
"""2**32 blocks of 8 words: the 32-bit block counter of RFC 8439 never wraps."""
ELEMENT_LIMIT: Final = 2**32 - 1
"""Element i needs retry stream i + 1, which has 32 bits."""

# Noisy max (spec/noisy_max.md, spec/accounting.md)
SCORE_LIMIT: Final = 2**20
"""Largest absolute score."""
CANDIDATE_LIMIT: Final = 2**20
"""Most candidates in one selection."""
ALPHA_DENOMINATOR_LIMIT: Final = 2**16
"""Largest denominator of alpha; calibration uses exactly this one."""
DOCUMENT_LIMIT: Final = 2**43
"""2**21 streams of noise for each document stay below 2**64."""
TABLE_BITS: Final = 64
"""The weights of a row sum to 2**64, so one tape word is one draw."""
PART_LIMIT: Final = 1024
"""Most candidates of a tabulated row: exact laws stay affordable."""
DIRECTION_NORM: Final = 2**12
"""The product of two directions is at most 2**24, so float32 sums are exact in any order."""
LEVELS: Final = 64
"""Scores of a built table are 0 to 63."""
EPSILON_LIMIT: Final = 64
"""Largest nominal epsilon that calibration accepts: beyond it, no claim is worth making."""

# Field (spec/remo.md)
PRIMES: Final = (2**32 - 5, 2**40 - 87, 2**48 - 59)
"""The fields of linear groups, smallest first: 4, 5 and 6 bytes an element."""
ACTIVATION_LIMIT: Final = 32767
"""Largest absolute quantised activation: 16 bits with sign."""
STEP_LIMIT: Final = 2**32 - 1
"""Steps of an epoch are below it; under it go the bases, which are no pads."""
LWE_MODULUS: Final = 2**64 - 59
"""q of profile `lwe`: the largest prime of 8 bytes."""
LWE_NOISE_BUDGET: Final = 33
"""Noise has 33 - 2 k bits and a sign at an inner dimension of at most 2**k."""
LWE_DIMENSIONS: Final = (1920, 2112, 2256, 2432)
"""Secrets a row at an inner dimension of at most 2**11, 2**12, 2**13, 2**14."""
LWE_INNER_LEAST: Final = 2**11
"""Least inner dimension of profile `lwe`: below it m is hardly smaller than the row that it hides."""
WEIGHT_LIMIT: Final = 32639
"""Largest absolute weight: 127 * 256 + 127, so that it splits into two signed 8-bit halves."""

# Fixed point (spec/fixed_point.md)
RESIDUAL_FRACTION: Final = 24
"""Fractional bits of the residual stream."""
RESIDUAL_LIMIT: Final = 2**46 - 1
"""Largest absolute residual word."""
HIDDEN_FRACTION: Final = 18
"""Fractional bits of q, k, v, gate, up, attention output and logits."""
HIDDEN_LIMIT: Final = 2**30 - 1
"""Largest absolute hidden word: products of two stay below 2**60."""
EXP2_FRACTION: Final = 30
"""Fractional bits of exp2's result and of its tables."""
EXPONENT_FRACTION: Final = 16
"""Fractional bits of exp2's argument: two table digits of 8 bits."""
WEIGHT_FRACTION: Final = 18
"""Fractional bits of a softmax numerator."""
ROPE_FRACTION: Final = 30
"""Fractional bits of cosine and sine."""
LOG2E_FRACTION: Final = 30
"""Fractional bits of log2(e) in the sigmoid."""
SCORE_FRACTION: Final = 27
"""Fractional bits of log2(e)/sqrt(head width): an attention score stays below 2**62."""
ATTENTION_LIMIT: Final = 2**40
"""Largest absolute attention score, in units of 2**-16."""
NORM_BITS: Final = 24
"""A row is renormalised to this many bits before it is squared."""
NORM_SHIFT_FLOOR: Final = -8
"""Least renormalising shift: keeps the epsilon term of a tiny row at most 2**61."""
NORM_FRACTION: Final = 20
"""Fractional bits of a normalised row before its gains."""
EPSILON_FRACTION: Final = 48
"""Fractional bits of the norm's epsilon."""
GAIN_BITS: Final = 24
"""Bits of the largest gain of a norm."""
SHORT_WEIGHT_LIMIT: Final = 127
"""Largest absolute weight of precision `w8a16`: one signed 8-bit half."""
MANTISSA_BITS: Final = 15
"""Bits of a weight row's scale mantissa."""
CDF_STEP_FRACTION: Final = 9
"""The normal distribution is tabled in steps of 2**-9."""
CDF_LIMIT: Final = 6
"""Beyond it the normal distribution is taken as 0 or 1: its tail is below 2**-29."""
TANH_FRACTION: Final = 30
"""Fractional bits of tanh's result."""
SHIFT_LIMIT: Final = 62
"""Largest right shift: a longer one is taken as this one."""

# Wire (spec/wire.md)
FRAME_MAGIC: Final = b"VEIL"
"""First bytes of every frame."""
FRAME_LIMIT: Final = 2**20
"""Most payload bytes in one frame."""
REPLY_LIMIT: Final = 2**30
"""Most bytes of one reassembled message."""
EPOCH_BYTES: Final = 16
"""A random epoch name."""
RESUME_LIMIT: Final = 3
"""Most times that a broken stream is opened again in one epoch."""
STREAM_LIMIT: Final = 2
"""Epochs that a worker or a dealer serves at a time."""
GRANT_LIMIT: Final = 2**14
"""Most rows, steps times rows of a step, that one ASK can ask for."""
SEQUENCE_LIMIT: Final = 16
"""Sequences whose keys and values a worker keeps for one stream of mode `split`."""
LINE_LIMIT: Final = 2**26
"""Most bytes of one line of the plug-in protocol."""
TRANSCRIPT_MAGIC: Final = b"VEILTAPE"
"""First bytes of a transcript file."""

# Model (spec/model.md)
WIDTH_LIMIT: Final = 2**13
"""Largest hidden width: a row's sum of squares stays below 2**61."""
INNER_LIMIT: Final = 2**14
"""Largest inner dimension of a linear group: exact float64 limb products."""
CONTEXT_LIMIT: Final = 2**17
"""Longest context: the sums of a softmax average by halves are at most 2**50."""
HEAD_WIDTH_LIMIT: Final = 256
"""Widest attention head."""
EXPONENT_LIMIT: Final = 2**10
"""Largest absolute exponent in a model file: float32 needs less than 200."""
VOCABULARY_LIMIT: Final = FRAME_LIMIT // 6
"""A row of logits, 6 bytes each, fits into one frame."""
TEMPERATURE_LIMIT: Final = 64
"""A temperature is from 1/64 to 64: a logit's distance times its factor stays below 2**62."""
RATIO_LIMIT: Final = 2**32
"""Largest numerator and denominator of a temperature: its factor then keeps its distance from a tie."""
SAMPLING_FRACTION: Final = 24
"""Fractional bits of log2(e) / temperature."""

# Integrity (spec/integrity.md)
SOUNDNESS_BITS: Final = 64
"""Each check misses a wrong product with probability at most 2**-64."""
