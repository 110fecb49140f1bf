/* Veil in C11: the tape, the noisy max and profile pad of masked outsourcing, as a program for the plug-in
 * protocol of the conformance suite. Written from the pages of spec alone; an ID such as TAP-R1 names the
 * sentence that a function answers for. json.h reads requests and writes responses.
 *
 *     cc -std=c11 -O2 -o veil veil.c
 */
#include "json.h"

#define VERSION "0.4.0"

/* ---- Tape (TAP) ---- */

enum { SEED_BYTES = 32, WORDS_PER_BLOCK = 8 };
static const int64_t INDEX_LIMIT = INT64_C(1) << 35, ELEMENT_LIMIT = (INT64_C(1) << 32) - 1;

static uint32_t turn_right(uint32_t word, int count) {
    return word >> count | word << (32 - count);
}

static uint32_t big_endian(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* SHA-256 (FIPS 180-4) of whole blocks that hold the padded message. */
static void sha256(const uint8_t *blocks_of_message, size_t length, uint8_t digest[SEED_BYTES]) {
    static const uint32_t K[] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t hash[] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (const uint8_t *block = blocks_of_message; block < blocks_of_message + length; block += 64) {
        uint32_t w[COUNT(K)], v[COUNT(hash)];
        memcpy(v, hash, sizeof hash);
        for (size_t t = 0; t < COUNT(K); t++) {
            if (t < 16) {
                w[t] = big_endian(block + 4 * t);
            } else {
                uint32_t early = w[t - 15], late = w[t - 2];
                w[t] = w[t - 16] + w[t - 7] + (turn_right(early, 7) ^ turn_right(early, 18) ^ early >> 3) +
                       (turn_right(late, 17) ^ turn_right(late, 19) ^ late >> 10);
            }
            uint32_t choice = v[6] ^ (v[4] & (v[5] ^ v[6]));
            uint32_t majority = (v[0] & v[1]) | (v[2] & (v[0] | v[1]));
            uint32_t first = v[7] + (turn_right(v[4], 6) ^ turn_right(v[4], 11) ^ turn_right(v[4], 25)) +
                             choice + K[t] + w[t];
            uint32_t second = (turn_right(v[0], 2) ^ turn_right(v[0], 13) ^ turn_right(v[0], 22)) + majority;
            memmove(v + 1, v, sizeof v - sizeof *v);
            v[4] += first;
            v[0] = first + second;
        }
        for (size_t i = 0; i < COUNT(hash); i++)
            hash[i] += v[i];
    }
    for (size_t i = 0; i < SEED_BYTES; i++)
        digest[i] = (uint8_t)(hash[i / 4] >> (24 - 8 * (i % 4)));
}

/* TAP-R1: the key of a domain. */
static void domain_key(const uint8_t seed[SEED_BYTES], const char *domain, uint8_t key[SEED_BYTES]) {
    static const char START[] = "veil " VERSION " ";
    size_t tag = strlen(START) + strlen(domain), length = 1 + tag + SEED_BYTES;
    size_t padded = ((length + 8) / 64 + 1) * 64, bits = length * 8;
    uint8_t *message = take(padded, sizeof *message);
    message[0] = (uint8_t)tag;
    memcpy(message + 1, START, strlen(START));
    memcpy(message + 1 + strlen(START), domain, strlen(domain));
    memcpy(message + 1 + tag, seed, SEED_BYTES);
    message[length] = 0x80;
    message[padded - 2] = (uint8_t)(bits >> 8);
    message[padded - 1] = (uint8_t)bits;
    sha256(message, padded, key);
}

static void add_turn(uint32_t *sum, uint32_t term, uint32_t *turned, int left) {
    *sum += term;
    *turned = turn_right(*turned ^ *sum, 32 - left);
}

static void quarter_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
    add_turn(a, *b, d, 16);
    add_turn(c, *d, b, 12);
    add_turn(a, *b, d, 8);
    add_turn(c, *d, b, 7);
}

