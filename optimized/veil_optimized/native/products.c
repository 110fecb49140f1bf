/* Exact products of field elements, or of 16-bit rows, with int8 or int16 weights.
 *
 * Implements: RMO-R4.
 *
 * Elements are cut into balanced digits of 10 to 16 bits, held as int16. A digit times a weight, two of them
 * added, is what one 32-bit lane of a processor's dot product takes. Before a lane could pass 31 bits, whatever
 * the digits and weights are, all lanes are added up in 64 bits.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define LANES 32 /* elements of one step: 64 bytes of int16 */
#else
#define LANES 1
#endif

enum { CHUNK = 64, HIGH = 6, WIDE = 4, PACKED = 100, PAIRED = 2048, AHEAD = 4096, NEAR = 12288, SMALL = 256 };
/* CHUNK: outputs whose sums are held at a time. HIGH, WIDE: digit rows and vectors of packed weights of one
 * register tile. PACKED: digit rows for which it pays to rearrange weights first. PAIRED: the most bytes of weight
 * rows that are read two at a time. AHEAD: bytes between what is multiplied and what is asked for, all in the order
 * in which they lie, which is what a processor's own prefetching goes by. NEAR: digits that stay in the nearest
 * cache. SMALL: the most inputs whose weights are rearranged at once, and stay there. The last five are the fastest
 * of those that were tried, at 576 to 4,096 inputs. */

typedef struct {
    int digits; /* of an element */
    int bits;   /* of a digit: its magnitude is at most 2^(bits - 1) */
    int lane;   /* products that a lane can add up: lane * 2^(bits - 1) * largest weight < 2^31 */
} Plan;

/* Digits of field elements, or of rows of 16 bits: int8 weights are at most 2^7, int16 weights below 2^15. */
static Plan plan_of(int width, int field_bits) {
    if (width == 1) {
        switch (field_bits) {
        case 16: return (Plan){1, 16, 256};
        case 32: return (Plan){2, 16, 256};
        case 40: return (Plan){3, 14, 1024};
        case 48: return (Plan){3, 16, 256};
        default: return (Plan){4, 16, 256};
        }
    }
    switch (field_bits) {
    case 16: return (Plan){2, 8, 256};
    case 32: return (Plan){3, 11, 64};
    case 40: return (Plan){4, 10, 128};
    case 48: return (Plan){5, 10, 128};
    default: return (Plan){6, 11, 64};
    }
}

#if LANES == 1
static int64_t scalar_dot(const int16_t *x, const void *w, int width, int count) {
    int64_t sum = 0;
    if (width == 1) {
        const int8_t *weights = w;
        for (int k = 0; k < count; k++) sum += (int32_t)x[k] * weights[k];
    } else {
        const int16_t *weights = w;
        for (int k = 0; k < count; k++) sum += (int32_t)x[k] * weights[k];
    }
    return sum;
}
#endif

#if LANES > 1
/* Return lanes plus the products of two neighbours each. In assembly, since GCC 12 copies its registers. */
static inline __attribute__((always_inline)) __m512i plus(__m512i lanes, __m512i digits, __m512i weights) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(lanes) : "v"(digits), "v"(weights));
    return lanes;
}

static inline __attribute__((always_inline)) __m512i loaded(const char *w, int width, int left) {
    if (width == 1) {
        __mmask32 some = left >= LANES ? 0xFFFFFFFFu : (1u << left) - 1;
        return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(some, w));
    }
    __mmask32 some = left >= LANES ? 0xFFFFFFFFu : (1u << left) - 1;
    return _mm512_maskz_loadu_epi16(some, w);
}

