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

/* Returns a word turned to the right. */
static uint32_t turn(uint32_t word, int count) {
    return word >> count | word << (32 - count);
}

/* Returns the SHA-256 digest (FIPS 180-4), as words, of blocks that hold a padded message. */
static const uint32_t *sha256(const uint8_t *message, size_t length) {
    static const uint32_t K[] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    static const uint32_t START[] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint32_t *hash = memcpy(take(COUNT(START), sizeof *hash), START, sizeof START);
    for (const uint8_t *block = message; block < message + length; block += 64) {
        uint32_t w[COUNT(K)], v[COUNT(START)];
        memcpy(v, hash, sizeof v);
        for (size_t t = 0; t < COUNT(K); t++) {
            if (t < 16)
                w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
                       (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
            else
                w[t] = w[t - 16] + (turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ w[t - 15] >> 3) + w[t - 7] +
                       (turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ w[t - 2] >> 10);
            uint32_t choice = v[6] ^ (v[4] & (v[5] ^ v[6]));
            uint32_t majority = (v[0] & v[1]) | (v[2] & (v[0] | v[1]));
            uint32_t first = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + choice + K[t] + w[t];
            uint32_t second = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + majority;
            memmove(v + 1, v, sizeof v - sizeof *v);
            v[4] += first;
            v[0] = first + second;
        }
        for (size_t i = 0; i < COUNT(START); i++)
            hash[i] += v[i];
    }
    return hash;
}

/* Returns the key of a domain, as the words of sha256. TAP-R1. */
static const uint32_t *domain_key(const char *seed, const char *domain) {
    size_t tag = strlen("veil " VERSION " ") + strlen(domain), length = 1 + tag + SEED_BYTES;
    size_t padded = ((length + 8) / 64 + 1) * 64, bits = length * 8;
    uint8_t *message = take(padded, sizeof *message);
    message[0] = (uint8_t)tag;
    message[length] = 0x80;
    sprintf((char *)message + 1, "veil " VERSION " %s", domain);
    for (size_t i = 0; i < SEED_BYTES; i++)
        message[1 + tag + i] = (uint8_t)number_of(seed + 2 * i, sizeof *message);
    message[padded - 2] = (uint8_t)(bits >> 8);
    message[padded - 1] = (uint8_t)bits;
    return sha256(message, padded);
}

/* Does a quarter round of ChaCha20 on four words. */
static void quarter_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
    for (int half = 0; half < 2; half++) {
        *a += *b;
        *d = turn(*d ^ *a, half == 0 ? 16 : 24);
        *c += *d;
        *b = turn(*b ^ *c, half == 0 ? 20 : 25);
    }
}

/* Where a word stands: the low 64 bits of its stream, 48 above them of which 32 are in range, its index. */
struct place {
    uint64_t low, high;
    int64_t index;
};

/* Returns a word of a ChaCha20 block (RFC 8439). TAP-R2. */
static uint64_t chacha20_word(const uint32_t *key, struct place place) {
    uint32_t state[] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, 0, 0, 0, 0, 0, 0, 0, 0,
                        (uint32_t)(place.index / WORDS_PER_BLOCK), (uint32_t)place.low,
                        (uint32_t)(place.low >> 32), (uint32_t)place.high};
    for (size_t i = 0; i < SEED_BYTES; i++)
        state[4 + i / 4] |= (key[i / 4] >> (24 - 8 * (i % 4)) & 0xff) << 8 * (i % 4);
    uint32_t x[COUNT(state)];
    memcpy(x, state, sizeof state);
    for (int round = 0; round < 20; round++)
        for (int i = 0, step = round % 2; i < 4; i++)
            quarter_round(x + i, x + 4 + (i + step) % 4, x + 8 + (i + 2 * step) % 4,
                          x + 12 + (i + 3 * step) % 4);
    size_t low = 2 * ((size_t)place.index % WORDS_PER_BLOCK), high = low + 1;
    return (x[low] + state[low]) | (uint64_t)(x[high] + state[high]) << 32;
}

/* The words of one domain. */
struct tape {
    const uint32_t *key; /* NULL for a listed tape */
    size_t count;
    struct listed_word {
        struct place place;
        uint64_t word;
    } *words;
};