/* A stream number: its low 64 bits, and 48 bits above them of which 32 are in range. */
struct stream {
    uint64_t low, high;
};

/* TAP-R2: one word of a ChaCha20 block (RFC 8439). */
static uint64_t chacha20_word(const uint8_t key[SEED_BYTES], struct stream stream, uint64_t index) {
    uint32_t state[] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, 0, 0, 0, 0, 0, 0, 0, 0,
                        (uint32_t)(index / WORDS_PER_BLOCK), (uint32_t)stream.low,
                        (uint32_t)(stream.low >> 32), (uint32_t)stream.high};
    for (size_t i = 0; i < SEED_BYTES; i++)
        state[4 + i / 4] |= (uint32_t)key[i] << 8 * (i % 4);
    uint32_t x[COUNT(state)];
    memcpy(x, state, sizeof state);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 4; i++)
            quarter_round(x + i, x + 4 + i, x + 8 + i, x + 12 + i);
        for (int i = 0; i < 4; i++)
            quarter_round(x + i, x + 4 + (i + 1) % 4, x + 8 + (i + 2) % 4, x + 12 + (i + 3) % 4);
    }
    size_t place = 2 * (index % WORDS_PER_BLOCK);
    return (x[place] + state[place]) | (uint64_t)(x[place + 1] + state[place + 1]) << 32;
}

struct listed_word {
    const char *domain;
    struct stream stream;
    int64_t index;
    uint64_t word;
};

struct tape {
    const uint8_t *seed; /* NULL for a listed tape */
    const struct listed_word *words;
    size_t count;
};

static struct stream stream_field(const char *object) {
    const uint8_t *bytes = bytes_field(object, "stream", 14).at;
    return (struct stream){little_endian(bytes, 8), little_endian(bytes + 8, 6)};
}

static struct tape listed_tape(const char *object, const char *name) {
    const char *array = field(object, name);
    require(*array == '[', name, "an array of words");
    struct listed_word *words = take(count_items(array), sizeof *words), *next = words;
    for (const char *item = first_item(array); item != NULL; item = next_item(item)) {
        object_of(item, name, 4);
        uint64_t word = little_endian(bytes_field(item, "word", 8).at, 8);
        int64_t index = integer_field(item, "index");
        *next++ = (struct listed_word){domain_field(item), stream_field(item), index, word};
    }
    return (struct tape){.words = words, .count = (size_t)(next - words)};
}

/* Refuses: SEED_LENGTH (TAP-R6). */
static struct tape seeded_tape(const char *object) {
    struct bytes seed = bytes_field(object, "seed", 0);
    if (seed.count != SEED_BYTES)
        refuse("SEED_LENGTH");
    return (struct tape){.seed = seed.at};
}

static struct tape tape_field(const char *object) {
    const char *tape = object_of(field(object, "tape"), "tape", 1);
    return field_or_null(tape, "seed") != NULL ? seeded_tape(tape) : listed_tape(tape, "listed");
}

/* Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW (TAP-R5), TAPE_EXHAUSTED (TAP-R7). */
static uint64_t tape_word(struct tape tape, const char *domain, struct stream stream, int64_t index) {
    if (stream.high >> 32 != 0)
        refuse("STREAM_OUT_OF_RANGE");
    if (index < 0 || index >= INDEX_LIMIT)
        refuse("COUNTER_OVERFLOW");
    if (tape.seed != NULL) {
        uint8_t key[SEED_BYTES];
        domain_key(tape.seed, domain, key);
        return chacha20_word(key, stream, (uint64_t)index);
    }
    for (const struct listed_word *word = tape.words; word < tape.words + tape.count; word++)
        if (strcmp(word->domain, domain) == 0 && word->stream.low == stream.low &&
            word->stream.high == stream.high && word->index == index)
            return word->word;
    refuse("TAPE_EXHAUSTED");
}

