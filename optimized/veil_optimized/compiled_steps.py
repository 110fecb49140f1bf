"""The steps compiled from `native/steps.c`, where somebody has built them."""

import ctypes
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache, partial
from math import isqrt
from types import SimpleNamespace
from typing import Final, Self

import torch

from veil_optimized import fixed_point, tables, wire
from veil_optimized.fixed_point import Rows
from veil_optimized.kernels import shared
from veil_optimized.native import build
from veil_optimized.steps import Scaled, Steps, Vectors
from veil_spec import constants
from veil_spec.architecture import Rotation
from veil_spec.refusals import Refusal, Refused

POINTER: Final = ctypes.c_void_p
NUMBER: Final = ctypes.c_int
WORD: Final = ctypes.c_int64
SIZE: Final = ctypes.c_size_t
SIGNATURES: Final = {
    "veil_quantise": (POINTER, NUMBER, NUMBER, NUMBER, POINTER, POINTER),
    "veil_rms_norm": (POINTER, NUMBER, NUMBER, POINTER, NUMBER, WORD, WORD, POINTER, POINTER),
    "veil_settle": (POINTER, NUMBER, NUMBER, *[POINTER] * 3, NUMBER, WORD, POINTER, POINTER, POINTER),
    "veil_gate": (POINTER, NUMBER, NUMBER, WORD, POINTER, NUMBER, POINTER, POINTER),
    "veil_place": (POINTER, NUMBER, NUMBER, NUMBER, SIZE, POINTER, POINTER, NUMBER, POINTER, POINTER),
    "veil_attend": (
        *(POINTER, POINTER, NUMBER, NUMBER, NUMBER, NUMBER, POINTER, POINTER, POINTER, NUMBER),
        *(SIZE, SIZE, SIZE, NUMBER, NUMBER, WORD, NUMBER, WORD, POINTER, NUMBER, NUMBER, POINTER),
    ),
    "veil_mask": (POINTER, POINTER, SIZE, WORD, NUMBER, POINTER, POINTER),
    "veil_unmask": (POINTER, POINTER, SIZE, WORD, POINTER),
    "veil_verify": (POINTER, POINTER, NUMBER, NUMBER, NUMBER, POINTER, POINTER, NUMBER, NUMBER, WORD),
    "veil_pack": (POINTER, SIZE, NUMBER, WORD, POINTER),
    "veil_unpack": (POINTER, SIZE, NUMBER, WORD, POINTER),
}
"""What each function takes; those that tell something return an int."""
NEW_BYTES: Final = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
"""CPython's own way to bytes that are still to be written: nothing is there yet."""
OUTSIDE: Final = 2
"""What the check says of rows that are not of its field."""
SCORES_A_THREAD: Final = 2**14
"""Scores of queries with positions that are worth another thread."""