/* Returns where a word stands; the name is that of the field with its index. */
static struct place place_of(const struct value *object, const char *name) {
    const char *stream = digits_field(object, "stream", 14);
    return (struct place){number_of(stream, 8), number_of(stream + 16, 6), integer_field(object, name)};
}

/* Returns the tape of the words that a field lists for a domain. TAP-R7. */
static struct tape listed_tape(const struct value *object, const char *name, const char *domain) {
    const struct value *array = field(object, name, "[");
    struct tape tape = {.words = take(array->count, sizeof *tape.words)};
    for (const struct value *item = array + 1; item < array + array->span; item += item->span) {
        const char *word = digits_field(object_of(item, 4), "word", 8);
        tape.words[tape.count] = (struct listed_word){place_of(item, "index"), number_of(word, 8)};
        tape.count += strcmp(domain_field(item), domain) == 0;
    }
    return tape;
}

/* Returns the tape of a seed for a domain. TAP-R6. */
static struct tape seeded_tape(const struct value *object, const char *domain) {
    const char *seed = digits_field(object, "seed", 0);
    refuse_unless(strlen(seed) == 2 * SEED_BYTES, "SEED_LENGTH");
    return (struct tape){.key = domain_key(seed, domain)};
}

/* Returns the tape in a field for a domain. */
static struct tape tape_field(const struct value *input, const char *domain) {
    const struct value *tape = object_of(field(input, "tape", "{"), 1), *only = tape + 1;
    return strcmp(only->name, "seed") == 0 ? seeded_tape(tape, domain) : listed_tape(tape, "listed", domain);
}

/* Returns a word of a tape. TAP-R5, TAP-R7. */
static uint64_t tape_word(struct tape tape, struct place place) {
    if (tape.key != NULL) {
        refuse_unless(place.high >> 32 == 0, "STREAM_OUT_OF_RANGE");
        refuse_unless(place.index >= 0 && place.index < INDEX_LIMIT, "COUNTER_OVERFLOW");
        return chacha20_word(tape.key, place);
    }
    size_t i = 0;
    while (i < tape.count && memcmp(&tape.words[i].place, &place, sizeof place) != 0)
        i++;
    refuse_unless(i < tape.count, "TAPE_EXHAUSTED");
    return tape.words[i].word;
}

/* Returns attempt 0, the word at a place, or attempt 1, 2, ..., word 0, 1, ... of its retry stream. */
static uint64_t attempt_word(struct tape tape, struct place place, int64_t attempt) {
    struct place retry = {place.low, (uint64_t)place.index + 1, attempt - 1};
    return tape_word(tape, attempt == 0 ? place : retry);
}

/* Returns elements of a field, the first from a place. TAP-R3, TAP-R4, TAP-R5. */
static uint64_t *field_elements(struct tape tape, struct place place, int64_t count, uint64_t modulus) {
    refuse_unless(place.high == 0, "STREAM_OUT_OF_RANGE");
    refuse_unless(place.index >= 0 && count <= ELEMENT_LIMIT - place.index, "COUNTER_OVERFLOW");
    uint64_t *cell = take((size_t)count, sizeof *cell);
    int unused = 0;
    while ((modulus << unused) >> 63 == 0)
        unused++;
    for (int64_t i = 0; i < count; i++, place.index++) {
        int64_t attempt = 0;
        do
            cell[i] = attempt_word(tape, place, attempt++) << unused >> unused;
        while (cell[i] >= modulus);
    }
    return cell;
}

/* ---- Noisy max (NMX) ---- */

static const int64_t DOCUMENT_LIMIT = INT64_C(1) << 43, TOKEN_LIMIT = (INT64_C(1) << 32) - 1;
static const int64_t CANDIDATE_LIMIT = INT64_C(1) << 20, SCORE_LIMIT = INT64_C(1) << 20;
static const int64_t ALPHA_DENOMINATOR_LIMIT = INT64_C(1) << 16;

struct noise {
    bool two_sided;
    int64_t numerator, denominator; /* of alpha */
};

/* Returns the noise of an alpha. NMX-R7. */
static struct noise noise_of(const struct value *object, bool two_sided) {
    struct noise noise = {.two_sided = two_sided};
    alpha_field(object, &noise.numerator, &noise.denominator);
    bool between = noise.numerator > 0 && noise.numerator < noise.denominator;
    refuse_unless(between && noise.denominator <= ALPHA_DENOMINATOR_LIMIT, "ALPHA_OUT_OF_RANGE");
    return noise;
}

