/* What the enclave does between the products: the integer functions of veil_optimized.fixed_point, fused.
 *
 * Every word is computed by the same operations as there, so the bounds proved for those hold here: only sums
 * are added up in another order, and exactly. Rows are int64, one after the other.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#ifdef __AVX512IFMA__
#include <immintrin.h>
#endif

enum { SHIFT_LIMIT = 62, EXP2 = 30, ROPE = 30, NORM = 20, NORM_BITS = 24, NORM_FLOOR = -8, WEIGHT = 18 };
enum { HEAD_WIDTH = 256, SPAN = 1 << 14, BLOCK = 512, SOME = 2048 };
/* The widest head. SPAN: positions whose weighted values, of 48 bits, add up to less than 2^62. BLOCK: elements that
 * are masked and then packed. SOME: products of which lanes take the sums, of 52 bits each. */

static inline int64_t round_shift(int64_t value, int64_t shift) {
    return (value + (((int64_t)1 << shift) >> 1)) >> shift;
}

static inline int64_t clamped(int64_t value, int64_t limit) {
    value = value > limit ? limit : value;
    return value < -limit ? -limit : value;
}

static inline int64_t rescaled(int64_t value, int64_t shift, int64_t limit) {
    if (shift > 0) return clamped(round_shift(value, shift > SHIFT_LIMIT ? SHIFT_LIMIT : shift), limit);
    int64_t left = -shift > SHIFT_LIMIT ? SHIFT_LIMIT : -shift, size = value < 0 ? -value : value;
    if (size > limit >> left) return value < 0 ? -limit : limit;
    return value << left;
}

static inline int bits_of(int64_t value) { return value ? 64 - __builtin_clzll((uint64_t)value) : 0; }

static int64_t largest_of(const int64_t *row, int width) {
    int64_t least = row[0], most = row[0];
    for (int c = 1; c < width; c++) {
        least = row[c] < least ? row[c] : least;
        most = row[c] > most ? row[c] : most;
    }
    return -least > most ? -least : most;
}

static int64_t root_of(int64_t value) {
    int64_t root = (int64_t)sqrt((double)value);
    root -= root * root > value;
    return root + ((root + 1) * (root + 1) <= value);
}

/* Quantise a row in place of `values`, and return the shift. */
static int64_t quantised(const int64_t *row, int width, int64_t *values) {
    int64_t shift = bits_of(largest_of(row, width)) - 15, limit = 32767;
    if (shift > 0) {
        for (int c = 0; c < width; c++) values[c] = clamped(round_shift(row[c], shift), limit);
    } else {
        for (int c = 0; c < width; c++) values[c] = rescaled(row[c], shift, limit);
    }
    return shift;
}

void veil_quantise(const int64_t *rows, int n, int width, int fraction, int64_t *values, int64_t *exponents) {
    for (int r = 0; r < n; r++)
        exponents[r] = fraction - quantised(rows + (size_t)r * width, width, values + (size_t)r * width);
}

/* Rows over the root of their mean square, with gains, quantised. `root` is isqrt(width << 44) << 34. */
void veil_rms_norm(
    const int64_t *rows, int n, int width, const int64_t *gains, int fraction, int64_t epsilon, int64_t root,
    int64_t *values, int64_t *exponents) {
    for (int r = 0; r < n; r++) {
        const int64_t *row = rows + (size_t)r * width;
        int64_t *to = values + (size_t)r * width;
        int64_t shift = bits_of(largest_of(row, width)) - NORM_BITS;
        shift = shift < NORM_FLOOR ? NORM_FLOOR : shift;
        int64_t energy = 0;
        for (int c = 0; c < width; c++) {
            to[c] = rescaled(row[c], shift, (int64_t)1 << NORM_BITS);
            energy += to[c] * to[c];
        }
        int64_t twice = 2 * shift > SHIFT_LIMIT ? SHIFT_LIMIT : 2 * shift;
        energy += width * (twice > 0 ? epsilon >> twice : epsilon << -twice);
        int lift = (62 - bits_of(energy)) >> 1;
        int64_t inverse = root / root_of(energy << 2 * lift);
        for (int c = 0; c < width; c++) to[c] = round_shift(to[c] * inverse, 56 - NORM - lift) * gains[c];
        exponents[r] = fraction - quantised(to, width, to);
    }
}