/* Attempt 0 is word i of a stream, attempts 1, 2, ... are the words 0, 1, ... of its retry stream. */
static uint64_t attempt_word(struct tape tape, const char *domain, uint64_t stream, int64_t i,
                             int64_t attempt) {
    const struct block *mark = blocks;
    struct stream first = {stream, 0}, retry = {stream, (uint64_t)i + 1};
    uint64_t word = tape_word(tape, domain, attempt == 0 ? first : retry, attempt == 0 ? i : attempt - 1);
    give_back(mark);
    return word;
}

/* TAP-R3, TAP-R4. Refuses: COUNTER_OVERFLOW (TAP-R5). */
static uint64_t *field_elements(struct tape tape, const char *domain, uint64_t stream, int64_t start,
                                int64_t count, uint64_t modulus) {
    if (start < 0 || count > ELEMENT_LIMIT - start)
        refuse("COUNTER_OVERFLOW");
    uint64_t *cell = take((size_t)count, sizeof *cell);
    int unused = 0;
    while ((modulus << unused) >> 63 == 0)
        unused++;
    for (int64_t i = 0; i < count; i++) {
        int64_t attempt = 0;
        do
            cell[i] = attempt_word(tape, domain, stream, start + i, attempt++) << unused >> unused;
        while (cell[i] >= modulus);
    }
    return cell;
}

static bool within(struct matrix integers, int64_t limit) {
    for (size_t i = 0; i < integers.rows * integers.columns; i++)
        if (llabs((int64_t)integers.cell[i]) > limit)
            return false;
    return true;
}

/* ---- Noisy max (NMX) ---- */

static const int64_t DOCUMENT_LIMIT = INT64_C(1) << 43, TOKEN_LIMIT = (INT64_C(1) << 32) - 1;
static const int64_t CANDIDATE_LIMIT = INT64_C(1) << 20, SCORE_LIMIT = INT64_C(1) << 20;
static const int64_t ALPHA_DENOMINATOR_LIMIT = INT64_C(1) << 16;

struct noise {
    bool two_sided;
    int64_t numerator, denominator; /* of alpha */
};

/* Refuses: ALPHA_OUT_OF_RANGE (NMX-R7). */
static struct noise noise_of(const char *object, bool two_sided) {
    struct noise noise = {.two_sided = two_sided};
    alpha_field(object, &noise.numerator, &noise.denominator);
    if (noise.numerator <= 0 || noise.numerator >= noise.denominator ||
        noise.denominator > ALPHA_DENOMINATOR_LIMIT)
        refuse("ALPHA_OUT_OF_RANGE");
    return noise;
}

static struct noise noise_field(const char *object) {
    const char *noise = object_of(field(object, "noise"), "noise", 2), *kind = text_field(noise, "kind");
    bool two_sided = strcmp(kind, "two-sided") == 0;
    require(two_sided || strcmp(kind, "geometric") == 0, "kind", "geometric or two-sided");
    return noise_of(noise, two_sided);
}

/* Numbers from 0 to 1: limb 0 is the integer part, then 32 bits a limb, the highest first. */
static bool below(const uint32_t *x, const uint32_t *y, size_t limbs) {
    size_t i = 0;
    while (i < limbs - 1 && x[i] == y[i])
        i++;
    return x[i] < y[i];
}

/* x becomes alpha x, in its last limb rounded down if `carry` is 0, up if it is alpha's denominator - 1. */
static void multiply_by_alpha(uint32_t *x, size_t limbs, struct noise noise, uint64_t carry) {
    for (size_t i = limbs; i-- > 0; carry >>= 32) {
        carry += x[i] * (uint64_t)noise.numerator;
        x[i] = (uint32_t)carry;
    }
    uint64_t rest = 0, denominator = (uint64_t)noise.denominator;
    for (size_t i = 0; i < limbs; i++) {
        rest = rest << 32 | x[i];
        x[i] = (uint32_t)(rest / denominator);
        rest %= denominator;
    }
}