/* Returns the noise in a field. */
static struct noise noise_field(const struct value *input) {
    const struct value *noise = object_of(field(input, "noise", "{"), 2);
    bool two_sided = strcmp(text_field(noise, "kind"), "two-sided") == 0;
    require(two_sided || strcmp(text_field(noise, "kind"), "geometric") == 0, "kind", "one of the two");
    return noise_of(noise, two_sided);
}

/* Makes alpha x of x, in its last byte rounded down if `carry` is 0, up if it is alpha's denominator - 1. */
static void multiply_by_alpha(uint8_t *x, size_t length, struct noise noise, uint64_t carry) {
    for (size_t i = length; i-- > 0; carry >>= 8) {
        carry += x[i] * (uint64_t)noise.numerator;
        x[i] = (uint8_t)carry;
    }
    for (size_t i = 0; i < length; i++) {
        carry = carry << 8 | x[i];
        x[i] = (uint8_t)(carry / (uint64_t)noise.denominator);
        carry %= (uint64_t)noise.denominator;
    }
}

enum outcome { DECIDED, UNDECIDED, TOO_COARSE };

/* Numbers from 0 to 1 are an integer byte and the bytes of a fraction, the highest first.
 *
 * U begins with the `known` bytes u, which leave it an interval. Walk down the powers of alpha from 1, each
 * between two numbers of `length` bytes, to the first that is not surely above the interval. If it is surely
 * not above u, U is below all powers before it and not below this one: the draw is the number of the last.
 * If both numbers begin alike, they begin like u: the power is inside. Otherwise more bytes are needed. */
static enum outcome walk(const uint8_t *u, size_t known, size_t length, struct noise noise, int64_t *draw) {
    uint8_t *least = take(length, sizeof *u), *most = take(length, sizeof *u), *low = take(length, sizeof *u);
    memcpy(low, u, known);
    least[0] = most[0] = 1;
    for (*draw = -1; memcmp(u, least, known) < 0; ++*draw) {
        multiply_by_alpha(least, length, noise, 0);
        multiply_by_alpha(most, length, noise, (uint64_t)noise.denominator - 1);
    }
    if (memcmp(low, most, length) >= 0)
        return DECIDED;
    return memcmp(least, most, known) == 0 ? UNDECIDED : TOO_COARSE;
}

/* Returns geometric draw `token` of a stream. NMX-R1. */
static int64_t geometric(struct tape tape, uint64_t stream, int64_t token, struct noise noise) {
    const struct block *mark = blocks;
    size_t known = 1;
    uint8_t *u = take(known, sizeof *u);
    int64_t draw, attempt = 0;
    enum outcome outcome;
    do {
        uint64_t word = attempt_word(tape, (struct place){stream, 0, token}, attempt++);
        u = memcpy(take(known + sizeof word, sizeof *u), u, known);
        for (size_t i = 0; i < sizeof word; i++)
            u[known++] = (uint8_t)(word >> (56 - 8 * i));
        for (size_t length = known; (outcome = walk(u, known, length, noise, &draw)) == TOO_COARSE;)
            length += length;
    } while (outcome == UNDECIDED);
    give_back(mark);
    return draw;
}

/* Returns the noise of a candidate. NMX-R2. */
static int64_t sample(struct noise noise, struct tape tape, int64_t token, int64_t candidate,
                      int64_t document) {
    bool known = document >= 0 && document < DOCUMENT_LIMIT && token >= 0 && token < TOKEN_LIMIT;
    refuse_unless(known && candidate >= 0 && candidate < CANDIDATE_LIMIT, "STREAM_OUT_OF_RANGE");
    uint64_t stream = ((uint64_t)document << 21) + 2 * (uint64_t)candidate;
    int64_t draw = geometric(tape, stream, token, noise);
    return noise.two_sided ? draw - geometric(tape, stream + 1, token, noise) : draw;
}

/* ---- Masked outsourcing, profile pad (RMO) ---- */

static const uint64_t PRIMES[] = {(UINT64_C(1) << 32) - 5, (UINT64_C(1) << 40) - 87,
                                  (UINT64_C(1) << 48) - 59};