static inline __attribute__((always_inline)) int64_t added_up(__m512i lanes) {
    __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes));
    __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(lanes, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

/* Add `rows` digit rows times `columns` weight rows, over `count` elements, to sums. What lies `ahead` of the
 * weights is asked for, line after line. */
static inline __attribute__((always_inline)) void tile(
    const int16_t *x, size_t stride, int rows, const char *w, int width, size_t step, int columns, int count,
    size_t ahead, int64_t *sums) {
    const char *early = w + ahead; /* beyond the last row it asks for nothing that exists */
    __m512i lanes[HIGH][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int c = 0; c < columns; c++) lanes[r][c] = _mm512_setzero_si512();
    int whole = count / LANES * LANES;
#pragma GCC unroll 2
    for (int k = 0; k < whole; k += LANES) {
        __m512i weights[2];
#pragma GCC unroll 2
        for (int line = 0; line < columns * LANES * width; line += 64) _mm_prefetch(early + line, _MM_HINT_T0);
        early += columns * LANES * width;
#pragma GCC unroll 2
        for (int c = 0; c < columns; c++) weights[c] = loaded(w + c * step + (size_t)k * width, width, LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512i digits = _mm512_loadu_si512(x + r * stride + k);
#pragma GCC unroll 2
            for (int c = 0; c < columns; c++) lanes[r][c] = plus(lanes[r][c], digits, weights[c]);
        }
    }
    if (whole < count) {
#pragma GCC unroll 2
        for (int c = 0; c < columns; c++) {
            __m512i weights = loaded(w + c * step + (size_t)whole * width, width, count - whole);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
                lanes[r][c] = plus(lanes[r][c], _mm512_loadu_si512(x + r * stride + whole), weights);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int c = 0; c < columns; c++) sums[r * CHUNK + c] += added_up(lanes[r][c]);
}

typedef void Tiles(
    const int16_t *x, size_t stride, int rows, const char *w, size_t step, int columns, int count, size_t ahead,
    int64_t *sums);

#define TILES(WIDTH, EACH)                                                                                     \
    static void tiles_##WIDTH##_##EACH(                                                                        \
        const int16_t *x, size_t stride, int rows, const char *w, size_t step, int columns, int count,         \
        size_t ahead, int64_t *sums) {                                                                         \
        int c = 0;                                                                                             \
        for (; c + EACH <= columns; c += EACH) switch (rows) {                                                 \
            case 6: tile(x, stride, 6, w + c * step, WIDTH, step, EACH, count, ahead, sums + c); break;        \
            case 5: tile(x, stride, 5, w + c * step, WIDTH, step, EACH, count, ahead, sums + c); break;        \
            case 4: tile(x, stride, 4, w + c * step, WIDTH, step, EACH, count, ahead, sums + c); break;        \
            case 3: tile(x, stride, 3, w + c * step, WIDTH, step, EACH, count, ahead, sums + c); break;        \
            case 2: tile(x, stride, 2, w + c * step, WIDTH, step, EACH, count, ahead, sums + c); break;        \
            default: tile(x, stride, 1, w + c * step, WIDTH, step, EACH, count, ahead, sums + c);              \
            }                                                                                                  \
        for (; c < columns; c++)                                                                               \
            for (int r = 0; r < rows; r++)                                                                     \
                tile(x + r * stride, stride, 1, w + c * step, WIDTH, step, 1, count, 0, sums + r * CHUNK + c); \
    }
TILES(1, 1)
TILES(1, 2)
TILES(2, 1)
TILES(2, 2)

/* Add digit rows times a chunk of weight rows, where they lie, to sums. */
static void lying_tiles(
    const int16_t *x, size_t stride, int rows, const char *w, int width, size_t step, int columns, int count,
    int64_t *sums) {
    static Tiles *const all[2][2] = {{tiles_1_1, tiles_1_2}, {tiles_2_1, tiles_2_2}};
    int each = rows <= HIGH && step > PAIRED ? 1 : 2;
    size_t ahead = each * step + ((size_t)count * width == step ? AHEAD : 0);
    for (int r = 0; r < rows; r += HIGH) {
        int high = rows - r < HIGH ? rows - r : HIGH;
        all[width - 1][each - 1](
            x + r * stride, stride, high, w, step, columns, count, ahead, sums + (size_t)r * CHUNK);
    }
}

/* Exchange 16 rows of 16 lanes with their columns. */
static inline __attribute__((always_inline)) void transpose(__m512i rows[16]) {
    __m512i pairs[16], fours[16];
#pragma GCC unroll 8
    for (int r = 0; r < 16; r += 2) {
        pairs[r] = _mm512_unpacklo_epi32(rows[r], rows[r + 1]);
        pairs[r + 1] = _mm512_unpackhi_epi32(rows[r], rows[r + 1]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 16; r += 4)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            fours[r + 2 * half] = _mm512_unpacklo_epi64(pairs[r + half], pairs[r + 2 + half]);
            fours[r + 2 * half + 1] = _mm512_unpackhi_epi64(pairs[r + half], pairs[r + 2 + half]);
        }
    /* Of fours[4 a + b], the quarter q is column 4 q + b of the rows 4 a to 4 a + 3. */
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++) {
        __m512i low[2], high[2];
#pragma GCC unroll 2
        for (int a = 0; a < 2; a++) {
            low[a] = _mm512_shuffle_i32x4(fours[8 * a + b], fours[8 * a + 4 + b], 0x44);
            high[a] = _mm512_shuffle_i32x4(fours[8 * a + b], fours[8 * a + 4 + b], 0xEE);
        }
        rows[b] = _mm512_shuffle_i32x4(low[0], low[1], 0x88);
        rows[4 + b] = _mm512_shuffle_i32x4(low[0], low[1], 0xDD);
        rows[8 + b] = _mm512_shuffle_i32x4(high[0], high[1], 0x88);
        rows[12 + b] = _mm512_shuffle_i32x4(high[0], high[1], 0xDD);
    }
}