enum outcome { DECIDED, UNDECIDED, TOO_COARSE };

/* U begins with the `known` limbs u, which leave it an interval. Walk down the powers of alpha from 1, each
 * between two numbers of `limbs` limbs, to the first that is not surely above the interval. If it is surely
 * not above u, U is below all powers before it and not below this one: the draw is the number of the last.
 * If both numbers begin alike, they begin like u: the power is inside. Otherwise more limbs are needed. */
static enum outcome walk(const uint32_t *u, size_t known, size_t limbs, struct noise noise, int64_t *draw) {
    uint32_t *least = take(limbs, sizeof *u), *most = take(limbs, sizeof *u), *low = take(limbs, sizeof *u);
    memcpy(low, u, known * sizeof *u);
    least[0] = most[0] = 1;
    for (*draw = -1; below(u, least, known); ++*draw) {
        multiply_by_alpha(least, limbs, noise, 0);
        multiply_by_alpha(most, limbs, noise, (uint64_t)noise.denominator - 1);
    }
    if (!below(low, most, limbs))
        return DECIDED;
    return memcmp(least, most, known * sizeof *u) == 0 ? UNDECIDED : TOO_COARSE;
}

/* NMX-R1: geometric draw i of a stream. */
static int64_t geometric(struct tape tape, uint64_t stream, int64_t i, struct noise noise) {
    const struct block *mark = blocks;
    size_t known = 1;
    uint32_t *u = take(known, sizeof *u);
    int64_t draw, attempt = 0;
    enum outcome outcome;
    do {
        uint64_t word = attempt_word(tape, "nmx.noise", stream, i, attempt++);
        size_t longer = known + 2;
        uint32_t limbs[] = {(uint32_t)(word >> 32), (uint32_t)word};
        u = memcpy(take(longer, sizeof *u), u, known * sizeof *u);
        memcpy(u + known, limbs, sizeof limbs);
        known = longer;
        for (size_t size = known; (outcome = walk(u, known, size, noise, &draw)) == TOO_COARSE;)
            size += size;
    } while (outcome == UNDECIDED);
    give_back(mark);
    return draw;
}

/* NMX-R2. Refuses: STREAM_OUT_OF_RANGE. */
static int64_t sample(struct noise noise, struct tape tape, int64_t token, int64_t candidate,
                      int64_t document) {
    if (document < 0 || document >= DOCUMENT_LIMIT || token < 0 || token >= TOKEN_LIMIT || candidate < 0 ||
        candidate >= CANDIDATE_LIMIT)
        refuse("STREAM_OUT_OF_RANGE");
    uint64_t stream = ((uint64_t)document << 21) + 2 * (uint64_t)candidate;
    int64_t draw = geometric(tape, stream, token, noise);
    return noise.two_sided ? draw - geometric(tape, stream + 1, token, noise) : draw;
}

/* NMX-R3, NMX-R4. Refuses: SCORES_EMPTY (NMX-R5), SCORE_OUT_OF_RANGE (NMX-R6). */
static size_t winner(struct matrix scores, struct noise noise, struct tape tape, int64_t token,
                     int64_t document) {
    if (scores.columns == 0)
        refuse("SCORES_EMPTY");
    if (scores.columns > (size_t)CANDIDATE_LIMIT || !within(scores, SCORE_LIMIT))
        refuse("SCORE_OUT_OF_RANGE");
    int64_t largest = INT64_MIN;
    size_t index = scores.columns;
    for (size_t i = 0; i < scores.columns; i++) {
        int64_t sum = (int64_t)scores.cell[i] + sample(noise, tape, token, (int64_t)i, document);
        if (sum > largest) {
            largest = sum;
            index = i;
        }
    }
    return index;
}

/* ---- Masked outsourcing, profile pad (RMO) ---- */