static const uint64_t LWE_MODULUS = UINT64_MAX - 58, GROUP_LIMIT = UINT64_C(1) << 32;
static const int64_t ACTIVATION_LIMIT = 32767, WEIGHT_LIMIT = 32639;

/* Returns the modulus in a field. RMO-R12. */
static uint64_t prime_field(const struct value *input) {
    uint64_t modulus = modulus_field(input);
    refuse_unless(modulus == PRIMES[0] || modulus == PRIMES[1] || modulus == PRIMES[2], "FIELD_UNKNOWN");
    return modulus;
}

/* Returns a + b in the field; a is below the modulus, b at most the modulus. */
static uint64_t add(uint64_t a, uint64_t b, uint64_t modulus) {
    return a >= modulus - b ? a - (modulus - b) : a + b;
}

/* Returns a b in the field. */
static uint64_t times(uint64_t a, uint64_t b, uint64_t modulus) {
    uint64_t product = 0;
    for (; b > 0; b /= 2) {
        product = b % 2 == 1 ? add(product, a, modulus) : product;
        a = add(a, a, modulus);
    }
    return product;
}

/* Returns the element congruent to an integer; integer >> 63 is 1 where its two's complement is negative. */
static uint64_t residue(uint64_t integer, uint64_t modulus) {
    return integer + (integer >> 63) * modulus;
}

/* Returns whether no integer is beyond a limit in absolute value. */
static bool within(struct matrix integers, int64_t limit) {
    for (size_t i = 0; i < integers.rows * integers.columns; i++)
        if (llabs((int64_t)integers.cell[i]) > limit)
            return false;
    return true;
}

/* Returns whether all elements are below the modulus. RMO-R12. */
static bool in_field(struct matrix elements, uint64_t modulus) {
    for (size_t i = 0; i < elements.rows * elements.columns; i++)
        if (elements.cell[i] >= modulus)
            return false;
    return true;
}

/* ---- Operations: each answers a request, or refuses it by the names that its sentences give ---- */

/* Answers with the field of a linear group. RMO-R1, RMO-R2. */
static void choose_modulus(const struct value *input) {
    struct matrix weights = rows_field(input, "weights");
    refuse_unless(weights.columns > 0, "SHAPE_MISMATCH");
    refuse_unless(within(weights, WEIGHT_LIMIT), "WEIGHT_OUT_OF_RANGE");
    size_t choice = 0;
    for (size_t j = 0; j < weights.rows; j++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < weights.columns; i++)
            sum += (uint64_t)llabs((int64_t)weights.cell[j * weights.columns + i]);
        while (choice < COUNT(PRIMES) && sum > PRIMES[choice] >> 16)
            choice++;
    }
    refuse_unless(choice < COUNT(PRIMES), "WOULD_WRAP");
    printf(OUTPUT "%" PRIu64, PRIMES[choice]);
}

/* Answers with the pads of a group in a step. RMO-R6, RMO-R7. */
static void pad(const struct value *input) {
    struct tape tape = tape_field(input, "rmo.pad");
    uint64_t group = (uint64_t)integer_field(input, "group"), step = (uint64_t)integer_field(input, "step");
    int64_t rows = count_field(input, "rows", LINE_LIMIT);
    int64_t columns = count_field(input, "columns", LINE_LIMIT);
    uint64_t modulus = prime_field(input);
    refuse_unless(group < GROUP_LIMIT && step < GROUP_LIMIT, "STREAM_OUT_OF_RANGE");
    struct place first = {(group << 32) + step, 0, 0};
    uint64_t *cell = field_elements(tape, first, rows * columns, modulus);
    answer_elements((struct matrix){(size_t)rows, (size_t)columns, cell}, modulus);
}

/* Answers if groups and steps may be used in this order; one below 0 is a large one here. RMO-R6, RMO-R11. */
static void burn(const struct value *input) {
    struct matrix used = rows_field(input, "addresses");
    require(used.rows == 0 || used.columns == 2, "addresses", "pairs of a group and a step");
    const uint64_t *end = used.cell + used.rows * used.columns;
    for (const uint64_t *late = used.cell; late < end; late += used.columns) {
        refuse_unless(late[0] < GROUP_LIMIT && late[1] < GROUP_LIMIT, "STREAM_OUT_OF_RANGE");
        for (const uint64_t *early = used.cell; early < late; early += used.columns)
            refuse_unless(early[0] != late[0] || early[1] < late[1], "PAD_REUSED");
    }
    printf(OUTPUT "null");
}