/* Write CHUNK weight rows so that a vector holds two neighbours of each of 16 rows: [count / 2][CHUNK][2].
 *
 * What lies `ahead` is packed next, and asked for. */
static void pack(const char *w, int width, size_t step, int columns, int count, size_t ahead, int16_t *packed) {
    int each = 64 / width, pairs = (count + 1) / 2;
    /* Bytes 0 and 1, then 2 and 3, of each lane, to the upper bytes of its two halves. */
    const __m512i lane = _mm512_broadcast_i32x4(_mm_set_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0));
    const __m512i first = _mm512_add_epi8(lane, _mm512_set1_epi32(0x01800080));
    const __m512i second = _mm512_add_epi8(lane, _mm512_set1_epi32(0x03800280));
    for (int c = 0; c < CHUNK; c += 16) {
        for (int k = 0; k < count; k += each) {
            int left = (count - k < each ? count - k : each) * width;
            __mmask64 some = left == 64 ? ~0ULL : (1ULL << left) - 1;
            __m512i rows[16];
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++) {
                const char *row = w + (size_t)(c + r) * step + (size_t)k * width;
                rows[r] = _mm512_maskz_loadu_epi8(c + r < columns ? some : 0, row);
                _mm_prefetch(row + ahead, _MM_HINT_T1);
            }
            transpose(rows);
            int16_t *to = packed + (size_t)k * CHUNK + 2 * c;
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++) {
                if (width == 2) {
                    if (k / 2 + r < pairs) _mm512_storeu_si512(to + 2 * CHUNK * r, rows[r]);
                } else {
                    __m512i low = _mm512_srai_epi16(_mm512_shuffle_epi8(rows[r], first), 8);
                    __m512i high = _mm512_srai_epi16(_mm512_shuffle_epi8(rows[r], second), 8);
                    if (k / 2 + 2 * r < pairs) _mm512_storeu_si512(to + 4 * CHUNK * r, low);
                    if (k / 2 + 2 * r + 1 < pairs) _mm512_storeu_si512(to + 4 * CHUNK * r + 2 * CHUNK, high);
                }
            }
        }
    }
}

/* Add `rows` digit rows times a packed chunk to sums [rows, CHUNK]. */
static inline __attribute__((always_inline)) void packed_tile(
    const int16_t *x, size_t stride, int rows, const int16_t *packed, int count, int64_t *sums) {
    __m512i lanes[HIGH][WIDE];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < WIDE; c++) lanes[r][c] = _mm512_setzero_si512();
    for (int k = 0; k < count; k += 2) {
        __m512i weights[WIDE];
#pragma GCC unroll 4
        for (int c = 0; c < WIDE; c++) weights[c] = _mm512_loadu_si512(packed + (size_t)k * CHUNK + 32 * c);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t two;
            memcpy(&two, x + r * stride + k, sizeof two);
            __m512i digits = _mm512_set1_epi32(two);
#pragma GCC unroll 4
            for (int c = 0; c < WIDE; c++) lanes[r][c] = plus(lanes[r][c], digits, weights[c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < WIDE; c++) {
            int64_t *to = sums + r * CHUNK + 16 * c;
            __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes[r][c]));
            __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(lanes[r][c], 1));
            _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_loadu_si512(to), low));
            _mm512_storeu_si512(to + 8, _mm512_add_epi64(_mm512_loadu_si512(to + 8), high));
        }
}