static const uint64_t PRIMES[] = {(UINT64_C(1) << 32) - 5, (UINT64_C(1) << 40) - 87,
                                  (UINT64_C(1) << 48) - 59};
static const uint64_t LWE_MODULUS = UINT64_MAX - 58;
static const int64_t GROUP_LIMIT = INT64_C(1) << 32, ACTIVATION_LIMIT = 32767, WEIGHT_LIMIT = 32639;

/* Refuses: FIELD_UNKNOWN (RMO-R12). */
static uint64_t prime_field(const char *object) {
    uint64_t modulus = modulus_field(object);
    if (modulus != PRIMES[0] && modulus != PRIMES[1] && modulus != PRIMES[2])
        refuse("FIELD_UNKNOWN");
    return modulus;
}

/* a is below the modulus, b at most the modulus. */
static uint64_t add(uint64_t a, uint64_t b, uint64_t modulus) {
    return a >= modulus - b ? a - (modulus - b) : a + b;
}

static uint64_t times(uint64_t a, uint64_t b, uint64_t modulus) {
    uint64_t product = 0;
    for (; b > 0; b /= 2) {
        product = b % 2 == 1 ? add(product, a, modulus) : product;
        a = add(a, a, modulus);
    }
    return product;
}

/* The element congruent to an integer; integer >> 63 is 1 where its two's complement is negative. */
static uint64_t residue(uint64_t integer, uint64_t modulus) {
    return integer + (integer >> 63) * modulus;
}

/* Refuses: NOT_IN_FIELD (RMO-R12). */
static void check_elements(struct matrix elements, uint64_t modulus) {
    for (size_t i = 0; i < elements.rows * elements.columns; i++)
        if (elements.cell[i] >= modulus)
            refuse("NOT_IN_FIELD");
}

static void check_shape(bool fits) {
    if (!fits)
        refuse("SHAPE_MISMATCH");
}

/* RMO-R1. Refuses: SHAPE_MISMATCH, WEIGHT_OUT_OF_RANGE, WOULD_WRAP (RMO-R2). */
static void choose_modulus(const char *input) {
    struct matrix weights = rows_field(input, "weights");
    check_shape(weights.columns > 0);
    if (!within(weights, WEIGHT_LIMIT))
        refuse("WEIGHT_OUT_OF_RANGE");
    size_t choice = 0;
    for (size_t j = 0; j < weights.rows; j++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < weights.columns; i++)
            sum += (uint64_t)llabs((int64_t)weights.cell[j * weights.columns + i]);
        while (choice < COUNT(PRIMES) && sum > PRIMES[choice] >> 16)
            choice++;
    }
    if (choice == COUNT(PRIMES))
        refuse("WOULD_WRAP");
    answer("%" PRIu64, PRIMES[choice]);
}

/* RMO-R7. Refuses: STREAM_OUT_OF_RANGE (RMO-R6). */
static void pad(const char *input) {
    struct tape tape = tape_field(input);
    int64_t group = integer_field(input, "group"), step = integer_field(input, "step");
    int64_t rows = count_field(input, "rows", LINE_LIMIT);
    int64_t columns = count_field(input, "columns", LINE_LIMIT);
    uint64_t modulus = prime_field(input), stream = ((uint64_t)group << 32) + (uint64_t)step;
    if (group < 0 || group >= GROUP_LIMIT || step < 0 || step >= GROUP_LIMIT)
        refuse("STREAM_OUT_OF_RANGE");
    uint64_t *cell = field_elements(tape, "rmo.pad", stream, 0, rows * columns, modulus);
    answer_elements((struct matrix){(size_t)rows, (size_t)columns, cell}, modulus);
}