/* Products to words of `fraction` fractional bits, with a rescaled bias, and added to a stream, where given. */
void veil_settle(
    const int64_t *products, int n, int width, const int64_t *mantissa, const int64_t *exponent,
    const int64_t *row_exponents, int fraction, int64_t limit, const int64_t *bias, const int64_t *stream,
    int64_t *words) {
    for (int r = 0; r < n; r++) {
        int64_t base = row_exponents[r] - fraction;
        size_t at = (size_t)r * width;
        for (int c = 0; c < width; c++) {
            int64_t word = rescaled(products[at + c] * mantissa[c], base + exponent[c], limit);
            if (bias) word = clamped(word + bias[c], limit);
            words[at + c] = stream ? clamped(stream[at + c] + word, limit) : word;
        }
    }
}

typedef struct {
    int64_t coarse[256], fine[256];
} Digits;

static inline int64_t exp2_of(int64_t exponent, const Digits *digits) {
    int64_t positive = -exponent, whole = positive >> 16;
    whole = whole > SHIFT_LIMIT - EXP2 ? SHIFT_LIMIT - EXP2 : whole;
    int64_t product = digits->coarse[positive >> 8 & 255] * digits->fine[positive & 255];
    return round_shift(product, whole + EXP2);
}

/* The floor of a / b for 0 <= a < 2^62, 2^30 <= b < 2^32: the estimate is off by at most one. */
static inline int64_t quotient(int64_t a, int64_t b) {
    int64_t estimate = (int64_t)((double)a / (double)b), rest = a - estimate * b;
    return estimate + (rest >= b) - (rest < 0);
}

/* SiLU(gate) * up, quantised; a row of 2 * width words is its gates and then its ups. No branch, so that the
 * compiler divides vectors. */
void veil_gate(
    const int64_t *rows, int n, int width, int64_t log2e, const Digits *digits, int fraction, int64_t *values,
    int64_t *exponents) {
    const int64_t one = (int64_t)1 << EXP2;
    for (int r = 0; r < n; r++) {
        const int64_t *gates = rows + (size_t)r * 2 * width, *ups = gates + width;
        int64_t *to = values + (size_t)r * width;
        for (int c = 0; c < width; c++) {
            int64_t size = gates[c] < 0 ? -gates[c] : gates[c];
            to[c] = exp2_of(-round_shift(size * log2e, 32), digits);
        }
        for (int c = 0; c < width; c++) {
            int64_t negative = gates[c] >> 63, above = (to[c] & negative) | (one & ~negative);
            int64_t share = quotient(above << EXP2, to[c] + one);
            to[c] = round_shift(gates[c] * share, EXP2) * ups[c];
        }
        exponents[r] = fraction - quantised(to, width, to);
    }
}

/* Heads [n, heads, width] turned by their rows of the tables [n, width / 2], and quantised, head by head:
 * values [heads, n, width]. `stride` words lie between two rows of heads. */
void veil_place(
    const int64_t *rows, int n, int heads, int width, size_t stride, const int64_t *cos, const int64_t *sin,
    int fraction, int64_t *values, int64_t *exponents) {
    int half = width / 2;
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < n; r++) {
            const int64_t *a = rows + (size_t)r * stride + (size_t)h * width, *b = a + half;
            const int64_t *cosines = cos + (size_t)r * half, *sines = sin + (size_t)r * half;
            int64_t *to = values + ((size_t)h * n + r) * width;
            for (int c = 0; c < half; c++) {
                to[c] = round_shift(a[c] * cosines[c] - b[c] * sines[c], ROPE);
                to[half + c] = round_shift(b[c] * cosines[c] + a[c] * sines[c], ROPE);
            }
            exponents[(size_t)h * n + r] = fraction - quantised(to, width, to);
        }
}

static inline int64_t dot(const int16_t *low, const int16_t *high, const int16_t *key, int width) {
    int32_t lower = 0, upper = 0; /* at most 2^7 * 2^15 * HEAD_WIDTH = 2^30 */
    for (int c = 0; c < width; c++) {
        lower += (int32_t)low[c] * key[c];
        upper += (int32_t)high[c] * key[c];
    }
    return (int64_t)upper * 256 + lower;
}

/* The floor of (sum + total / 2) / total, total > 0. */
static inline int64_t average(__int128 sum, int64_t total) {
    sum += total / 2;
    if (sum < ((__int128)1 << 62) && sum > -((__int128)1 << 62)) {
        int64_t small = (int64_t)sum, whole = small / total;
        return whole - (small % total < 0);
    }
    __int128 whole = sum / total;
    return (int64_t)(whole - (sum % total < 0));
}