/* Answers with the seed of the next step. RMO-R22. */
static void ratchet(const struct value *input) {
    const uint32_t *next = seeded_tape(input, "rmo.ratchet").key;
    printf(OUTPUT "\"");
    for (size_t i = 0; i < SEED_BYTES / sizeof *next; i++)
        printf("%08" PRIx32, next[i]);
    printf("\"");
}

/* Answers with the masked rows. RMO-R3, RMO-R12. */
static void mask(const struct value *input) {
    uint64_t modulus = prime_field(input);
    struct matrix x = rows_field(input, "activations"), masked = elements_field(input, "pads", modulus);
    refuse_unless(x.columns > 0 && x.rows == masked.rows && x.columns == masked.columns, "SHAPE_MISMATCH");
    refuse_unless(in_field(masked, modulus), "NOT_IN_FIELD");
    refuse_unless(within(x, ACTIVATION_LIMIT), "ACTIVATION_OUT_OF_RANGE");
    for (size_t i = 0; i < x.rows * x.columns; i++)
        masked.cell[i] = add(masked.cell[i], residue(x.cell[i], modulus), modulus);
    answer_elements(masked, modulus);
}

/* Answers with masked rows times weights. RMO-R4, RMO-R12. */
static void multiply(const struct value *input) {
    uint64_t modulus = modulus_field(input) == LWE_MODULUS ? LWE_MODULUS : prime_field(input);
    struct matrix x = elements_field(input, "masked", modulus), weights = rows_field(input, "weights");
    refuse_unless(x.columns > 0 && x.columns == weights.columns, "SHAPE_MISMATCH");
    refuse_unless(in_field(x, modulus), "NOT_IN_FIELD");
    uint64_t *product = take(x.rows * weights.rows, sizeof *product), *sum = product;
    for (size_t row = 0; row < x.rows; row++)
        for (size_t column = 0; column < weights.rows; column++, sum++)
            for (size_t i = 0; i < x.columns; i++) {
                uint64_t weight = residue(weights.cell[column * x.columns + i], modulus);
                *sum = add(*sum, times(x.cell[row * x.columns + i], weight, modulus), modulus);
            }
    answer_elements((struct matrix){x.rows, weights.rows, product}, modulus);
}

/* Answers with the integers of a product. RMO-R5, RMO-R12. */
static void unmask(const struct value *input) {
    uint64_t modulus = prime_field(input);
    struct matrix y = elements_field(input, "product", modulus);
    struct matrix c = elements_field(input, "correction", modulus);
    refuse_unless(y.columns > 0 && y.rows == c.rows && y.columns == c.columns, "SHAPE_MISMATCH");
    refuse_unless(in_field(y, modulus) && in_field(c, modulus), "NOT_IN_FIELD");
    printf(OUTPUT "[");
    for (size_t i = 0; i < y.rows * y.columns; i++) {
        uint64_t difference = add(y.cell[i], modulus - c.cell[i], modulus);
        int64_t nearest = (int64_t)difference - (difference > modulus / 2 ? (int64_t)modulus : 0);
        printf("%s%" PRId64, i == 0 ? "[" : i % y.columns == 0 ? "], [" : ", ", nearest);
    }
    printf("]]");
}

/* Answers with a word of a tape. TAP-R1, TAP-R2, TAP-R5, TAP-R7. */
static void word(const struct value *input) {
    uint64_t word = tape_word(tape_field(input, domain_field(input)), place_of(input, "index"));
    printf(OUTPUT "\"");
    write_digits(word, 8);
    printf("\"");
}

/* Answers if there is such a tape. TAP-R6. */
static void make_seeded_tape(const struct value *input) {
    seeded_tape(input, "test");
    printf(OUTPUT "null");
}

/* Answers if there is such a tape. TAP-R7. */
static void make_listed_tape(const struct value *input) {
    listed_tape(input, "words", "test");
    printf(OUTPUT "null");
}