/* RMO-R11. Refuses: PAD_REUSED, STREAM_OUT_OF_RANGE (RMO-R6; a number below 0 is a large one here). */
static void burn(const char *input) {
    struct matrix used = rows_field(input, "addresses");
    require(used.rows == 0 || used.columns == 2, "addresses", "pairs of a group and a step");
    const uint64_t *end = used.cell + used.rows * used.columns;
    for (const uint64_t *late = used.cell; late < end; late += used.columns) {
        if (late[0] >= (uint64_t)GROUP_LIMIT || late[1] >= (uint64_t)GROUP_LIMIT)
            refuse("STREAM_OUT_OF_RANGE");
        for (const uint64_t *early = used.cell; early < late; early += used.columns)
            if (early[0] == late[0] && early[1] >= late[1])
                refuse("PAD_REUSED");
    }
    answer("null");
}

/* RMO-R22: the key of domain rmo.ratchet is the next seed. */
static void ratchet(const char *input) {
    uint8_t next[SEED_BYTES];
    domain_key(seeded_tape(input).seed, "rmo.ratchet", next);
    answer("\"");
    for (size_t i = 0; i < SEED_BYTES; i++)
        write_digits(next[i], 1);
    printf("\"");
}

/* RMO-R3. Refuses: FIELD_UNKNOWN, SHAPE_MISMATCH, ACTIVATION_OUT_OF_RANGE, NOT_IN_FIELD (RMO-R12). */
static void mask(const char *input) {
    uint64_t modulus = prime_field(input);
    struct matrix x = rows_field(input, "activations"), masked = elements_field(input, "pads", modulus);
    check_shape(x.columns > 0 && x.rows == masked.rows && x.columns == masked.columns);
    check_elements(masked, modulus);
    if (!within(x, ACTIVATION_LIMIT))
        refuse("ACTIVATION_OUT_OF_RANGE");
    for (size_t i = 0; i < x.rows * x.columns; i++)
        masked.cell[i] = add(masked.cell[i], residue(x.cell[i], modulus), modulus);
    answer_elements(masked, modulus);
}

/* RMO-R4. Refuses: FIELD_UNKNOWN, SHAPE_MISMATCH, NOT_IN_FIELD (RMO-R12). */
static void multiply(const char *input) {
    uint64_t modulus = modulus_field(input) == LWE_MODULUS ? LWE_MODULUS : prime_field(input);
    struct matrix x = elements_field(input, "masked", modulus), weights = rows_field(input, "weights");
    check_shape(x.columns > 0 && x.columns == weights.columns);
    check_elements(x, modulus);
    struct matrix product = {x.rows, weights.rows, take(x.rows * weights.rows, sizeof *x.cell)};
    for (size_t row = 0; row < product.rows; row++)
        for (size_t column = 0; column < product.columns; column++) {
            uint64_t *sum = &product.cell[row * product.columns + column];
            for (size_t i = 0; i < x.columns; i++) {
                uint64_t weight = residue(weights.cell[column * x.columns + i], modulus);
                *sum = add(*sum, times(x.cell[row * x.columns + i], weight, modulus), modulus);
            }
        }
    answer_elements(product, modulus);
}

/* RMO-R5. Refuses: FIELD_UNKNOWN, SHAPE_MISMATCH, NOT_IN_FIELD (RMO-R12). */
static void unmask(const char *input) {
    uint64_t modulus = prime_field(input);
    struct matrix product = elements_field(input, "product", modulus);
    struct matrix correction = elements_field(input, "correction", modulus);
    size_t columns = product.columns;
    check_shape(columns > 0 && product.rows == correction.rows && columns == correction.columns);
    check_elements(product, modulus);
    check_elements(correction, modulus);
    answer("[");
    for (size_t i = 0; i < product.rows * columns; i++) {
        uint64_t difference = add(product.cell[i], modulus - correction.cell[i], modulus);
        int64_t nearest = (int64_t)difference - (difference > modulus / 2 ? (int64_t)modulus : 0);
        printf("%s%" PRId64, i == 0 ? "[" : i % columns == 0 ? "], [" : ", ", nearest);
    }
    printf("]]");
}