/* One query's averages of the values at positions first to last - 1. `scores` is scratch, one a position. */
static void attended(
    const int16_t *query, int64_t exponent, int width, const int16_t *keys, const int32_t *key_exponents,
    const int32_t *values, int first, int last, int64_t factor, int constant, int64_t score_limit,
    const Digits *digits, int64_t *scores, __int128 *sums, int64_t *to) {
    int16_t low[HEAD_WIDTH], high[HEAD_WIDTH];
    for (int c = 0; c < width; c++) {
        low[c] = (int16_t)(int8_t)query[c];
        high[c] = (int16_t)((query[c] - low[c]) >> 8);
    }
    int64_t most = INT64_MIN, total = 0;
    for (int p = first; p < last; p++) {
        int64_t product = dot(low, high, keys + (size_t)p * width, width) * factor;
        scores[p] = rescaled(product, exponent + constant + key_exponents[p], score_limit);
        most = scores[p] > most ? scores[p] : most;
    }
    for (int p = first; p < last; p++) {
        scores[p] = round_shift(exp2_of(scores[p] - most, digits), EXP2 - WEIGHT);
        total += scores[p];
    }
    memset(sums, 0, (size_t)width * sizeof *sums);
    for (int from = first; from < last; from += SPAN) {
        int until = last - from < SPAN ? last : from + SPAN;
        memset(to, 0, (size_t)width * sizeof *to);
        for (int p = from; p < until; p++) {
            const int32_t *row = values + (size_t)p * width;
            int64_t weight = scores[p];
            for (int c = 0; c < width; c++) to[c] += weight * row[c];
        }
        for (int c = 0; c < width; c++) sums[c] += to[c];
    }
    for (int c = 0; c < width; c++) to[c] = average(sums[c], total);
}

/* Averages [n, heads, width] of queries int64 [heads, n, width], for heads first_head to last_head - 1.
 *
 * A query head reads key head h / shared. Query m stands at first_position + m and sees positions up to its
 * own, with a window only the last of them; a negative first position sees all. The strides are elements from
 * one key head to the next. Returns 0 where there is no memory. */
int veil_attend(
    const int64_t *queries, const int64_t *exponents, int heads, int n, int width, int shared,
    const int16_t *keys, const int32_t *key_exponents, const int32_t *values, int positions, size_t key_stride,
    size_t exponent_stride, size_t value_stride, int first_position, int window, int64_t factor, int constant,
    int64_t score_limit, const Digits *digits, int first_head, int last_head, int64_t *result) {
    int64_t *scores = malloc((size_t)positions * sizeof *scores);
    __int128 *sums = malloc((size_t)width * sizeof *sums);
    int enough = scores && sums && width <= HEAD_WIDTH;
    for (int h = first_head; enough && h < last_head; h++) {
        int group = h / shared;
        for (int m = 0; m < n; m++) {
            int last = first_position < 0 ? positions : first_position + m + 1;
            int first = window && last > window ? last - window : 0;
            int16_t query[HEAD_WIDTH];
            for (int c = 0; c < width; c++) query[c] = (int16_t)queries[((size_t)h * n + m) * width + c];
            attended(
                query, exponents[(size_t)h * n + m], width, keys + group * key_stride,
                key_exponents + group * exponent_stride, values + group * value_stride, first, last, factor,
                constant, score_limit, digits, scores, sums, result + ((size_t)m * heads + h) * width);
        }
    }
    free(scores);
    free(sums);
    return enough;
}

/* Write the first `count` of `all` elements as `width` bytes each, little-endian.
 *
 * All but the last few of `all` are written as whole words, whose upper bytes the next element overwrites. */
static inline void packed(const int64_t *elements, size_t count, size_t all, int width, uint8_t *bytes) {
    size_t whole = all > 8 ? all - 8 : 0, first = count < whole ? count : whole;
    for (size_t i = 0; i < first; i++) memcpy(bytes + i * width, elements + i, sizeof *elements);
    for (size_t i = first; i < count; i++) memcpy(bytes + i * width, elements + i, width);
}

/* Activations plus pads, mod p, as words and as `width` bytes each, block by block. Pads are overwritten with 0.
 *
 * Returns 0, or 1 for a pad outside the field, 2 for an activation beyond 16 bits. */
int veil_mask(
    const int64_t *rows, int64_t *pads, size_t count, int64_t modulus, int width, int64_t *masked, uint8_t *bytes) {
    int outside = 0, beyond = 0;
    for (size_t start = 0; start < count; start += BLOCK) {
        size_t end = count - start < BLOCK ? count : start + BLOCK;
        for (size_t i = start; i < end; i++) {
            outside |= pads[i] < 0 || pads[i] >= modulus;
            beyond |= rows[i] < -32767 || rows[i] > 32767;
            int64_t sum = rows[i] + pads[i];
            sum += sum < 0 ? modulus : 0;
            masked[i] = sum - (sum >= modulus ? modulus : 0);
        }
        memset(pads + start, 0, (end - start) * sizeof *pads);
        packed(masked + start, end - start, count - start, width, bytes + start * width);
    }
    return outside ? 1 : beyond ? 2 : 0;
}