/* Answers with elements of a field. TAP-R3, TAP-R4, TAP-R5. */
static void elements(const struct value *input) {
    struct tape tape = tape_field(input, domain_field(input));
    uint64_t modulus = modulus_field(input);
    int64_t count = count_field(input, "count", INTEGER_LIMIT);
    uint64_t *cell = field_elements(tape, place_of(input, "start"), count, modulus);
    answer_elements((struct matrix){1, (size_t)count, cell}, modulus);
}

/* Answers with a noise. NMX-R7. */
static void make_noise(const struct value *input) {
    struct noise noise = noise_of(input, field(input, "two_sided", "tf")->kind == 't');
    printf(OUTPUT "{\"kind\": \"%s\", \"alpha\": \"%" PRId64 "/%" PRId64 "\"}",
           noise.two_sided ? "two-sided" : "geometric", noise.numerator, noise.denominator);
}

/* Answers with the noise of a candidate. NMX-R1, NMX-R2. */
static void take_sample(const struct value *input) {
    printf(OUTPUT "%" PRId64,
           sample(noise_field(input), tape_field(input, "nmx.noise"), integer_field(input, "token"),
                  integer_field(input, "candidate"), integer_field(input, "document")));
}

/* Answers with the index of the winner. NMX-R3, NMX-R4, NMX-R5, NMX-R6. */
static void select_winner(const struct value *input) {
    struct matrix scores = row_of(field(input, "scores", "["));
    struct noise noise = noise_field(input);
    struct tape tape = tape_field(input, "nmx.noise");
    int64_t token = integer_field(input, "token"), document = integer_field(input, "document");
    refuse_unless(scores.columns > 0, "SCORES_EMPTY");
    bool few = scores.columns <= (size_t)CANDIDATE_LIMIT;
    refuse_unless(few && within(scores, SCORE_LIMIT), "SCORE_OUT_OF_RANGE");
    int64_t largest = INT64_MIN;
    size_t winner = scores.columns;
    for (size_t i = 0; i < scores.columns; i++) {
        int64_t sum = (int64_t)scores.cell[i] + sample(noise, tape, token, (int64_t)i, document);
        if (sum > largest) {
            largest = sum;
            winner = i;
        }
    }
    printf(OUTPUT "{\"index\": %zu}", winner);
}

static void describe(const struct value *input);

static const struct operation {
    const char *name;
    size_t fields;
    void (*respond)(const struct value *input);
} OPERATIONS[] = {
    {"describe", 0, describe}, {"word", 4, word},          {"seeded_tape", 1, make_seeded_tape},
    {"noise", 2, make_noise},  {"sample", 5, take_sample}, {"listed_tape", 1, make_listed_tape},
    {"pad", 6, pad},           {"burn", 1, burn},          {"select", 5, select_winner},
    {"ratchet", 1, ratchet},   {"mask", 3, mask},          {"field_elements", 6, elements},
    {"multiply", 3, multiply}, {"unmask", 3, unmask},      {"choose_modulus", 1, choose_modulus},
};

/* Answers with what this program claims. */
static void describe(const struct value *input) {
    (void)input;
    printf(OUTPUT "{\"name\": \"veil-c\", \"version\": \"1\", \"spec_version\": \"" VERSION "\"");
    printf(", \"operations\": [");
    for (size_t i = 1; i < COUNT(OPERATIONS); i++)
        printf("%s\"%s\"", i == 1 ? "" : ", ", OPERATIONS[i].name);
    printf("]}");
}

/* Returns the operation of a request. */
static const struct operation *operation_field(const struct value *request) {
    const char *name = text_field(request, "operation");
    size_t i = 0;
    while (i < COUNT(OPERATIONS) && strcmp(OPERATIONS[i].name, name) != 0)
        i++;
    require(i < COUNT(OPERATIONS), name, "an operation that describe names");
    return &OPERATIONS[i];
}

/* Answers the lines of standard input, and returns status 0. */
int main(void) {
    for (const struct value *request; (request = next_request()) != NULL; give_back(NULL)) {
        const struct operation *operation = operation_field(request);
        const struct value *input = object_of(field(request, "input", "{"), operation->fields);
        int64_t id = integer_field(request, "id");
        if (setjmp(refused) == 0)
            operation->respond(input);
        printf(", \"id\": %" PRId64 "}\n", id);
        require(fflush(stdout) == 0, "standard output", "open");
    }
    return 0;
}