static void packed_tiles(
    const int16_t *x, size_t stride, int rows, const int16_t *packed, int count, int64_t *sums) {
    for (int r = 0; r < rows; r += HIGH) {
        const int16_t *from = x + r * stride;
        int64_t *to = sums + (size_t)r * CHUNK;
        switch (rows - r) {
        case 1: packed_tile(from, stride, 1, packed, count, to); break;
        case 2: packed_tile(from, stride, 2, packed, count, to); break;
        case 3: packed_tile(from, stride, 3, packed, count, to); break;
        case 4: packed_tile(from, stride, 4, packed, count, to); break;
        case 5: packed_tile(from, stride, 5, packed, count, to); break;
        default: packed_tile(from, stride, 6, packed, count, to);
        }
    }
}
#endif

/* Elements between two places where lanes are added up: a row of weights fills 16 lanes, a packed one its own. */
static int block_of(int lane, int rows, int packed) {
    if (packed) return lane < SMALL ? lane : SMALL;
    int near = NEAR / (rows < HIGH ? rows : HIGH) / 64 * 64;
    return 16 * lane < near ? 16 * lane : near;
}

/* Add all digit rows times a chunk of weight rows to sums [rows, CHUNK]. */
static void chunk_sums(
    const int16_t *x, size_t stride, int rows, const char *w, int width, int inner, int columns, int lane,
    int16_t *packed, int64_t *sums) {
    size_t step = (size_t)inner * width;
    int block = block_of(lane, rows, packed != NULL);
    for (int k = 0; k < inner; k += block) {
        int count = inner - k < block ? inner - k : block;
        const char *from = w + (size_t)k * width;
#if LANES > 1
        if (packed) {
            size_t ahead = k + count < inner ? (size_t)count * width : CHUNK * step - (size_t)k * width;
            pack(from, width, step, columns, count, ahead, packed);
            packed_tiles(x + k, stride, rows, packed, count, sums);
        } else {
            lying_tiles(x + k, stride, rows, from, width, step, columns, count, sums);
        }
#else
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < columns; c++)
                sums[(size_t)r * CHUNK + c] += scalar_dot(x + r * stride + k, from + c * step, width, count);
#endif
    }
}

/* The largest element that is written as it is: half of p, or less where its digits would reach 2^(bits - 1).
 * One above it is written less p. */
static uint64_t largest(Plan plan, uint64_t modulus) {
    unsigned __int128 most = 0;
    for (int d = 0; d < plan.digits; d++) most = (most << plan.bits) + ((uint64_t)1 << (plan.bits - 1)) - 1;
    return most < modulus / 2 ? (uint64_t)most : modulus / 2;
}

/* Cut a row of signed integers into balanced digits [digits, stride], the lowest first; `rest` is scratch. */
static void cut(
    const int64_t *values, int inner, Plan plan, size_t stride, int field_bits, uint64_t modulus, int64_t *rest,
    int16_t *x) {
    int64_t half = (int64_t)1 << (plan.bits - 1), mask = 2 * half - 1;
    uint64_t most = largest(plan, modulus);
    for (int k = 0; k < inner; k++) rest[k] = values[k];
    if (field_bits != 16)
        for (int k = 0; k < inner; k++) rest[k] -= (uint64_t)rest[k] > most ? (int64_t)modulus : 0;
    for (int d = 0; d < plan.digits - 1; d++, x += stride)
        for (int k = 0; k < inner; k++) {
            int64_t low = rest[k] & mask, carry = low >= half;
            x[k] = (int16_t)(low - (carry << plan.bits));
            rest[k] = (rest[k] >> plan.bits) + carry;
        }
    for (int k = 0; k < inner; k++) x[k] = (int16_t)rest[k];
}