class CompiledSteps(Steps):
    """Whole steps in C; what it does not do, or not in this field, torch does."""

    name = "compiled"

    def __init__(self, code: ctypes.CDLL) -> None:
        for name, takes in SIGNATURES.items():
            getattr(code, name).argtypes = takes
        self._code = code

    @classmethod
    def load(cls) -> Self | None:
        """Return the steps, or nothing where they were not built for this processor."""
        path = build.library()
        return cls(ctypes.CDLL(str(path))) if path.exists() else None

    def rms_norm(self, rows: torch.Tensor, gains: torch.Tensor, exponent: int, epsilon: Fraction) -> Rows:
        """Return rows normalised with gains, quantised [n, width]."""
        count, width = rows.shape
        given, factors, made = _held(rows), _held(gains, width), _rows(count, width)
        self._code.veil_rms_norm(
            *(given.data_ptr(), count, width, factors.data_ptr()),
            *(constants.NORM_FRACTION + exponent, fixed_point.units(epsilon), isqrt(width << 44) << 34),
            *(made.values.data_ptr(), made.exponent.data_ptr()),
        )
        return made

    def settle(
        self,
        products: torch.Tensor,
        group: Scaled,
        exponents: torch.Tensor,
        fraction: int,
        limit: int,
        stream: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a group's outputs in fixed point [n, outputs], added to a stream where one is given."""
        count, width = products.shape
        given = _held(products)
        words = torch.empty_like(given)
        held = _held(group.mantissa, width), _held(group.exponent, width), _held(exponents, count)
        bias = added = None
        if group.bias is not None:
            bias = _held(fixed_point.rescale(group.bias, group.bias_exponent - fraction, limit), width)
        if stream is not None:
            added = _held(stream, count, width)
        self._code.veil_settle(
            *(given.data_ptr(), count, width, *(each.data_ptr() for each in held), fraction, limit),
            *(None if each is None else each.data_ptr() for each in (bias, added)),
            words.data_ptr(),
        )
        return words

    def gate(self, rows: torch.Tensor) -> Rows:
        """Return SiLU(gate) * up, quantised [n, width], of gates and ups side by side."""
        count, width = rows.shape[0], rows.shape[1] // 2
        given = _held(rows, count, 2 * width)
        made = _rows(count, width)
        self._code.veil_gate(
            *(given.data_ptr(), count, width, tables.log2e(), _digits().data_ptr()),
            *(2 * constants.HIDDEN_FRACTION, made.values.data_ptr(), made.exponent.data_ptr()),
        )
        return made

    def place(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Rows:
        """Return heads [n, heads, width], turned and quantised [heads, n, width]."""
        packed = heads.dtype == torch.int64 and heads.stride()[1:] == (heads.shape[2], 1)
        given = heads if packed else _held(heads)
        count, number, width = given.shape
        made, tables_ = _rows(number, count, width), [_held(each, count, width // 2) for each in (cos, sin)]
        self._code.veil_place(
            *(given.data_ptr(), count, number, width, given.stride(0)),
            *(*(each.data_ptr() for each in tables_), constants.HIDDEN_FRACTION),
            *(made.values.data_ptr(), made.exponent.data_ptr()),
        )
        return made

    def attend(
        self, queries: Rows, keys: Rows, values: torch.Tensor, first: int | None, window: int
    ) -> torch.Tensor:
        """Return each query's average of the values that it sees [n, heads * width]."""
        heads, count, width = queries.values.shape
        groups, positions, _ = keys.values.shape
        given, exponents = _held(queries.values), _held(queries.exponent, heads, count)
        held = keys.values.to(torch.int16), keys.exponent.to(torch.int32), values.to(torch.int32)
        rows = [each if _packed(each) else each.contiguous() for each in held]
        result = torch.empty(count, heads * width, dtype=torch.int64)
        constant = constants.SCORE_FRACTION - constants.EXPONENT_FRACTION

        def run(first_head: int, last_head: int) -> int:
            made: int = self._code.veil_attend(
                *(given.data_ptr(), exponents.data_ptr(), heads, count, width, heads // groups),
                *(*(each.data_ptr() for each in rows), positions, *(each.stride(0) for each in rows)),
                *(-1 if first is None else first, window, tables.score_factor(width), constant),
                *(constants.ATTENTION_LIMIT, _digits().data_ptr(), first_head, last_head, result.data_ptr()),
            )
            return made

        if not shared.among_threads(run, heads, heads * count * positions // SCORES_A_THREAD):
            raise MemoryError("no memory for the scores of a query")
        return result

    def quantise(self, rows: torch.Tensor, fraction: int) -> Rows:
        """Return rows as 16-bit integers and exponents."""
        given, made = _held(rows), _rows(*rows.shape)
        width = given.shape[-1]
        self._code.veil_quantise(
            *(given.data_ptr(), given.numel() // width, width, fraction),
            *(made.values.data_ptr(), made.exponent.data_ptr()),
        )
        return made

    def mask(self, rows: torch.Tensor, pads: torch.Tensor, modulus: int) -> tuple[torch.Tensor, bytes]:
        """Return activations plus pads, mod p, and their bytes; overwrites pads. Refuses as `remo.mask`."""
        if modulus not in constants.PRIMES or rows.dim() != 2 or not rows.numel() or rows.shape != pads.shape:
            return super().mask(rows, pads, modulus)
        given, drawn, width = _held(rows), _alone(pads), wire.element_bytes(modulus)
        masked, count = torch.empty_like(given), given.numel()
        data: bytes = NEW_BYTES(None, count * width)
        problem = self._code.veil_mask(
            given.data_ptr(), drawn.data_ptr(), count, modulus, width, masked.data_ptr(), data
        )
        if problem:
            masked.zero_()
            raise Refused(Refusal.NOT_IN_FIELD if problem == 1 else Refusal.ACTIVATION_OUT_OF_RANGE)
        return masked, data

    def unmask(self, product: torch.Tensor, correction: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return the plain product; overwrites the correction. Refuses: SHAPE_MISMATCH, NOT_IN_FIELD."""
        if modulus not in constants.PRIMES or product.dim() != 2 or product.shape != correction.shape:
            return super().unmask(product, correction, modulus)
        given, minted = _held(product), _alone(correction)
        plain = torch.empty_like(given)
        if self._code.veil_unmask(
            given.data_ptr(), minted.data_ptr(), given.numel(), modulus, plain.data_ptr()
        ):
            plain.zero_()
            raise Refused(Refusal.NOT_IN_FIELD)
        return plain

    def verifies(self, check: Vectors, masked: torch.Tensor, product: torch.Tensor) -> bool:
        """Return whether Y' z = X' (z W) for every row and every z. Refuses: NOT_IN_FIELD."""
        if check.modulus not in constants.PRIMES:
            return super().verifies(check, masked, product)
        (count, inner), (vectors, outputs) = masked.shape, check.vectors.shape
        sent, answer = _held(masked), _held(product, count, outputs)
        secrets, images = _held(check.vectors), _held(check.images, vectors, inner)
        about = (secrets.data_ptr(), images.data_ptr(), vectors)
        field = (check.modulus.bit_length(), check.modulus)

        def run(first: int, last: int) -> int:
            rows = sent[first:last].data_ptr(), answer[first:last].data_ptr(), last - first
            verdict: int = self._code.veil_verify(*rows, inner, outputs, *about, *field)
            if verdict == OUTSIDE:
                raise Refused(Refusal.NOT_IN_FIELD)
            return verdict

        return shared.among_threads(run, count, count * vectors * (inner + outputs) // shared.MACS_A_THREAD)

    def pack(self, elements: torch.Tensor, modulus: int) -> bytes:
        """Return elements as bytes. Refuses: FIELD_UNKNOWN, NOT_IN_FIELD."""
        width, given = wire.element_bytes(modulus), _held(elements)
        data: bytes = NEW_BYTES(None, given.numel() * width)
        if self._code.veil_pack(given.data_ptr(), given.numel(), width, _unsigned(modulus), data):
            raise Refused(Refusal.NOT_IN_FIELD)
        return data

    def unpack(self, data: bytes | bytearray, rows: int, columns: int, modulus: int) -> torch.Tensor:
        """Return elements [rows, columns]. Refuses: FIELD_UNKNOWN, FRAME_MALFORMED, NOT_IN_FIELD."""
        width = wire.element_bytes(modulus)
        if len(data) != rows * columns * width:
            return super().unpack(data, rows, columns, modulus)
        elements = torch.empty(rows, columns, dtype=torch.int64)
        source = (ctypes.c_char * len(data)).from_buffer(data) if isinstance(data, bytearray) else data
        about = (elements.numel(), width, _unsigned(modulus), elements.data_ptr())
        if self._code.veil_unpack(source, *about):
            raise Refused(Refusal.NOT_IN_FIELD)
        return elements


def _unsigned(modulus: int) -> int:
    """Return the bits of a modulus as a signed word."""
    return modulus - 2**64 if modulus >= 2**63 else modulus


def _rows(*shape: int) -> Rows:
    return Rows(torch.empty(shape, dtype=torch.int64), torch.empty(shape[:-1], dtype=torch.int64))


def _held(words: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return words that C can read, of this shape if one is given; ValueError for any other."""
    if words.dtype != torch.int64 or (shape and words.shape != shape) or not words.is_cpu:
        raise ValueError(
            f"{words.dtype} {tuple(words.shape)} on {words.device}, not int64 {shape} on the cpu"
        )
    return words.contiguous()


def _alone(secret: torch.Tensor) -> torch.Tensor:
    """Return the same words that C can read and overwrite; ValueError where that needs a copy."""
    held = _held(secret)
    if held is not secret:
        raise ValueError("a copy of a secret would be overwritten in its place")
    return held


def _packed(rows: torch.Tensor) -> bool:
    """Return whether all but the first dimension lie as they would in a tensor of their own."""
    return rows[0].is_contiguous()


@cache
def _digits() -> torch.Tensor:
    """Return both tables of exp2's digits, coarse and then fine, int64 [512]."""
    return torch.cat(tables.exp2_digits()).contiguous()


# What they have to agree on before they are used


def agree(left: Steps, right: Steps) -> bool:
    """Return whether both sets of steps give the same words on extreme and scattered rows."""
    return all(_same(run(left), run(right)) for run in _trials())


def _same(left: object, right: object) -> bool:
    if isinstance(left, Rows) and isinstance(right, Rows):
        return torch.equal(left.values, right.values) and torch.equal(left.exponent, right.exponent)
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    return left == right


def _scattered(limit: int, *shape: int) -> torch.Tensor:
    """Return words of every size up to a limit, of both signs: multiples of the golden ratio, shifted."""
    count = int(torch.tensor(shape).prod())
    words = (torch.arange(1, count + 1) * -7046029254386353131) >> (torch.arange(count) * 7 % 60 + 1)
    return words.clamp(-limit, limit).reshape(shape)


def _trials() -> Iterator[Callable[[Steps], object]]:
    """Yield what computes one step on fixed words, by either set of steps."""
    hidden, residual = constants.HIDDEN_LIMIT, constants.RESIDUAL_LIMIT
    for rows in (
        _scattered(residual, 3, 37),
        torch.full((1, 576), residual),
        -_scattered(2**20, 2, 5),
        torch.zeros(1, 8, dtype=torch.int64),
    ):
        yield partial(_of_rows, rows)
    yield lambda steps: steps.gate(_scattered(hidden, 5, 46))
    yield lambda steps: steps.gate(torch.tensor([[hidden, -hidden, hidden, -hidden]]))
    cos, sin = tables.rope(7, 6, Rotation(Fraction(10_000)))
    yield lambda steps: steps.place(_scattered(hidden, 7, 5, 6), cos, sin)
    yield lambda steps: steps.place(_scattered(hidden, 7, 9, 6)[:, 2:7], cos, sin)
    for shape in ((6, 40, 33, 0), (64, 21, 14, 5), (10, 9, None, 0), (256, 7, 0, 0)):
        yield partial(_attended, *shape)
    for modulus in constants.PRIMES:
        yield partial(_crossed, modulus)


def _of_rows(rows: torch.Tensor, steps: Steps) -> list[object]:
    """Return what becomes of rows, as a stream and as products of a group with a bias."""
    hidden, residual, width = constants.HIDDEN_LIMIT, constants.RESIDUAL_LIMIT, rows.shape[1]
    gains, exponents = _scattered(2**constants.GAIN_BITS, width), _scattered(60, len(rows))
    mantissa = _scattered(2**constants.MANTISSA_BITS - 1, width).abs()
    group = SimpleNamespace(mantissa=mantissa, exponent=_scattered(40, width), bias=gains, bias_exponent=21)
    products = rows.clamp(-(2**46), 2**46)
    made = steps.rms_norm(rows, gains, 20, Fraction(1, 100_000)), steps.quantise(rows, 24)
    return [
        *(part.tolist() for each in made for part in (each.values, each.exponent)),
        steps.settle(products, group, exponents, 18, hidden).tolist(),
        steps.settle(products, group, exponents, 24, residual, rows).tolist(),
    ]


def _attended(width: int, positions: int, first: int | None, window: int, steps: Steps) -> torch.Tensor:
    queries = Rows(_scattered(constants.ACTIVATION_LIMIT, 6, 7, width), _scattered(20, 6, 7).abs())
    keys = _scattered(constants.ACTIVATION_LIMIT, 2, positions, width).flip(-1)
    values = _scattered(constants.HIDDEN_LIMIT, 2, positions, width)
    held = Rows(keys.to(torch.int16), _scattered(20, 2, positions).abs().to(torch.int32))
    return steps.attend(queries, held, values.to(torch.int32), first, window)


def _crossed(modulus: int, steps: Steps) -> list[object]:
    """Return what becomes of rows that are masked, checked and unmasked, with one answer that is wrong."""
    rows = _scattered(constants.ACTIVATION_LIMIT, 3, 190)
    pads, answer = (_scattered(2**62, 3, width).remainder(modulus) for width in (190, 11))
    pads[0], answer[0], rows[0, :2] = modulus - 1, modulus - 1, torch.tensor([1, -1])
    check = _check(modulus)
    masked, data = steps.mask(rows, pads, modulus)
    right = torch.tensor([[int(x) % modulus] * 11 for x in answer[:, 0]])
    return [
        masked.tolist(),
        steps.unmask(answer, right, modulus).tolist(),
        data,
        steps.pack(masked, modulus),
        pads.any().item() or right.any().item(),
        steps.unpack(data, 3, 190, modulus).tolist(),
        steps.verifies(check, masked, answer),
        steps.verifies(check, torch.zeros_like(masked), torch.zeros_like(answer)),
    ]


def _check(modulus: int) -> Vectors:
    from veil_optimized.integrity import check_of

    vectors, images = (_scattered(2**62, 2, width).remainder(modulus) for width in (11, 190))
    return check_of(vectors, images, modulus)