/* ---- Operations ---- */

static void word(const char *input) {
    uint64_t word = tape_word(tape_field(input), domain_field(input), stream_field(input),
                              integer_field(input, "index"));
    answer("\"");
    write_digits(word, 8);
    printf("\"");
}

static void make_seeded_tape(const char *input) {
    seeded_tape(input);
    answer("null");
}

static void make_listed_tape(const char *input) {
    listed_tape(input, "words");
    answer("null");
}

/* Refuses: STREAM_OUT_OF_RANGE (TAP-R5). */
static void elements(const char *input) {
    struct stream stream = stream_field(input);
    int64_t start = integer_field(input, "start"), count = count_field(input, "count", INTEGER_LIMIT);
    uint64_t modulus = modulus_field(input);
    if (stream.high != 0)
        refuse("STREAM_OUT_OF_RANGE");
    struct tape tape = tape_field(input);
    uint64_t *cell = field_elements(tape, domain_field(input), stream.low, start, count, modulus);
    answer_elements((struct matrix){1, (size_t)count, cell}, modulus);
}

static void make_noise(const char *input) {
    const char *two_sided = field(input, "two_sided");
    require(*two_sided == 't' || *two_sided == 'f', "two_sided", "true or false");
    struct noise noise = noise_of(input, *two_sided == 't');
    const char *kind = noise.two_sided ? "two-sided" : "geometric";
    answer("{\"kind\": \"%s\", \"alpha\": \"%" PRId64 "/%" PRId64 "\"}", kind, noise.numerator,
           noise.denominator);
}

static void take_sample(const char *input) {
    answer("%" PRId64, sample(noise_field(input), tape_field(input), integer_field(input, "token"),
                              integer_field(input, "candidate"), integer_field(input, "document")));
}

static void select_winner(const char *input) {
    struct matrix scores = row_of(field(input, "scores"), "scores");
    answer("{\"index\": %zu}", winner(scores, noise_field(input), tape_field(input),
                                      integer_field(input, "token"), integer_field(input, "document")));
}

static void describe(const char *input);

static const struct operation {
    const char *name;
    size_t fields;
    void (*respond)(const char *input);
} OPERATIONS[] = {
    {"describe", 0, describe}, {"word", 4, word},          {"seeded_tape", 1, make_seeded_tape},
    {"noise", 2, make_noise},  {"sample", 5, take_sample}, {"listed_tape", 1, make_listed_tape},
    {"pad", 6, pad},           {"burn", 1, burn},          {"select", 5, select_winner},
    {"ratchet", 1, ratchet},   {"mask", 3, mask},          {"field_elements", 6, elements},
    {"multiply", 3, multiply}, {"unmask", 3, unmask},      {"choose_modulus", 1, choose_modulus},
};

static void describe(const char *input) {
    (void)input;
    answer("{\"name\": \"veil-c\", \"version\": \"1\", \"spec_version\": \"" VERSION "\", \"operations\": [");
    for (size_t i = 1; i < COUNT(OPERATIONS); i++)
        printf("%s\"%s\"", i == 1 ? "" : ", ", OPERATIONS[i].name);
    printf("]}");
}

static const struct operation *operation_field(const char *request) {
    const char *name = text_field(request, "operation");
    for (size_t i = 0; i < COUNT(OPERATIONS); i++)
        if (strcmp(OPERATIONS[i].name, name) == 0)
            return &OPERATIONS[i];
    fail("operation %s is not one of those that describe names", name);
}

int main(void) {
    for (const char *request; (request = next_request()) != NULL; give_back(NULL)) {
        const struct operation *operation = operation_field(request);
        const char *input = object_of(field(request, "input"), "input", operation->fields);
        if (setjmp(refused) == 0) {
            operation->respond(input);
            puts("}");
        }
        require(fflush(stdout) == 0, "standard output", "open");
    }
    return 0;
}