/* Return a number that is congruent to this one mod p = 2^bits - fold, and not far from 0 .. p. */
static inline int64_t folded(int64_t value, int bits, int64_t mask, int64_t fold) {
    return (value & mask) + (value >> bits) * fold;
}

/* Join the sums of a row's digits [digits, CHUNK] to its products, mod p where there is a field. */
static void join(
    const int64_t *sums, int columns, Plan plan, int field_bits, uint64_t modulus, int64_t *out) {
    if (field_bits == 64) {
        for (int c = 0; c < columns; c++) {
            __int128 total = 0;
            for (int d = plan.digits - 1; d >= 0; d--) total = (total << plan.bits) + sums[d * CHUNK + c];
            out[c] = (int64_t)residue(total, field_bits, modulus);
        }
        return;
    }
    const int64_t *top = sums + (size_t)(plan.digits - 1) * CHUNK;
    for (int c = 0; c < columns; c++) out[c] = top[c];
    int64_t mask = ((int64_t)1 << field_bits) - 1, fold = mask + 1 - (int64_t)modulus;
    int half = plan.bits / 2;
    for (int d = plan.digits - 2; d >= 0; d--)
        for (int c = 0; c < columns; c++) {
            int64_t value = out[c];
            if (field_bits != 16) {
                value = folded(value, field_bits, mask, fold) << half;
                value = folded(value, field_bits, mask, fold) << (plan.bits - half);
            } else {
                value <<= plan.bits;
            }
            out[c] = value + sums[(size_t)d * CHUNK + c];
        }
    if (field_bits == 16) return;
    for (int c = 0; c < columns; c++) {
        /* Sums stay below 2^58, so that the first leaves more than -2^bits, and the second nothing below 0. */
        int64_t value = folded(folded(out[c], field_bits, mask, fold), field_bits, mask, fold);
        out[c] = value - (value >= (int64_t)modulus ? (int64_t)modulus : 0);
    }
}

int veil_product(
    const int64_t *values, int n, int inner, const void *weights, int width, int first, int last, int outputs,
    int field_bits, uint64_t modulus, int64_t *out) {
    Plan plan = plan_of(width, field_bits);
    size_t stride = ((size_t)inner + 31) / 32 * 32;
    int rows = n * plan.digits;
    size_t digit_bytes = (size_t)rows * stride * sizeof(int16_t);
    size_t sum_bytes = (size_t)rows * CHUNK * sizeof(int64_t), rest_bytes = stride * sizeof(int64_t);
    char *memory = aligned_alloc(64, digit_bytes + sum_bytes + rest_bytes);
    int16_t *packed = rows < PACKED ? NULL : aligned_alloc(64, (size_t)plan.lane * CHUNK * sizeof(int16_t));
    int enough = memory && (rows < PACKED || packed);
    if (enough) {
        int16_t *x = (int16_t *)memory;
        int64_t *sums = (int64_t *)(memory + digit_bytes), *rest = (int64_t *)(memory + digit_bytes + sum_bytes);
        memset(x, 0, digit_bytes);
        for (int r = 0; r < n; r++)
            cut(values + (size_t)r * inner, inner, plan, stride, field_bits, modulus, rest,
                x + (size_t)r * plan.digits * stride);
        for (int o = first; o < last; o += CHUNK) {
            int columns = last - o < CHUNK ? last - o : CHUNK;
            const char *from = (const char *)weights + (size_t)o * inner * width;
            memset(sums, 0, sum_bytes);
            chunk_sums(x, stride, rows, from, width, inner, columns, plan.lane, packed, sums);
            for (int r = 0; r < n; r++)
                join(sums + (size_t)r * plan.digits * CHUNK, columns, plan, field_bits, modulus,
                     out + (size_t)r * outputs + o);
        }
        wipe(memory, digit_bytes + sum_bytes + rest_bytes);
    }
    free(memory);
    free(packed);
    return enough;
}