/* The centred lift of products minus corrections, which are overwritten with 0.
 *
 * Returns 1 for anything outside the field, else 0. */
int veil_unmask(const int64_t *products, int64_t *corrections, size_t count, int64_t modulus, int64_t *plain) {
    int outside = 0;
    for (size_t i = 0; i < count; i++) {
        outside |= products[i] < 0 || products[i] >= modulus || corrections[i] < 0 || corrections[i] >= modulus;
        int64_t rest = products[i] - corrections[i];
        corrections[i] = 0;
        rest += rest < 0 ? modulus : 0;
        plain[i] = rest - (2 * rest > modulus ? modulus : 0);
    }
    return outside;
}

#ifdef __AVX512IFMA__
/* The sum of at most SOME products of elements below 2^48: 8 lanes add up the low 52 bits of each, and the others. */
static unsigned __int128 dot_of_some(const int64_t *row, const int64_t *vector, int count) {
    __m512i low[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, high[2] = {low[0], low[0]};
    for (int c = 0; c < count; c += 16)
        for (int i = 0; i < 2; i++) {
            int left = count - c - 8 * i;
            __mmask8 some = left >= 8 ? 0xFF : left > 0 ? (__mmask8)((1 << left) - 1) : 0;
            __m512i x = _mm512_maskz_loadu_epi64(some, row + c + 8 * i);
            __m512i z = _mm512_maskz_loadu_epi64(some, vector + c + 8 * i);
            low[i] = _mm512_madd52lo_epu64(low[i], x, z);
            high[i] = _mm512_madd52hi_epu64(high[i], x, z);
        }
    uint64_t above = _mm512_reduce_add_epi64(_mm512_add_epi64(high[0], high[1]));
    return ((unsigned __int128)above << 52) + (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(low[0], low[1]));
}
#else
static unsigned __int128 dot_of_some(const int64_t *row, const int64_t *vector, int count) {
    unsigned __int128 sum = 0;
    for (int c = 0; c < count; c++) sum += (unsigned __int128)(uint64_t)row[c] * (uint64_t)vector[c];
    return sum;
}
#endif

static uint64_t field_dot(const int64_t *row, const int64_t *vector, int count, int bits, uint64_t modulus) {
    unsigned __int128 sum = 0; /* products below 2^96, at most 2^18 of them */
    for (int c = 0; c < count; c += SOME) sum += dot_of_some(row + c, vector + c, count - c < SOME ? count - c : SOME);
    return residue((__int128)sum, bits, modulus);
}

static int any_outside(const int64_t *elements, size_t count, uint64_t modulus) {
    int outside = 0;
    for (size_t i = 0; i < count; i++) outside |= (uint64_t)elements[i] >= modulus;
    return outside;
}

/* Whether Y' z = X' (z W) for every row and vector: 1 if so, 0 if not, 2 for rows outside the field, p below 2^48. */
int veil_verify(
    const int64_t *masked, const int64_t *products, int n, int inner, int outputs, const int64_t *secrets,
    const int64_t *keys, int vectors, int bits, uint64_t modulus) {
    if (any_outside(masked, (size_t)n * inner, modulus) | any_outside(products, (size_t)n * outputs, modulus)) return 2;
    int right = 1;
    for (int r = 0; r < n; r++)
        for (int v = 0; v < vectors; v++)
            right &= field_dot(products + (size_t)r * outputs, secrets + (size_t)v * outputs, outputs, bits, modulus) ==
                     field_dot(masked + (size_t)r * inner, keys + (size_t)v * inner, inner, bits, modulus);
    return right;
}

/* Elements to `width` bytes each, little-endian. Returns 1 if one is outside the field. */
int veil_pack(const int64_t *elements, size_t count, int width, uint64_t modulus, uint8_t *bytes) {
    int outside = any_outside(elements, count, modulus);
    packed(elements, count, count, width, bytes);
    return outside;
}

/* Back from bytes to elements. Returns 1 if one is outside the field. */
int veil_unpack(const uint8_t *bytes, size_t count, int width, uint64_t modulus, int64_t *elements) {
    size_t whole = count > 8 ? count - 8 : 0;
    uint64_t mask = width == 8 ? UINT64_MAX : ((uint64_t)1 << 8 * width) - 1;
    for (size_t i = 0; i < whole; i++) {
        uint64_t word;
        memcpy(&word, bytes + i * width, sizeof word);
        elements[i] = (int64_t)(word & mask);
    }
    for (size_t i = whole; i < count; i++) {
        elements[i] = 0;
        memcpy(elements + i, bytes + i * width, width);
    }
    return any_outside(elements, count, modulus);
}
